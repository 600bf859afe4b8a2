"""The bare attention layer: ours beside `torch.nn.MultiheadAttention`, and ours sliced beside ours whole."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

import mha
from bench.latency import forward
from bench.options import Settings, settings_of
from bench.rundir import RunDirectory
from bench.sampling import sampled
from mha.timing import rotated

HEAD_DIM = 64
GRID = (8, 12), (1, 4), (64, 256)  # head counts, batch sizes, sequence lengths
QUICK_GRID = (8,), (1,), (64,)


@dataclass(frozen=True)
class Cell:
    """One size of the layer and its input; `keep` is the share of its heads that stays."""

    heads: int
    batch: int
    length: int
    device: str
    keep: float = 1.0

    @property
    def kept(self) -> int:
        return round(self.keep * self.heads)

    @property
    def id(self) -> str:
        heads = f"h{self.heads}" + (f"-keep{self.keep:g}" if self.keep < 1 else "")
        return f"attention-{heads}-b{self.batch}-s{self.length}-{self.device.replace(':', '')}"

    def record(self) -> dict[str, Any]:
        """Its columns in the run directory."""
        case = {"case": self.id, "kind": "attention", "task": "attention", "timed_by": self.id}
        heads = {"heads_kept": self.kept, "heads_total": self.heads, "shape": [self.kept]}
        where = {"batch": self.batch, "seq_len": self.length, "device": self.device, "dtype": "float32"}
        return {**case, "kept_fraction": self.keep, **heads, **where}

    def layer(self) -> mha.MultiHeadAttention:
        """The whole layer, heads of width 64, with the same weights every time."""
        width = self.heads * HEAD_DIM
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layer = mha.MultiHeadAttention(width, width, width, width, self.heads, bias=True)
        return layer.eval().to(self.device)

    def input(self) -> torch.Tensor:
        """(b, q, e), standard normal."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(self.batch, self.length, self.heads * HEAD_DIM, generator=generator).to(self.device)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = settings_of(metafunc.config)
    cells = _whole(settings) if metafunc.function is test_beside_torch else _sliced(settings)
    metafunc.parametrize("cell", list(cells), ids=lambda cell: cell.id)


def test_beside_torch(cell: Cell, settings: Settings, run: RunDirectory, request: pytest.FixtureRequest) -> None:
    """Ours and torch's, with the same weights and, first of all, the same output."""
    with run.case(**cell.record()) as record:
        ours, theirs, x = cell.layer(), _torch_layer(cell.layer()), cell.input()
        call, reference = forward(ours, (x, x, x)), forward(theirs, (x, x, x), {"need_weights": False})
        torch.testing.assert_close(call(), reference()[0], rtol=1e-4, atol=1e-5)
        record |= _timed(request, {"mha": call, "torch": reference}, cell, settings)


def test_sliced(cell: Cell, settings: Settings, run: RunDirectory, request: pytest.FixtureRequest) -> None:
    """Ours with some heads cut out, and whole."""
    with run.case(**cell.record()) as record:
        whole, x = cell.layer(), cell.input()
        sliced = mha.prune(whole, mha.HeadPlan({"": range(cell.kept)}))
        calls = {"pruned": forward(sliced, (x, x, x)), "dense": forward(whole, (x, x, x))}
        record |= _timed(request, calls, cell, settings)


def _whole(settings: Settings) -> Iterator[Cell]:
    heads, batch_sizes, lengths = _grid(settings)
    for device in settings.devices:
        for size in product(heads, settings.batch_sizes or batch_sizes, lengths):
            yield Cell(*size, device)


def _sliced(settings: Settings) -> Iterator[Cell]:
    """The run's kept fractions of the largest layer on the longest input."""
    heads, _, lengths = _grid(settings)
    for cell, keep in product(_whole(settings), settings.keep):
        if keep < 1 and (cell.heads, cell.length) == (max(heads), max(lengths)):
            yield replace(cell, keep=keep)


def _grid(settings: Settings) -> tuple[tuple[int, ...], ...]:
    return QUICK_GRID if settings.quick else GRID


def _timed(
    request: pytest.FixtureRequest, calls: dict[str, Callable[[], Any]], cell: Cell, settings: Settings
) -> dict[str, Any]:
    """What the case has measured; its first arm is what the others are compared with."""
    arms = {name: rotated([call]) for name, call in calls.items()}
    target, facts = next(iter(arms)), cell.record()
    return sampled(request, arms, target=target, device=cell.device, limits=settings.limits, facts=facts)._asdict()


def _torch_layer(layer: mha.MultiHeadAttention) -> nn.MultiheadAttention:
    """torch's layer with our weights."""
    width = layer.W_o.out_features
    theirs = nn.MultiheadAttention(width, layer.num_heads, batch_first=True)
    projections = (layer.W_q, layer.W_k, layer.W_v)
    state = {
        "in_proj_weight": torch.cat([projection.weight for projection in projections]),
        "in_proj_bias": torch.cat([projection.bias for projection in projections]),
        "out_proj.weight": layer.W_o.weight,
        "out_proj.bias": layer.W_o.bias,
    }
    theirs.load_state_dict(state)
    return theirs.eval().to(layer.W_o.weight.device)
