"""What the gate times: attention dense and pruned, made with the `mha` of the checkout that the process runs in.

An older `mha` must be able to do it, too: only stable public names are used here. A workload that the base's can't make
counts as new.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import mha
from bench.regress.device import DEVICE, wait

HEADS, HEAD_DIM = 8, 64
WIDTH = HEADS * HEAD_DIM
HALF = HEADS // 2
LENGTHS = (64, 3, 40, 17, 60, 8, 33, 25)  # of a padded batch


class Workload(NamedTuple):
    """A model in evaluation mode, and the arguments of one call of it, on the device `DEVICE`."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def call(self) -> Any:
        """Call the model with its arguments, wait until the device is done, and return the output."""
        output = self.model(*self.args, **self.kwargs)
        wait()
        return output


class Masked(nn.Module):
    """A layer that at each call switches off the heads the plan does not keep, as criteria do to try heads out."""

    def __init__(self, layer: nn.Module, plan: mha.HeadPlan) -> None:
        super().__init__()
        self.layer, self.plan = layer, plan

    def forward(self, x: Tensor) -> Tensor:
        with mha.masked(self.layer, self.plan):
            return self.layer(x, x, x)


def layer(batch: int, length: int, kept: int = HEADS, num_kv_heads: int | None = None, **how: Any) -> Workload:
    """Self-attention of width WIDTH with eight heads, pruned to the first `kept`, and a batch (batch, length, WIDTH).

    `how` are keyword arguments of the layer's call.
    """
    with seeded():
        whole = mha.MultiHeadAttention(*(WIDTH,) * 4, HEADS, bias=True, num_kv_heads=num_kv_heads).eval().to(DEVICE)
    model = whole if kept == HEADS else mha.prune(whole, mha.HeadPlan({"": range(kept)}))
    x = inputs(batch, length, WIDTH)
    return Workload(model, (x, x, x), how)


def padded() -> Workload:
    """The dense layer on a padded batch, half of which is padding, for which nothing is computed."""
    lengths = torch.tensor(LENGTHS, device=DEVICE)
    return layer(len(LENGTHS), max(LENGTHS), valid_lens=lengths, query_lens=lengths)


def masked() -> Workload:
    """A layer with half of its heads switched off by a mask at each call, but not pruned, on a batch of 4 × 64."""
    whole = layer(4, 64)
    return Workload(Masked(whole.model, mha.HeadPlan({"": range(HALF)})).eval(), whole.args[:1], {})


def torch_layer() -> Workload:
    """`torch.nn.MultiheadAttention` pruned to half of its heads, on a batch of 4 × 64, without attention weights."""
    with seeded():
        whole = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval().to(DEVICE)
    x = inputs(4, 64, WIDTH)
    return Workload(mha.prune(whole, mha.HeadPlan({"": range(HALF)})), (x, x, x), {"need_weights": False})


def encoder() -> Workload:
    """A `torch.nn.TransformerEncoder` of three layers, pruned to five heads, none and two, on a batch of 4 × 64."""
    with seeded():
        block = nn.TransformerEncoderLayer(256, HEADS, 512, batch_first=True, norm_first=True)
        whole = nn.TransformerEncoder(block, 3, enable_nested_tensor=False).eval().to(DEVICE)
    keep = {"layers.0.self_attn": range(5), "layers.1.self_attn": (), "layers.2.self_attn": (0, 7)}
    return Workload(mha.prune(whole, mha.HeadPlan(keep)), (inputs(4, 64, 256),), {})


def inputs(batch: int, length: int, width: int) -> Tensor:
    """Standard normal numbers (b, s, e) on the device `DEVICE`, the same every time."""
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(1)).to(DEVICE)


@contextmanager
def seeded() -> Iterator[None]:
    """Within the context random numbers of the CPU are the same every time; afterwards their state is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


WORKLOADS: Mapping[str, Callable[[], Workload]] = {
    "dense-1x16": lambda: layer(1, 16),
    "half-1x16": lambda: layer(1, 16, HALF),
    "dense-4x64": lambda: layer(4, 64),
    "half-4x64": lambda: layer(4, 64, HALF),
    "dense-1x256": lambda: layer(1, 256),
    "half-1x256": lambda: layer(1, 256, HALF),
    "causal-1x256": lambda: layer(1, 256, is_causal=True),
    "weights-4x64": lambda: layer(4, 64, need_weights=True),
    "grouped-4x64": lambda: layer(4, 64, num_kv_heads=2),
    "padded-8x64": padded,
    "masked-4x64": masked,
    "torch-half-4x64": torch_layer,
    "encoder-pruned-4x64": encoder,
}
