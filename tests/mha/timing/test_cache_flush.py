"""How large caches are, and that emptying them goes over twice as much."""

from types import SimpleNamespace

import pytest
import torch

from mha.timing import cache_flush as caches
from mha.timing.cache_flush import UNKNOWN, cache_bytes, emptying


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """Where Linux would say what caches there are."""
    monkeypatch.setattr(caches, "CPU", tmp_path)
    return tmp_path


def test_a_cpus_largest_cache_counts(cpu):
    for index, size in enumerate(["32K", "32K", "1024K", "33792K"]):
        (cpu / f"index{index}").mkdir()
        (cpu / f"index{index}" / "size").write_text(f"{size}\n")
    assert cache_bytes("cpu") == 33 * 1024 * 1024


def test_where_nothing_is_said_it_is_64_mib(cpu):
    assert list(cpu.iterdir()) == []
    assert cache_bytes() == UNKNOWN == 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (SimpleNamespace(get_device_properties=lambda device: SimpleNamespace(L2_cache_size=device.index)), 7),
        (SimpleNamespace(get_device_properties=lambda _device: SimpleNamespace()), UNKNOWN),
        (SimpleNamespace(), UNKNOWN),
    ],
    ids=["says", "does not say", "has no properties"],
)
def test_an_accelerators_l2_counts(monkeypatch, module, expected):
    monkeypatch.setattr(torch, "get_device_module", lambda _device: module)
    assert cache_bytes("cuda:7") == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_says_its_l2():
    assert 1 << 20 < cache_bytes("cuda") < 1 << 30


def test_twice_as_much_is_read_and_written(monkeypatch):
    monkeypatch.setattr(caches, "cache_bytes", lambda _device: 13)
    empty = emptying("cpu")
    assert [(buffer.tolist(), buffer.dtype) for buffer in (empty(), empty())] == [([2] * 26, torch.uint8)] * 2
