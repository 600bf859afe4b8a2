"""The loss of each batch without each head, exactly, at the least cost."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mha.importance.running.batch import BatchLoss, CalibrationBatch
from mha.importance.running.calibration import Calibration, reseed
from mha.importance.running.record import NotReplayableError
from mha.importance.running.replay import Replay

LOGGER = logging.getLogger(__name__)
CLOSE = 1e-9  # how far a replayed loss may be from the one computed anew, relative to it

Positions = Mapping[str, Sequence[int]]  # layer name -> positions of heads in it


@dataclass(frozen=True)
class Rises:
    """How much the loss of a batch rises when heads are switched off, one at a time.

    Attributes:
        rows: layer name -> (n,), by how much the loss rose without each head, in the order in which they were asked
            for, in float64.
        examples: how many examples the loss is a mean over.
    """

    rows: Mapping[str, Tensor]
    examples: int


class Ablation:
    """Switches heads off one at a time, and measures how much the loss of a batch rises.

    A layer's heads share all that precedes its output projection: with `reuse` that is computed once for all of them,
    which saves about half of the time. A replay with all heads on must give the recorded loss: on the first batch it
    is tried for every layer, on each further batch for one layer in turn; the first batch is also compared with a whole
    pass without a head. A model that can't be replayed (it changes outputs in place, draws random numbers on the
    way, keeps a state between calls) is run as a whole for every head, from that batch on.

    One batch with a copy of the examples for each of several heads would save nothing more on a CPU: 8 copies of
    16 x 64 tokens took 1.1 times as long as 8 passes, and 8 copies of 32 x 16 tokens just as long (width 128, one
    thread); only tiny batches gain.

    Args:
        reuse: False runs the whole model for every head; nothing is recorded and replayed.

    Attributes:
        whole: why the whole model is run for every head; None while passes are replayed.
    """

    def __init__(self, calibration: Calibration, *, reuse: bool = True) -> None:
        self.whole: str | None = None if reuse else "reuse=False"
        self._batch = 0
        self._shares: dict[str, float] = {}
        self._calibration = calibration
        self._layers = calibration.with_heads
        self._replay = Replay(calibration.model, [layer.output for layer in self._layers.values()])

    def rises(self, batch: CalibrationBatch, positions: Positions, notes: "BatchNotes | None" = None) -> Rises:
        """How much the batch's loss rises, without gradients, when each head at these positions is switched off alone.

        Args:
            positions: layer name -> positions of the heads to switch off.
            notes: where each layer's rises are written down once they are known; None for nowhere.

        Raises:
            CalibrationError: computing the loss ran no attention layer, or the loss is not a finite scalar.
        """
        with torch.no_grad():
            if self.whole is not None or not any(positions.values()):
                return self._anew(batch, positions, notes)
            try:
                return self._replayed(batch, positions, notes)
            except Exception as error:  # whatever it is: if it is not the replay's fault, the whole pass raises it too
                self.whole = str(error) if isinstance(error, NotReplayableError) else repr(error)
                if notes is not None:
                    notes.drop()
            rises = self._anew(batch, positions, notes)
            LOGGER.warning("leave-one-out makes every pass as a whole: %s", self.whole)
            return rises

    def share(self, name: str) -> float:
        """The share of a forward pass that it took on the last batch to leave out a head of layer `name`.

        It is 1 where the whole model is run for every head, and for a layer that no replay has started from.
        """
        return self._shares.get(name, 1.0) if self.whole is None else 1.0

    def _anew(self, batch: CalibrationBatch, positions: Positions, notes: "BatchNotes | None") -> Rises:
        """What `rises` returns, from running the whole model for each head."""
        dense = self._loss(batch)
        rows = {}
        for name, switched_off in positions.items():
            losses = [self._loss(batch, name, position).value.item() for position in switched_off]
            rows[name] = _row(losses) - dense.value.item()
            if notes is not None:
                notes.put(name, rows[name], dense.examples)
        return Rises(rows, dense.examples)

    def _replayed(self, batch: CalibrationBatch, positions: Positions, notes: "BatchNotes | None") -> Rises:
        """What `rises` returns, but each head's pass is replayed from its layer's output projection on.

        Raises:
            NotReplayableError: the replays do not give what whole passes give.
        """
        asked = {name: switched_off for name, switched_off in positions.items() if switched_off}
        checked = list(asked) if self._batch == 0 else [list(asked)[self._batch % len(asked)]]
        rows = {name: torch.zeros(0, dtype=torch.float64) for name in positions}
        with self._replay.watching():
            with self._replay.recording():
                loss = self._loss(batch)
            dense, examples = loss.value.item(), loss.examples  # a replay does not see the examples in all layers
            for name, switched_off in asked.items():
                rows[name] = _row([self._from(batch, name, position) for position in switched_off]) - dense
                if name in checked:  # afterwards: the masked passes before it may have left something behind
                    _compare(self._from(batch, name), dense, f"replayed from {name!r} on")
                if notes is not None:
                    notes.put(name, rows[name], examples)
            self._replay.record.check()
        if self._batch == 0:
            replayed, anew = rows[name][0].item() + dense, self._loss(batch, name, switched_off[0]).value.item()
            _compare(replayed, anew, f"replayed without head {switched_off[0]} of {name!r}")
        self._batch += 1
        return Rises(rows, examples)

    def _from(self, batch: CalibrationBatch, name: str, position: int | None = None) -> float:
        """The loss without the head at `position` (None: with all), replayed from the layer's output projection on."""
        output = self._output(name)
        if output not in self._replay.record.starts:  # not part of the recorded pass
            return self._loss(batch, name, position).value.item()
        self._shares[name] = self._replay.record.share(output)
        with self._replay.starting_at(output):
            return self._loss(batch, name, position, share=self._shares[name]).value.item()

    def _loss(
        self, batch: CalibrationBatch, name: str = "", position: int | None = None, *, share: float = 1.0
    ) -> BatchLoss:
        """The loss without the head at `position` of layer `name` (None: with all); counts as `share` of a pass."""
        reseed(self._calibration.seed)
        if position is None:
            return batch.loss(share=share)
        gate = torch.ones(self._layers[name].num_heads)
        gate[position] = 0.0
        return batch.loss({name: gate}, share=share)

    def _output(self, name: str) -> nn.Module:
        """The output projection of the layer."""
        return self._layers[name].output


class BatchNotes:
    """What the journal has of a batch: layer by layer, the rises and how many examples they are means over.

    Args:
        number: the batch's place in the calibration set.
        positions: layer name -> positions of the heads that are switched off.
    """

    def __init__(self, calibration: Calibration, number: int, positions: Positions) -> None:
        self._journal, self._positions = calibration.journal, positions
        self._keys = {name: calibration.key(f"batch {number} of {name!r}") for name in positions}

    def missing(self) -> dict[str, Sequence[int]]:
        """Layer name -> positions of its heads, for the layers whose rises are not in the journal yet."""
        return {name: row for name, row in self._positions.items() if self._keys[name] not in self._journal}

    def put(self, name: str, rises: Tensor, examples: int) -> None:
        """Write down a layer's rises, and how many examples the batch has."""
        self._journal.put(self._keys[name], [examples, *rises.tolist()])

    def drop(self) -> None:
        """Forget what was written down of this batch: it can't be trusted."""
        self._journal.drop(self._keys.values())

    def rises(self, name: str) -> Tensor:
        """The rises that the journal has for a layer: (n,) in float64, in the order of the layer's `positions`."""
        return _row(self._journal[self._keys[name]][1:])

    def examples(self, name: str) -> int:
        """How many examples the rises that the journal has for a layer are means over."""
        return int(self._journal[self._keys[name]][0])


def _row(values: Sequence[float]) -> Tensor:
    """These numbers as a row, in float64."""
    return torch.tensor(values, dtype=torch.float64)


def _compare(replayed: float, anew: float, how: str) -> None:
    """Check that a replayed loss equals, but for rounding, the loss `anew` of a pass that was not replayed.

    Args:
        how: how it was replayed, for the message.

    Raises:
        NotReplayableError: they differ by more than `CLOSE`, relative to the larger.
    """
    if not math.isclose(replayed, anew, rel_tol=CLOSE):
        raise NotReplayableError(f"the loss is {anew!r}, but {replayed!r} {how}")
