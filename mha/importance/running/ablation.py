"""The loss of each batch without each head, exactly, at the least cost."""

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mha.importance.running.calibration import Calibration, Pass
from mha.importance.running.record import NotReplayableError
from mha.importance.running.replay import Replay

LOGGER = logging.getLogger(__name__)
CLOSE = 1e-9  # how far a replayed loss may be from the one computed anew, relative to it


class Ablation:
    """Switches off one head at a time.

    A layer's heads share all that precedes its output projection: with `reuse` that is computed once for all of them,
    which saves about half of the time. A replay with all heads on must give the recorded loss: on the first batch it
    is tried for every layer, on each further batch for one layer in turn; the first batch is also compared with a whole
    pass without a head. A model that can't be replayed (it changes outputs in place, draws random numbers on the
    way, keeps a state between calls) is run as a whole for every head, from that batch on.

    Several heads side by side in one batch would save nothing more on a CPU: 8 copies of 16 x 64 tokens took 1.1
    times as long as 8 passes, of 32 x 16 tokens as long (width 128, one thread); only tiny batches gain.

    Attributes:
        whole: why every pass is made as a whole; None while replays are made.
    """

    def __init__(self, calibration: Calibration, *, reuse: bool = True) -> None:
        self.whole: str | None = None if reuse else "reuse=False"
        self._batch = 0
        self._shares: dict[str, float] = {}
        self._calibration = calibration
        self._layers = calibration.with_heads
        self._replay = Replay(calibration.model, [layer.output for layer in self._layers.values()])

    def rises(self, one: Pass, heads: Mapping[str, Sequence[int]], noted: "Noted | None" = None) -> dict[str, Tensor]:
        """How much the batch's loss rises when each of these heads, given by position, is switched off; no gradients.

        Args:
            noted: where each layer's rises are written down once they are known.

        Returns:
            layer name -> (number of its heads given,) in float64, for each layer in `heads`.

        Raises:
            CalibrationError: as `Pass.loss`.
        """
        with torch.no_grad():
            if self.whole is not None or not any(heads.values()):
                return self._anew(one, heads, noted)
            try:
                return self._replayed(one, heads, noted)
            except Exception as error:  # whatever it is: if it is not the replay's fault, the whole pass raises it too
                self.whole = str(error) if isinstance(error, NotReplayableError) else repr(error)
                if noted is not None:
                    noted.drop()
            rises = self._anew(one, heads, noted)
            LOGGER.warning("leave-one-out makes every pass as a whole: %s", self.whole)
            return rises

    def share(self, name: str) -> float:
        """How much of a forward pass it takes to leave out a head of this layer, by the last batch."""
        return self._shares.get(name, 1.0) if self.whole is None else 1.0

    def _anew(self, one: Pass, heads: Mapping[str, Sequence[int]], noted: "Noted | None") -> dict[str, Tensor]:
        dense, rises = self._loss(one), {}
        for name, given in heads.items():
            rises[name] = _row([self._loss(one, name, head) for head in given]) - dense
            if noted is not None:
                noted.put(name, rises[name], one.examples)
        return rises

    def _replayed(self, one: Pass, heads: Mapping[str, Sequence[int]], noted: "Noted | None") -> dict[str, Tensor]:
        given = {name: some for name, some in heads.items() if some}
        checked = list(given) if self._batch == 0 else [list(given)[self._batch % len(given)]]
        rises = {name: torch.zeros(0, dtype=torch.float64) for name in heads}
        with self._replay.watching():
            with self._replay.recording():
                dense = self._loss(one)
            examples = one.examples  # a replay does not see them in all layers
            for name, some in given.items():
                rises[name] = _row([self._from(one, name, head) for head in some]) - dense
                if name in checked:  # afterwards: the masked passes before it may have left something behind
                    _compare(self._from(one, name), dense, f"replayed from {name!r} on")
                if noted is not None:
                    noted.put(name, rises[name], examples)
            self._replay.record.check()
        if self._batch == 0:
            replayed, anew = rises[name][0].item() + dense, self._loss(one, name, some[0])
            _compare(replayed, anew, f"replayed without head {some[0]} of {name!r}")
        one.examples = examples
        self._batch += 1
        return rises

    def _from(self, one: Pass, name: str, head: int | None = None) -> float:
        """The loss without the head, or with all, by a replay from its layer's output projection on."""
        output = self._output(name)
        if output not in self._replay.record.starts:  # not part of the recorded pass
            return self._loss(one, name, head)
        self._shares[name] = self._replay.record.share(output)
        with self._replay.starting_at(output):
            return self._loss(one, name, head, share=self._shares[name])

    def _loss(self, one: Pass, name: str = "", head: int | None = None, *, share: float = 1.0) -> float:
        reseed(self._calibration.seed)
        if head is None:
            return one.loss(share=share).item()
        gate = torch.ones(self._layers[name].num_heads)
        gate[head] = 0.0
        return one.loss({name: gate}, share=share).item()

    def _output(self, name: str) -> nn.Module:
        return self._layers[name].output


class Noted:
    """What the journal has of a batch: layer by layer, the rises and how many examples they are means over.

    Args:
        heads: layer name -> positions of those that are left out.
    """

    def __init__(self, calibration: Calibration, number: int, heads: Mapping[str, Sequence[int]]) -> None:
        self._journal, self._heads = calibration.journal, heads
        self._keys = {name: calibration.key(f"batch {number} of {name!r}") for name in heads}

    def missing(self) -> dict[str, Sequence[int]]:
        """The layers of which nothing is known."""
        return {name: heads for name, heads in self._heads.items() if self._keys[name] not in self._journal}

    def put(self, name: str, rises: Tensor, examples: int) -> None:
        self._journal.put(self._keys[name], [examples, *rises.tolist()])

    def drop(self) -> None:
        """What was noted of this batch can't be trusted."""
        self._journal.drop(self._keys.values())

    def rises(self, name: str) -> Tensor:
        return _row(self._journal[self._keys[name]][1:])

    def examples(self, name: str) -> int:
        return int(self._journal[self._keys[name]][0])


def reseed(seed: int) -> None:
    """The same random numbers in every pass: a loss that draws is compared with itself on the same draws.

    `torch.manual_seed` notes down the whole stack where there is no CUDA, which takes longer than a small layer.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _row(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _compare(replayed: float, anew: float, how: str) -> None:
    if not math.isclose(replayed, anew, rel_tol=CLOSE):
        raise NotReplayableError(f"the loss is {anew!r}, but {replayed!r} {how}")
