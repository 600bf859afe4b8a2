"""Attention weights of any family, seen where they are computed.

While a layer runs, a `TorchFunctionMode` watches torch's own functions. Implementations that compute the weights do
so by a softmax over (b, h, q, k), which is seen; those that don't call `scaled_dot_product_attention`, from whose
arguments the weights are computed again, a few queries at a time. A layer that does neither, exactly once each time it
runs, is refused by name: other kernels (flash, flex) never have the weights.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mha.families import AttentionLayer
from mha.importance.running.batch import CalibrationBatch
from mha.importance.running.calibration import Calibration, Sums, added
from mha.runtime.undoing import hooked
from mha.values.errors import CalibrationError

CHUNK = 1 << 22  # weights held at once
FAR = 1e3  # a score so far below its row's largest has weight 0 in any precision: its key is masked
BLIND = -5e3  # a row whose largest score is below sees no key at all
OTHERS = ("key_value_states", "encoder_hidden_states", "cross_attention_states", "kv")  # arguments of cross-attention

SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}
Row = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LayerRun:
    """One run of a layer: its scores before the softmax, and what is special about its keys.

    Attributes:
        layer: the name of the layer.
        chunks: the scores (b, h, some queries, k), in the order of the queries.
        is_self: whether key i and query i come from the same token, for all queries (self-attention).
        extra: how many keys after those of the input the module adds of its own, such as `bias_k`.
        sink: whether the last column of the scores is an attention sink: no key, but it takes part in the softmax.
    """

    layer: str
    chunks: Iterator[Tensor]
    is_self: bool
    extra: int
    sink: bool


class RowStatistic:
    """A number computed from each row of attention weights (those of one query), summed over an example's rows.

    Rows that see no key don't count. In self-attention, rows of tokens that no row sees don't either: they are padding.

    Args:
        row: weights (…, k) and which keys are visible (…, k) -> value (…) and whether the row counts (…).

    Attributes:
        total, count: layer -> (b, h), the sum over rows that count, and how many there are.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self.total: dict[str, Tensor] = {}
        self.count: dict[str, Tensor] = {}

    def add(self, run: LayerRun) -> None:
        """Add the rows of one run of a layer to the sums.

        Raises:
            CalibrationError: the layer ran before in the same batch, on another number of examples.
        """
        rows = [self._rows(scores, run.sink) for scores in run.chunks]
        value, counted = (torch.cat([row[index] for row in rows], dim=2) for index in (0, 1))
        keys = torch.stack([row[2] for row in rows]).any(dim=0)
        if run.is_self and keys.shape[1] == value.shape[2] + run.extra:
            counted = counted & keys[:, None, : value.shape[2]]
        total, count = value.masked_fill(~counted, 0.0).sum(dim=2), counted.sum(dim=2)
        if run.layer in self.total:
            if self.total[run.layer].shape != total.shape:
                raise CalibrationError(
                    f"layer {run.layer!r}: runs on {len(self.total[run.layer])} and on {len(total)} examples within "
                    "one batch; use a criterion that needs no attention weights"
                )
            total, count = total + self.total[run.layer], count + self.count[run.layer]
        self.total[run.layer], self.count[run.layer] = total, count

    def _rows(self, scores: Tensor, sink: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's value and whether it counts, (b, h, queries) both; and which keys any row sees, (b, k)."""
        if not scores.numel():
            nothing = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
            return (
                scores.sum(dim=-1),
                nothing.any(dim=-1),
                nothing[..., : scores.shape[-1] - sink].any(dim=2).any(dim=1),
            )
        largest = scores.amax(dim=-1, keepdim=True)
        sighted = largest > BLIND
        visible = (scores > largest - FAR) & sighted
        weights = scores.masked_fill(~visible, float("-inf")).masked_fill(~sighted, 0.0).softmax(dim=-1)
        if sink:
            weights, visible = weights[..., :-1], visible[..., :-1]
        value, counted = self._row(weights, visible)
        return value, counted & visible.any(dim=-1), visible.any(dim=2).any(dim=1)


def mean_over_rows(calibration: Calibration, row: Row) -> tuple[dict[str, Tensor], int | None]:
    """Layer name -> (h,), the mean over examples of their means over rows; and how many examples there are.

    A layer that never runs scores 0. The number of examples is None if some example has no row that counts.

    Args:
        row: the number that is computed from each row of attention weights, as `RowStatistic` takes it.

    Raises:
        CalibrationError: a layer's weights can't be seen, or none of its rows counts.
    """
    calibration.expect(1)
    sums = calibration.summed(_RowSums(row))
    if blind := [name for name in calibration.layers if name in sums.weight and not sums.weight[name].all()]:
        raise CalibrationError(
            f"layers {blind}: no row of their attention weights counts; are all keys masked, or all sequences of "
            "length 1?"
        )
    means = calibration.zeros()
    for name, total in sums.total.items():
        means[name] = total / sums.weight[name].where(sums.weight[name] > 0, 1.0)
    return means, sums.examples if sums.complete else None


@dataclass
class _RowSums(Sums):
    """The sums over examples of a number's mean over their rows.

    Attributes:
        row: as in `mean_over_rows`.
        total, weight: layer that ran -> (h,), the sum, and over how many examples it is, those of which no row counts
            left out.
        examples: how many there are.
        complete: whether all examples have a row that counts.
    """

    row: Row
    total: dict[str, Tensor] = field(default_factory=dict)
    weight: dict[str, Tensor] = field(default_factory=dict)
    examples: int = 0
    complete: bool = True

    def add(self, calibration: Calibration, batch: CalibrationBatch) -> None:
        statistic = RowStatistic(self.row)
        with torch.no_grad(), watched(calibration.with_heads, statistic):
            examples = batch.loss().examples
        for name, count in statistic.count.items():
            means = (statistic.total[name] / count.clamp(min=1)).to("cpu", torch.float64)
            counts = (count > 0).cpu()
            share = examples / len(counts)  # less than 1 where an example is several rows of the context
            nothing = torch.zeros(means.shape[1:], dtype=torch.float64)
            self.total[name] = self.total.get(name, nothing) + means.sum(dim=0) * share
            self.weight[name] = self.weight.get(name, nothing) + counts.sum(dim=0) * share
            self.complete = self.complete and bool(counts.all())
        self.examples += examples

    def __add__(self, other: Self) -> Self:
        total, weight = added(self.total, other.total), added(self.weight, other.weight)
        examples, complete = self.examples + other.examples, self.complete and other.complete
        return replace(self, total=total, weight=weight, examples=examples, complete=complete)


@contextmanager
def watched(layers: Mapping[str, AttentionLayer], statistic: RowStatistic) -> Iterator[None]:
    """Within the context, every run of these layers adds to the statistic.

    Raises:
        CalibrationError: when a layer has run and its weights were not seen, or seen several times.
    """
    watch = _Watch(statistic)
    with ExitStack() as hooks:
        for layer in layers.values():
            hooks.enter_context(hooked(layer.module, watch.enter(layer), before=True, with_kwargs=True, prepend=True))
            hooks.enter_context(hooked(layer.module, watch.leave(layer)))
        hooks.enter_context(watch)
        yield


class _Watch(TorchFunctionMode):
    """Watches torch's functions while a layer runs, and sees its attention weights in a softmax or fused attention."""

    def __init__(self, statistic: RowStatistic) -> None:
        super().__init__()
        self._statistic = statistic
        self._layer: AttentionLayer | None = None
        self._is_self, self._extra, self._sink = True, 0, False
        self._times = 0

    def enter(self, layer: AttentionLayer) -> Callable[..., None]:
        """A hook that notes that the layer begins to run, and what is special about its keys (see `LayerRun`)."""

        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._layer, self._times = layer, 0
            self._is_self = _is_self(module, args, kwargs)
            self._extra = (getattr(module, "bias_k", None) is not None) + bool(getattr(module, "add_zero_attn", False))
            self._sink = any(name.rpartition(".")[2] == "sinks" for name in layer.description.tensors)

        return hook

    def leave(self, layer: AttentionLayer) -> Callable[..., None]:
        """A hook that notes that the layer has run.

        Raises:
            CalibrationError: (the hook) its weights were not seen exactly once.
        """

        def hook(*_: Any) -> None:
            self._layer = None
            if self._times != 1:
                raise CalibrationError(_not_seen(layer, self._times))

        return hook

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call one of torch's functions; if it computes the running layer's weights, add them to the statistic."""
        kwargs = dict(kwargs or {})
        if self._layer is not None and func is F.scaled_dot_product_attention:
            self._see(_fused(*args, **kwargs), sink=False)
        elif self._layer is not None and func in SOFTMAX:
            scores = _per_head(self._layer, *args, **kwargs)
            if scores is not None:
                self._see(iter([scores]), sink=self._sink)
        return func(*args, **kwargs)

    def _see(self, chunks: Iterator[Tensor], sink: bool) -> None:
        """Add the running layer's scores to the statistic if they are the first seen in this run; count the sighting.

        Args:
            chunks, sink: as in `LayerRun`.
        """
        assert self._layer is not None
        self._times += 1
        if self._times == 1:
            self._statistic.add(LayerRun(self._layer.name, chunks, self._is_self, self._extra, sink))


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,  # noqa: ARG001
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Iterator[Tensor]:
    """The scores that `scaled_dot_product_attention` computes from its arguments, in chunks (b, h, some queries, k)."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    b, h, queries, _ = query.shape
    keys = key.shape[2]
    mask = None if attn_mask is None else attn_mask.expand(b, h, queries, keys)
    rows = max(1, CHUNK // max(1, b * h * keys))
    for start in range(0, max(queries, 1), rows):
        chunk = slice(start, start + rows)
        scores = (query[:, :, chunk].float() if query.dtype.itemsize < 4 else query[:, :, chunk]) * factor
        scores = scores @ key.transpose(-2, -1).to(scores)
        if is_causal:
            ahead = torch.ones(queries, keys, dtype=torch.bool, device=query.device).triu(1)[chunk]
            scores = scores.masked_fill(ahead, float("-inf"))
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask[:, :, chunk], float("-inf"))
        elif mask is not None:
            scores = scores + mask[:, :, chunk]
        yield scores


def _per_head(layer: AttentionLayer, input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Tensor | None:
    """The scores (b, h, q, k) of which a softmax is taken over `dim`; None if it can't be the layer's attention."""
    heads = layer.num_heads
    if dim not in (-1, input.dim() - 1) or input.dim() not in (3, 4) or not input.is_floating_point():
        return None
    if input.dim() == 3:
        if not heads or input.shape[0] % heads:
            return None
        input = input.unflatten(0, (-1, heads))
    if input.shape[1] != heads:
        return None
    return input.float() if input.dtype.itemsize < 4 else input


def _is_self(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether, in a call of the module with these arguments, queries and keys come from the same input."""
    names = [*inspect.signature(module.forward).parameters]
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    query = arguments.get("query", arguments.get("queries"))
    key = arguments.get("key", arguments.get("keys"))
    if query is not None and key is not None:
        return query is key
    return all(arguments.get(name) is None for name in OTHERS)


def _not_seen(layer: AttentionLayer, times: int) -> str:
    """The error for a layer whose attention weights were seen this many times in one run, where once is expected."""
    kind = type(layer.module.get_submodule(layer.description.core)).__name__
    if times:
        return (
            f"layer {layer.name!r}: {kind} computes {times} softmaxes that may be its attention weights (b, h, q, k), "
            "and which one is can't be told; use a criterion that needs no attention weights"
        )
    return (
        f"layer {layer.name!r}: {kind} computed no attention weights that could be seen: neither a softmax over "
        "(b, h, q, k) nor scaled_dot_product_attention was called (a flash or flex kernel?); load the model with "
        'attn_implementation="eager" or "sdpa", or use a criterion that needs no attention weights'
    )
