"""The bare attention layer: which sizes, plans and conditions it is timed at, by preset."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import torch

import mha
from bench.models.peers import Inputs
from bench.rundir.description import USUAL, VALUES
from bench.settings.options import RunSettings

COPIES = 4  # inputs that calls take turns with, unless they are large
LARGE = 2**26  # numbers in the inputs of a case


@dataclass(frozen=True)
class LayerCase:
    """What one case of the bare layer is: the layer, the heads that stay, the input, and where and how it runs.

    Attributes:
        batch, length: batch size, and tokens of each sequence with its padding.
        keep: share of the heads that stays, the first ones.
        mask: "none", "causal", or "padded", where about half of all tokens are padding.
    """

    heads: int
    batch: int
    length: int
    device: str
    dtype: str = USUAL["dtype"]
    head_dim: int = 64
    keep: float = 1.0
    mask: str = USUAL["mask"]
    mode: str = USUAL["mode"]
    cache: str = USUAL["cache"]

    @property
    def width(self) -> int:
        """The model width e: heads · head_dim."""
        return self.heads * self.head_dim

    @property
    def kept(self) -> range:
        """The heads that stay: the first keep · heads, rounded, at least one."""
        return range(max(round(self.keep * self.heads), 1))

    @property
    def id(self) -> str:
        """The name of the case, in pytest and in the run directory, with every setting that is not the usual one."""
        usual = {field.name: field.default for field in fields(self)}
        texts = {
            "head_dim": f"d{self.head_dim}",
            "keep": f"keep{self.keep:g}",
            "mask": self.mask,
            "dtype": self.dtype,
            "mode": self.mode,
            "cache": self.cache,
        }
        unusual = [text for name, text in texts.items() if getattr(self, name) != usual[name]]
        parts = [f"attention-h{self.heads}", f"b{self.batch}-s{self.length}", *unusual, self.device.replace(":", "")]
        return "-".join(parts)

    def record(self) -> dict[str, Any]:
        """Field of the case's record in `cases/` -> value, for what is known before the case is measured."""
        case = {"case": self.id, "kind": "attention", "task": "attention", "timed_by": self.id}
        heads = {"heads_kept": len(self.kept), "heads_total": self.heads, "shape": [len(self.kept)]}
        where = {"batch": self.batch, "seq_len": self.length, "device": self.device}
        how = {name: value for name, value in vars(self).items() if name in USUAL}
        return {
            **case,
            "kept_fraction": self.keep,
            **heads,
            **where,
            **how,
            "width": self.width,
            "head_dim": self.head_dim,
            "tokens": self.tokens,
        }

    @property
    def lengths(self) -> torch.Tensor | None:
        """The lengths (b,) of a padded batch, evenly from 1 to `length`, in mixed order; None without padding."""
        if self.mask != "padded":
            return None
        evenly = torch.linspace(self.length, 0, self.batch).round().long().clamp(min=1)
        return evenly[torch.randperm(self.batch, generator=torch.Generator().manual_seed(2))]

    @property
    def tokens(self) -> int:
        """How many tokens of all sequences together are no padding."""
        return self.batch * self.length if self.lengths is None else int(self.lengths.sum())

    def layer(self) -> mha.MultiHeadAttention:
        """The layer with all of its heads, in eval mode, on the case's device, with the same weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layer = mha.MultiHeadAttention.square(self.width, self.heads, bias=True, head_dim=self.head_dim)
        return layer.eval().to(self.device, getattr(torch, self.dtype))

    def inputs(self) -> list[Inputs]:
        """Four inputs (only one where four are large) of standard normal numbers (b, s, e), the same every time.

        A large one is drawn on the case's device, and differs between kinds of devices.
        """
        generator = torch.Generator().manual_seed(1)
        shape = self.batch, self.length, self.width
        copies = COPIES if COPIES * self.batch * self.length * self.width <= LARGE else 1
        lengths = None if self.lengths is None else self.lengths.to(self.device)
        if copies == 1:  # drawn where they are needed: on the CPU that takes seconds
            generator = torch.Generator(self.device).manual_seed(1)
        xs = [
            torch.randn(shape, generator=generator, device=generator.device).to(self.device, getattr(torch, self.dtype))
            for _ in range(copies)
        ]
        return [Inputs(x, lengths, causal=self.mask == "causal") for x in xs]


@dataclass(frozen=True)
class Grid:
    """The (batch, length) pairs of a preset, unless the command line gives others.

    Attributes:
        heads: how many the layer has.
        whole, padded, causal: where the whole layer is timed: without a mask, with padding, with a causal mask.
        sliced: where the layer with some heads cut out is timed.
        few: where widths of heads, modes and caches other than the usual are measured: not everywhere, or a run
            would take days.
        head_dims, caches: the widths of heads, and the states of caches, that are measured.
    """

    heads: int
    whole: tuple[tuple[int, int], ...]  # beside the peers
    padded: tuple[tuple[int, int], ...]
    sliced: tuple[tuple[int, int], ...]
    causal: tuple[tuple[int, int], ...] = ()
    few: tuple[tuple[int, int], ...] = ()
    head_dims: tuple[int, ...] = (64,)
    caches: tuple[str, ...] = (USUAL["cache"],)


QUICK = Grid(8, ((1, 64),), ((8, 32),), ((1, 64),), few=((1, 64),))
DEFAULT = Grid(12, tuple(product((1, 4), (16, 128, 512))), ((32, 128),), ((1, 256), (4, 256)), few=((1, 16), (4, 128)))
FULL = Grid(
    12,
    tuple(product((1, 4, 16, 64), (16, 128, 1024))),
    ((64, 16), (8, 128), (32, 128), (8, 512)),
    ((1, 16), (1, 128), (1, 512), (8, 128), (8, 512)),
    ((4, 128), (4, 512)),
    ((1, 16), (4, 128)),
    (32, 64, 128),
    VALUES["cache"],
)
ACCELERATOR = Grid(
    12,
    tuple(product((1, 8, 64), (128, 1024, 4096))),
    ((16, 512), (64, 512), (16, 2048)),
    tuple(product((1, 8, 64), (128, 1024, 4096))),
    ((8, 1024),),
    ((1, 128), (8, 1024)),
)
GRIDS = {"quick": QUICK, "default": DEFAULT, "full": FULL, "accelerator": ACCELERATOR}


def whole(settings: RunSettings) -> Iterator[LayerCase]:
    """Yield the cases of the layer with all heads: without a mask, padded, and with --full causal."""
    grid = GRIDS[settings.preset]
    for mask, sizes in (("none", grid.whole), ("padded", grid.padded), ("causal", grid.causal)):
        few = grid.few if mask == "none" else ()
        yield from (replace(case, mask=mask) for case in _cases(settings, sizes, few))


def sliced(settings: RunSettings) -> Iterator[LayerCase]:
    """Yield the cases of the layer at each kept fraction below 1, without a mask; with --full from cold caches, too."""
    grid, kept = GRIDS[settings.preset], [keep for keep in settings.keep if keep < 1]
    for case, keep in product([*_cases(settings, grid.sliced, grid.few, grid.caches)], kept):
        yield replace(case, keep=keep)


def _cases(
    settings: RunSettings,
    sizes: tuple[tuple[int, int], ...],
    few: tuple[tuple[int, int], ...],
    caches: tuple[str, ...] = (USUAL["cache"],),
) -> Iterator[LayerCase]:
    """Yield cases with all heads and no mask, on every device in every dtype.

    Args:
        sizes: (batch, length) pairs that are measured in the usual mode, head width and cache. Batch sizes and lengths
            of the command line replace those of both `sizes` and `few`.
        few: the pairs that are measured where just one of mode, head width and cache is not the usual one.
    """
    grid = GRIDS[settings.preset]
    if sizes and (settings.batch_sizes or settings.lengths):
        batches = settings.batch_sizes or sorted({batch for batch, _ in sizes})
        sizes = few = tuple(product(batches, settings.lengths or sorted({length for _, length in sizes})))
    for device in settings.devices:
        axes = settings.modes_on(device), settings.head_dims or grid.head_dims, caches
        for dtype, way in product(settings.dtypes_on(device), product(*axes)):
            unusual = sum(value != usual for value, usual in zip(way, map(_usual, axes), strict=True))
            mode, head_dim, cache = way
            for batch, length in {0: sizes, 1: few}.get(unusual, ()):
                yield LayerCase(grid.heads, batch, length, device, dtype, head_dim, mode=mode, cache=cache)


def _usual(values: Sequence[Any]) -> Any:
    """The usual one of the modes, head widths or caches that are measured: 64 if that is among them, else the first."""
    return 64 if 64 in values else values[0]
