"""Peak memory: allocations of a known size are seen, and what goes wrong in the other process is said."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import mha
from bench.measure import memory
from bench.measure.memory import _Packed, _packed, _unpacked, peak_bytes, weight_bytes, with_peak

MIB = 1 << 20
X = torch.zeros(3)
on_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux's /proc says it")


class Allocating(nn.Module):
    """Holds so many floats twice at a time, then some that are less."""

    def __init__(self, floats):
        super().__init__()
        self.floats = floats
        self.weight = nn.Parameter(torch.zeros(1000))

    def forward(self, x):
        first = torch.ones(self.floats)
        total = x.sum() + (first + 1).sum()
        del first
        return total + torch.ones(self.floats // 2).sum()


class Dying(nn.Module):
    def forward(self, x, how):
        if isinstance(how, int):
            os.kill(os.getpid(), how)
        raise ValueError(f"no more of {how} for {x.tolist()}")


@on_linux
def test_an_allocation_is_seen_to_a_few_percent():
    for mib in (8, 64):
        expected = 2 * mib * MIB + 4000
        assert peak_bytes(Allocating(mib * MIB // 4), (X,), {}, "cpu") == pytest.approx(expected, rel=0.04, abs=MIB / 2)


@on_linux
def test_work_in_this_process_has_its_peak_and_its_result():
    small, none = with_peak(lambda: torch.ones(3).sum().item())
    large, peak = with_peak(lambda: (torch.ones(64 * MIB // 4).sum() + 0).item())
    assert (small, large) == (3, 64 * MIB // 4)
    assert none < 4 * MIB
    assert peak == pytest.approx(64 * MIB, rel=0.1)


def test_work_is_done_where_the_system_says_nothing_of_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    assert with_peak(lambda: 7) == (7, None)


@on_linux
def test_a_layer_holds_its_weights_and_its_activations():
    """At its worst queries, keys, values and what attention makes of them, of whole width or half of it."""
    whole = mha.MultiHeadAttention.square(256, 8, bias=True, head_dim=32).eval()
    x = torch.randn(8, 512, 256)
    half = mha.prune(whole, mha.HeadPlan({"": range(4)}))
    peaks = {layer: peak_bytes(layer, (x, x, x), {}, "cpu") - weight_bytes(layer) for layer in (whole, half)}
    assert 4 * x.nbytes < peaks[whole] < 6 * x.nbytes
    assert 0.4 < peaks[half] / peaks[whole] < 0.75


def test_weights_that_are_shared_count_once():
    model = nn.Sequential(nn.Linear(7, 7), nn.Linear(7, 7), nn.BatchNorm1d(7))
    model[1].weight = model[0].weight
    assert weight_bytes(model) == 4 * (49 + 7 + 7 + 7 + 7 + 7 + 7) + 8  # and the number of batches


def test_all_arrives_as_it_was_sent():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)).to(torch.bfloat16)
    model[1].weight = model[0].weight
    model.register_buffer("passing", torch.tensor(7), persistent=False)
    x = torch.randn(2, 3, 5).transpose(1, 2)
    args, kwargs = (x, (x, "word")), {"none": None, "empty": torch.zeros(0, 2), "mask": [torch.tensor([True, False])]}
    skeleton, slots, packed = _packed((model, args, kwargs))
    assert {type(one) for one in packed} == {_Packed}
    assert len(slots) == len(packed) == 5 + 4 + 3  # parameters, buffers and inputs, each once
    other, (y, (same, word)), named = _unpacked((skeleton, slots, packed))
    torch.testing.assert_close(other.state_dict(), model.state_dict())
    assert other[1].weight is other[0].weight
    assert isinstance(other[0].weight, nn.Parameter)
    assert other.passing.item() == 7
    torch.testing.assert_close(y, x)
    assert (same is y, word) == (True, "word")
    torch.testing.assert_close(named, kwargs)
    assert model[0].weight.dtype == torch.bfloat16  # the model itself is left alone
    assert not model[0].weight.is_shared()


@on_linux
def test_a_process_that_is_killed_is_an_error():
    message = r"Dying was called in a fresh process .* ended with code -9 \(-9: killed\), .* give a smaller batch"
    with pytest.raises(MemoryError, match=message):
        peak_bytes(Dying(), (X, int(signal.SIGKILL)), {}, "cpu")
    assert multiprocessing.active_children() == []


@on_linux
def test_what_the_call_raises_is_told():
    with pytest.raises(RuntimeError, match=r"(?s)Dying, called .*Traceback.*ValueError: no more of bytes for \[0.0"):
        peak_bytes(Dying(), (X,), {"how": "bytes"}, "cpu")
    assert multiprocessing.active_children() == []


@on_linux
def test_a_model_that_cannot_travel_is_named():
    model = nn.Linear(3, 3)
    model.hook = lambda: None
    with pytest.raises(
        RuntimeError, match=r"Linear can't be sent to a fresh process .*lambda.*classes must be importable"
    ):
        peak_bytes(model, (X,), {}, "cpu")
    assert multiprocessing.active_children() == []


@on_linux
def test_classes_from_a_file_are_found(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("import torch\n\nclass Own(torch.nn.Module):\n    def forward(self, x):\n        return x * 2\n")
    memory._import("bench_task_own", str(path))
    try:
        assert peak_bytes(sys.modules["bench_task_own"].Own(), (torch.zeros(2 * MIB),), {}, "cpu") == pytest.approx(
            8 * MIB, rel=0.04, abs=MIB / 2
        )
    finally:
        del sys.modules["bench_task_own"]


@pytest.mark.parametrize("lacks", ["clear_refs", "VmHWM"])
def test_where_the_system_does_not_say_there_is_none(monkeypatch, tmp_path, lacks):
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    for name, text in {"clear_refs": "", "status": "VmRSS: 5 kB\n"}.items():
        if name != lacks:
            (tmp_path / name).write_text(text)
    assert peak_bytes(Allocating(10), (X,), {}, "cpu") is None


@pytest.fixture
def allocator(monkeypatch):
    """As if a device's allocator held 1000 bytes, and during a call up to 700 more."""
    log = []
    fakes = {
        "synchronize": lambda _device: log.append("wait"),
        "memory_stats": lambda _device: {"allocated_bytes.all.peak": 5000},
        "reset_peak_memory_stats": lambda _device: log.append("reset"),
        "memory_allocated": lambda _device: 1000,
        "max_memory_allocated": lambda _device: 1700 if log[-3:] == ["reset", "call", "wait"] else 5000,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.accelerator, name, fake)
    return log


class Logged(nn.Linear):
    def forward(self, log):
        log.append("call")


def test_an_accelerators_allocator_says_it(allocator):
    assert peak_bytes(Logged(3, 5), (allocator,), {}, "cuda") == 700 + 4 * (15 + 5)
    assert allocator == ["call", "wait", "reset", "call", "wait"]


def _refused(_device):
    raise RuntimeError("the allocator keeps no statistics")


@pytest.mark.parametrize("stats", [lambda _device: {}, _refused], ids=["nothing", "refused"])
def test_an_allocator_that_keeps_no_peak_has_none(allocator, monkeypatch, stats):
    monkeypatch.setattr(torch.accelerator, "memory_stats", stats)
    assert peak_bytes(Logged(3, 5), (allocator,), {}, "mps") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_sees_an_allocation():
    class OnDevice(nn.Module):
        def forward(self, x):
            return (x + 1).sum()

    x = torch.zeros(16 * MIB, device="cuda")
    assert peak_bytes(OnDevice(), (x,), {}, "cuda") == pytest.approx(64 * MIB, rel=0.01)
