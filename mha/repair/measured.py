"""What is lost without some of a layer's heads, measured: the model runs with the layer's projection solved again.

The closed form (`mha.importance.running.removal`) knows the order of heads within a layer well, and the scale of a
layer badly: tokens are not independent, and what a first layer does to them is not of second order. A few numbers of
heads in each layer are measured, and the rest of the layer's choices follow these.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mha.families import AttentionLayer, find_attention
from mha.families.base.linears import is_conv1d
from mha.importance.running.record import NotReplayableError
from mha.importance.running.replay import Replay
from mha.pruning.masking import eval_mode
from mha.repair.observe import calling_outputs
from mha.runtime.progress import Bar
from mha.runtime.sharing_copy import sharing_copy

Measure = Callable[[nn.Module, Any], float]  # (model, judged batch) -> what is to stay low
CLOSE = 1e-6  # how far a replayed measure may be from the one before, relative to it
CHECKED = 3  # layers, from the first to the last, whose replay of a first batch is compared with the whole pass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """An output projection in place of a layer's own: weight (o, k), and bias (o,) or None."""

    weight: Tensor
    bias: Tensor | None


def rises(
    model: nn.Module, changes: Mapping[str, Sequence[Change]], measure: Measure, judged: Iterable[Any], bar: Bar
) -> dict[str, list[float]]:
    """Layer -> for each of its changes by how much the measure rises when the layer has it; the mean over batches.

    What precedes the layer's projection is not computed again where the model can be replayed. What runs is a copy that
    shares the model's weights.

    Args:
        changes: layer -> projections to be tried in its place.
        measure: (model, judged batch) -> what is to stay low.
    """
    model = sharing_copy(model)
    layers = find_attention(model)
    sums = {name: [0.0] * len(tried) for name, tried in changes.items()}
    count = 0
    with torch.no_grad(), eval_mode(model), calling_outputs(layers):
        judge = _Judge(model, {name: layers[name] for name in changes}, changes, measure, bar)
        for batch in judged:
            for name, values in judge.rises(batch, checked=not count).items():
                sums[name] = [total + value for total, value in zip(sums[name], values, strict=True)]
            count += 1
    return {name: [total / max(count, 1) for total in totals] for name, totals in sums.items()}


class _Judge:
    """Measures the model with each of the changes in turn."""

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, AttentionLayer],
        changes: Mapping[str, Sequence[Change]],
        measure: Measure,
        bar: Bar,
    ) -> None:
        self._model, self._layers, self._changes, self._measure, self._bar = model, layers, changes, measure, bar

    def rises(self, batch: Any, *, checked: bool) -> dict[str, list[float]]:
        """Layer -> by how much the measure rises on this batch by each change; nothing of layers that do not run.

        Args:
            checked: whether the replays of some layers are compared with a whole pass.
        """
        try:
            return self._replayed(batch, checked)
        except NotReplayableError as error:
            logger.info("each change's pass is made as a whole: %s", error)
        present = self._measure(self._model, batch)
        return {name: [value - present for value in self._of_layer(name, batch)] for name in self._changes}

    def _replayed(self, batch: Any, checked: bool) -> dict[str, list[float]]:
        """What `rises` returns, but each change's pass is replayed from its layer's output projection on.

        Raises:
            NotReplayableError: a replay does not give what a whole pass gives.
        """
        found = {}
        names = list(self._layers)
        compared = {names[place] for place in np.linspace(0, len(names) - 1, CHECKED, dtype=int)} if names else set()
        replay = Replay(self._model, [layer.output for layer in self._layers.values()])
        with replay.watching():
            with replay.recording():
                present = self._measure(self._model, batch)
            for name, layer in self._layers.items():
                if layer.output not in replay.record.starts:  # it does not run on this batch
                    continue
                found[name] = [value - present for value in self._of_layer(name, batch, replay)]
                if checked and name in compared:
                    with replay.starting_at(layer.output):
                        again = self._measure(self._model, batch)
                    if not math.isclose(again, present, rel_tol=CLOSE, abs_tol=1e-12):
                        raise NotReplayableError(f"{again!r} where it was {present!r}, replayed from {name!r} on")
        return found

    def _of_layer(self, name: str, batch: Any, replay: Replay | None = None) -> list[float]:
        """The measure on this batch with each of the layer's changes in turn.

        Args:
            replay: the recorded pass, replayed from the layer's output projection on; None runs the whole model.
        """
        output = self._layers[name].output
        values = []
        for change in self._changes[name]:
            with _holding(output, change):
                if replay is None:
                    values.append(self._measure(self._model, batch))
                else:
                    with replay.starting_at(output):
                        values.append(self._measure(self._model, batch))
            self._bar.advance(0.5)
        return values


@contextmanager
def _holding(linear: nn.Module, change: Change) -> Iterator[None]:
    """Within the context the linear layer has the weight and bias of the change, in new parameters.

    At the end it has its former parameters again.
    """
    values = {"weight": change.weight.T if is_conv1d(linear) else change.weight}
    if change.bias is not None:
        values["bias"] = change.bias
    before = {name: linear.get_parameter(name) for name in values}
    try:
        for name, value in values.items():
            linear._parameters[name] = nn.Parameter(torch.empty_like(before[name]).copy_(value), requires_grad=False)
        yield
    finally:
        linear._parameters.update(before)
