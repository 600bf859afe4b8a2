"""How much worse a model gets without a head, once its layer's output projection is solved again for the others.

A head that the others of its layer can stand in for costs little, however large it is. What the repaired layer does to
the outputs is measured, not estimated.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer, find_attention
from mha.families.base.linears import is_conv1d, weight_of
from mha.importance.head_scores import head_scores
from mha.importance.running.record import NotReplayableError
from mha.importance.running.replay import Replay
from mha.pruning.masking import eval_mode
from mha.repair.least_squares import Moments, without
from mha.repair.observe import Forward, calling_outputs, moments_of
from mha.runtime.progress import WITH_GRADIENTS, Bar
from mha.runtime.sharing_copy import sharing_copy
from mha.values.layout import owners
from mha.values.plan import HeadScores

Measure = Callable[[nn.Module, Any], float]  # (model, batch) -> what is to stay low
CLOSE = 1e-6  # how far a replayed measure may be from the one before, relative to it

logger = logging.getLogger(__name__)


def resolved_scores(
    model: nn.Module,
    batches: Sequence[Any],
    forward: Forward,
    measure: Measure,
    judged: Sequence[Any],
    *,
    progress: bool | None = False,
) -> HeadScores:
    """For every head, how much the measure rises when it leaves and its layer's W_o and bias are solved again.

    The new projection is the one whose outputs come closest to the present ones on all batches. The model is then run
    with it: a pass over the judged batches for every head, from its layer's projection on. What runs is a copy that
    shares the model's weights, and in which single projections are exchanged.

    Args:
        batches: the batches that the projections are solved on.
        forward: (model, batch) runs the model and returns what matters of its output: tokens count as much as that
            depends on them.
        measure: (model, judged batch) -> what is to stay low.
        judged: the batches to measure on.
        progress: show a bar, as `mha.score` does.
    """
    model = sharing_copy(model)
    layers = find_attention(model)
    rows = {name: torch.zeros(layer.num_heads, dtype=torch.float64) for name, layer in layers.items()}
    names = {layer.output_name: name for name, layer in layers.items() if layer.num_heads}
    bar = Bar("score", progress)
    shares = {name: 1 - place / len(names) for place, name in enumerate(names.values())}  # of a run, replayed
    runs = sum(share * layers[name].num_heads for name, share in shares.items())
    bar.expect(WITH_GRADIENTS * len(batches) + len(judged) * runs)
    with eval_mode(model), calling_outputs(layers), bar.shown():
        moments = moments_of(model, list(names), batches, bar.counting(forward, WITH_GRADIENTS))
        ran = {names[output]: of_output for output, of_output in moments.items() if of_output.n > 0}
        judge = _Judge(model, layers, ran, measure, shares, bar)
        with torch.no_grad():
            for batch in judged:
                for name, rises in judge.rises(batch).items():
                    rows[name] += rises / len(judged)
    return head_scores(layers, rows)


class _Judge:
    """Measures the model without each head in turn, the output projection of its layer being solved again for it.

    Where the model can be replayed, what precedes the projection is not computed again.

    Args:
        moments: layer name -> the moments of its output projection.
        shares: layer name -> about how much of the model runs from its output projection on.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, AttentionLayer],
        moments: Mapping[str, Moments],
        measure: Measure,
        shares: Mapping[str, float],
        bar: Bar,
    ) -> None:
        self._model, self._layers, self._moments, self._measure = model, layers, moments, measure
        self._shares, self._bar = shares, bar

    def rises(self, batch: Any) -> dict[str, Tensor]:
        """Layer name -> (h,): how much the measure rises on this batch without each of the layer's heads.

        The layers are those that there are moments of; one that does not run on this batch has zeros.
        """
        done = self._bar.done
        try:
            return self._replayed(batch)
        except NotReplayableError as error:
            self._bar.expect(self._bar.done - done)  # again
            logger.info("each head's pass is made as a whole: %s", error)
        present = self._measure(self._model, batch)
        return {name: self._of_layer(name, batch) - present for name in self._moments}

    def _replayed(self, batch: Any) -> dict[str, Tensor]:
        """What `rises` returns, but each head's pass is replayed from its layer's output projection on.

        Raises:
            NotReplayableError: a replay does not give what a whole pass gives.
        """
        rises = {}
        replay = Replay(self._model, [self._layers[name].output for name in self._moments])
        with replay.watching():
            with replay.recording():
                present = self._measure(self._model, batch)
            for name in self._moments:
                output = self._layers[name].output
                if output not in replay.record.starts:  # it does not run on this batch
                    rises[name] = torch.zeros(self._layers[name].num_heads, dtype=torch.float64)
                    continue
                rises[name] = self._of_layer(name, batch, replay) - present
                with replay.starting_at(output):
                    again = self._measure(self._model, batch)
                if not math.isclose(again, present, rel_tol=CLOSE, abs_tol=1e-12):
                    raise NotReplayableError(f"{again!r} where it was {present!r}, replayed from {name!r} on")
        return rises

    def _of_layer(self, name: str, batch: Any, replay: Replay | None = None) -> Tensor:
        """The measure on this batch without each of the layer's heads in turn, (h,).

        Args:
            replay: the recorded pass, replayed from the layer's output projection on; None runs the whole model.
        """
        layer = self._layers[name]
        bias = layer.output._parameters.get("bias")
        moments = self._moments[name]
        owner = owners(layer.context_axis, layer.sizes).to(moments.x.device)
        values = torch.zeros(layer.num_heads, dtype=torch.float64)
        fits = without(moments, weight_of(layer.output), None if bias is None else bias.double(), owner)
        for head, weight, shift in fits:
            with _holding(layer.output, weight, shift), ExitStack() as context:
                if replay is not None:
                    context.enter_context(replay.starting_at(layer.output))
                values[head] = self._measure(self._model, batch)
            self._bar.advance(self._shares[name])
        return values


@contextmanager
def _holding(linear: nn.Module, weight: Tensor, bias: Tensor | None) -> Iterator[None]:
    """Within the context the linear layer has this weight (o, k) and this bias, in new parameters; None keeps its bias.

    At the end it has its former parameters again.
    """
    values = {"weight": weight.T if is_conv1d(linear) else weight} | ({} if bias is None else {"bias": bias})
    before = {name: linear.get_parameter(name) for name in values}
    try:
        for name, value in values.items():
            linear._parameters[name] = nn.Parameter(torch.empty_like(before[name]).copy_(value), requires_grad=False)
        yield
    finally:
        linear._parameters.update(before)
