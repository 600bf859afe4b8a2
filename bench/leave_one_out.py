"""What exact leave-one-out scores cost: replays and the race beside whole passes for every head.

    python -m bench.leave_one_out

Prints a line for each way of scoring each model, and writes no file. The ways are whole passes for every head, replays
(only what follows the head's layer is computed), and the race (scores are estimated within a budget of passes). In
every round each way runs once, in an order that rotates; CPU times, all on one thread, are divided within the round.
Replays must give the scores of whole passes to 1e-6. The race is shown on the trained tasks only: scores of random
weights are mostly noise, and no ranking of noise is better than another.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

import mha
from bench import tasks
from bench.measure.threads import one_thread
from mha.timing import Spread, median

WIDTH, HEADS, LENGTH, BATCH, CLASSES = 128, 8, 64, 16, 4
SAME = 1e-6  # how far replayed scores may be from those of whole passes
WAYS: dict[str, dict[str, Any]] = {"whole": {"reuse": False}, "replays": {}, "race": {"racing": True}}


@dataclass(frozen=True)
class ScoringCase:
    """A model to score on these batches, and the ways of scoring it, which are names in `WAYS`."""

    name: str
    model: nn.Module
    batches: Sequence[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    ways: tuple[str, ...]

    def score(self, way: str) -> mha.HeadScores:
        """The leave-one-out scores of all heads; `way` is a name in `WAYS`."""
        return mha.score(self.model, self.batches, self.loss, "leave_one_out", **WAYS[way])


class Classifier(nn.Module):
    """A classifier of sequences: torch's transformer encoder, then a linear layer on the mean of its tokens."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.classify = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (b, n, e) -> logits (b, classes)."""
        return self.classify(self.encoder(x).mean(dim=1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m bench.leave_one_out`: print `report` of each case; arguments default to `sys.argv`."""
    parser = argparse.ArgumentParser(prog="python -m bench.leave_one_out", description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="*", default=[6, 12], help="encoders with random weights")
    parser.add_argument("--batches", type=int, default=4, help=f"for those, of {BATCH} x {LENGTH} tokens")
    parser.add_argument("--tasks", nargs="*", default=tasks.usual(), choices=tasks.names())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with one_thread():
        for case in cases(options.layers, options.batches, options.tasks):
            for line in report(case, options.rounds):
                sys.stdout.write(line + "\n")
                sys.stdout.flush()


def cases(layers: Sequence[int], batches: int, names: Sequence[str]) -> Iterator[ScoringCase]:
    """Yield the case of a random encoder for each number of layers, on so many batches, then of each named task."""
    for count in layers:
        yield _encoder(count, batches)
    for name in names:
        task = tasks.load(name)
        yield ScoringCase(name, task.model(), task.calibration(), task.loss, ("whole", "replays", "race"))


def report(case: ScoringCase, rounds: int) -> Iterator[str]:
    """Time a case in so many rounds, and yield a line for each way of scoring.

    A line has the CPU time as a share of that of whole passes, the passes that were run, and how far the scores are
    from those of whole passes.

    Raises:
        AssertionError: a score found by replays differs from that of whole passes by more than 1e-6.
    """
    scores = {way: case.score(way) for way in case.ways}  # and warm up
    exact = _flat(scores["whole"])
    torch.testing.assert_close(_flat(scores["replays"]), exact, rtol=0, atol=SAME)
    times = [_round(case, number) for number in range(rounds)]
    for way in case.ways:
        share = median([seconds[way] / seconds["whole"] for seconds in times])
        yield _line(case.name, way, share, median([seconds[way] for seconds in times]).value, scores[way], exact)


def _encoder(layers: int, batches: int) -> ScoringCase:
    """The case of an encoder of so many layers with random weights, and so many batches of random data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(layers).eval()
        data = [(torch.randn(BATCH, LENGTH, WIDTH), torch.randint(CLASSES, (BATCH,))) for _ in range(batches)]
    return ScoringCase(
        f"encoder-{layers}",
        model,
        data,
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        ("whole", "replays"),
    )


def _round(case: ScoringCase, number: int) -> dict[str, float]:
    """Way of scoring -> its CPU seconds in the round of this number, by which the order of the ways is rotated."""
    turn = number % len(case.ways)
    return {way: _seconds(case, way) for way in (*case.ways[turn:], *case.ways[:turn])}


def _seconds(case: ScoringCase, way: str) -> float:
    """The CPU seconds that scoring all heads takes in one way, a name in `WAYS`."""
    start = time.process_time()
    case.score(way)
    return time.process_time() - start


def _flat(scores: mha.HeadScores) -> Tensor:
    """All scores in one tensor (heads of all layers,), layer after layer."""
    return torch.cat(list(scores.scores.values()))


def _line(name: str, way: str, share: Spread, seconds: float, scores: mha.HeadScores, exact: Tensor) -> str:
    flat, spent = _flat(scores), scores.spent
    rank = spearmanr(flat, exact).statistic
    off = (flat - exact).abs().max().item()
    passes = math.ceil(spent.forward) if spent else 0
    return (
        f"{name:10} {way:8} {share.value:.3f} of whole passes [{share.low:.3f}, {share.high:.3f}]  {seconds:6.2f} s  "
        f"{passes:5} forward {spent.backward if spent else 0:3} backward  Spearman {rank:.3f}  off by {off:.1e} at most"
    )


if __name__ == "__main__":
    main()
