"""Models built by hand, so that it is known which heads matter.

A query stands behind seven places, each of which shows a class. A head looks at one place and adds what it reads there
to the query's logits. The class at place p is the right one with probability q_p, else any other; a head that adds
log(q_p (C - 1) / (1 - q_p)) for the class it reads does what Bayes' rule says, and leaving it out costs exactly the
evidence of its place. On such working heads each scenario plants something that a criterion may get wrong.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mha

CLASSES, PLACES = 5, 7
POSITIONS = PLACES + 1  # the last one is the query's
OWN, OTHER, LOGITS = (POSITIONS + CLASSES * block for block in range(3))  # where blocks of the stream start
WIDTH = POSITIONS + 3 * CLASSES
HEAD_DIM = POSITIONS
SHARP = 12.0  # attention score of the place looked at; the others have 0
NOISE = 0.2  # standard deviation of what is added to the evidence


class Batch(NamedTuple):
    """Examples of a scenario.

    Attributes:
        stream: (b, places + 1, e), as the model reads it; the last place is the query's.
        answers: (b,), the right class of each example.
    """

    stream: Tensor
    answers: Tensor


@dataclass(frozen=True)
class Head:
    """What one head does.

    Attributes:
        looks_at: the place that it attends to, from the place `standing` (the query's unless given).
        reads: where a block of the stream starts that it reads there -> by what that block is multiplied.
        writes: where the block of the stream starts that it adds this to; the logits unless given.
        gain: factor on the output projection.
        alike: whether it adds the same to every class, whatever it reads; no answer changes by that.
    """

    looks_at: int
    reads: Mapping[int, float]
    standing: int = PLACES
    writes: int = LOGITS
    gain: float = 1.0
    alike: bool = False


@dataclass(frozen=True)
class Scenario:
    """A model built by hand, and its data.

    Attributes:
        about: what is planted, in one sentence.
        layers: the heads of each layer.
        planted: layer number -> numbers of the planted heads, those that `about` describes.
        reliability: place -> q, the probability that it shows the right class; that of chance where not named.
        copies: place -> the place whose class it shows, instead of one of its own.
        leaks: place -> the place whose class it shows as well, in the block OTHER.
    """

    about: str
    layers: tuple[tuple[Head, ...], ...]
    planted: Mapping[int, tuple[int, ...]]
    reliability: Mapping[int, float]
    copies: Mapping[int, int]
    leaks: Mapping[int, int]

    def model(self) -> "EvidenceModel":
        """The attention model whose heads do what `layers` describes, in eval mode; a new object each time."""
        return EvidenceModel(self.layers).eval()

    def batches(self, examples: int, size: int, seed: int) -> list[Batch]:
        """Draw `examples` examples, the same for the same seed, as batches of `size` (the last may be smaller)."""
        generator = torch.Generator().manual_seed(seed)
        answers = torch.randint(CLASSES, (examples,), generator=generator)
        shown = torch.stack([_shown(answers, self._reliability(place), generator) for place in range(PLACES)], dim=1)
        for place, original in self.copies.items():
            shown[:, place] = shown[:, original]
        stream = torch.zeros(examples, POSITIONS, WIDTH)
        stream[:, :, :POSITIONS] = torch.eye(POSITIONS)
        stream[:, :PLACES, OWN : OWN + CLASSES] = F.one_hot(shown, CLASSES).float()
        for place, original in self.leaks.items():
            stream[:, place, OTHER : OTHER + CLASSES] = stream[:, original, OWN : OWN + CLASSES]
        noise = torch.randn(examples, PLACES, CLASSES, generator=generator)
        stream[:, :PLACES, OWN : OWN + CLASSES] += NOISE * noise
        return [Batch(*part) for part in zip(stream.split(size), answers.split(size), strict=True)]

    def _reliability(self, place: int) -> float:
        """The probability that a place shows the right class; that of chance where `reliability` does not name it."""
        return self.reliability.get(place, 1 / CLASSES)


class EvidenceModel(nn.Module):
    """Residual attention layers and nothing else; the logits are read from the stream where the query stands.

    Args:
        layers: for each layer what its heads do; weights are written accordingly, and none is trained.
    """

    def __init__(self, layers: Sequence[Sequence[Head]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            mha.MultiHeadAttention.square(WIDTH, len(heads), head_dim=HEAD_DIM) for heads in layers
        )
        with torch.no_grad():
            for layer, heads in zip(self.layers, layers, strict=True):
                for parameter in layer.parameters():
                    parameter.zero_()
                for number, head in enumerate(heads):
                    _write(layer, number, head)

    def forward(self, stream: Tensor) -> Tensor:
        """The logits (b, classes) of the answers, for a stream (b, places + 1, e)."""
        for layer in self.layers:
            stream = stream + layer(stream, stream, stream)
        return stream[:, PLACES, LOGITS : LOGITS + CLASSES]


def weight_of_evidence(reliability: float) -> float:
    """The logarithm that Bayes' rule adds to the logit of the class which a place of this reliability shows.

    `reliability` is the probability, above 0 and below 1, that the place shows the right class.
    """
    return math.log(reliability * (CLASSES - 1) / (1 - reliability))


def working(place: int, reliability: float, share: float = 1.0) -> Head:
    """A head that reads a place of this reliability and adds `share` of its weight of evidence to the logits."""
    return Head(place, {OWN: share * weight_of_evidence(reliability)})


def _write(layer: nn.Module, number: int, head: Head) -> None:
    """Write weights into an attention layer, by which its head of this number does what `head` describes."""
    rows = slice(number * HEAD_DIM, (number + 1) * HEAD_DIM)
    classes = torch.eye(CLASSES)
    query, key, value, output = (layer.get_parameter(f"W_{name}.weight") for name in "qkvo")
    query[rows][head.looks_at, head.standing] = SHARP * math.sqrt(HEAD_DIM)
    key[rows][:, :POSITIONS] = torch.eye(HEAD_DIM)
    for start, weight in head.reads.items():
        value[rows][:CLASSES, start : start + CLASSES] = weight * classes
    read_out = torch.ones(CLASSES, CLASSES) if head.alike else classes
    output[head.writes : head.writes + CLASSES, rows][:, :CLASSES] = head.gain * read_out


def _shown(answers: Tensor, reliability: float, generator: torch.Generator) -> Tensor:
    """The class that a place shows in each example, (n,).

    With probability `reliability` it is that in `answers`, else any of the others.
    """
    right = torch.rand(len(answers), generator=generator) < reliability
    others = (answers + torch.randint(1, CLASSES, answers.shape, generator=generator)) % CLASSES
    return torch.where(right, answers, others)


def _scenario(
    about: str,
    layers: Sequence[Sequence[Head]],
    planted: Mapping[int, tuple[int, ...]],
    reliability: Mapping[int, float],
    copies: Mapping[int, int] | None = None,
    leaks: Mapping[int, int] | None = None,
) -> Scenario:
    return Scenario(about, tuple(map(tuple, layers)), planted, reliability, copies or {}, leaks or {})


def dead() -> Scenario:
    """The scenario with three planted heads that can't change any answer, among four working ones."""
    q = {0: 0.75, 1: 0.65, 2: 0.55, 3: 0.45}
    silent = Head(4, {OWN: 2.0}, gain=0.0)
    deaf = Head(5, {}, gain=4.0)
    unread = Head(6, {OWN: 2.0}, alike=True)
    heads = [silent, working(0, q[0]), deaf, working(1, q[1]), unread, working(2, q[2]), working(3, q[3])]
    return _scenario(
        "three dead heads: one with W_o = 0, one with W_v = 0 and a large W_o, one that adds the same to every class",
        [heads],
        {0: (0, 2, 4)},
        q,
    )


def duplicate() -> Scenario:
    """The scenario with two planted heads that compute the same, from the most reliable place."""
    q = {0: 0.9, 1: 0.7, 2: 0.6, 3: 0.5}
    heads = [working(1, q[1]), working(0, q[0], 0.75), working(2, q[2]), working(0, q[0], 0.75), working(3, q[3])]
    return _scenario(
        "two heads that compute the same, of the strongest evidence; one is enough", [heads], {0: (1, 3)}, q
    )


def redundant() -> Scenario:
    """The scenario with two planted heads that look at different places, which show the same class."""
    q = {0: 0.9, 1: 0.7, 2: 0.6, 3: 0.5}
    heads = [working(0, q[0], 0.75), working(1, q[1]), working(2, q[2]), working(4, q[0], 0.75), working(3, q[3])]
    return _scenario(
        "two heads that look at two places which show the same class; one is enough", [heads], {0: (0, 3)}, q, {4: 0}
    )


def harmful() -> Scenario:
    """The scenario with one planted head that only adds noise: its place shows the right class by chance alone."""
    q = {0: 0.8, 1: 0.7, 2: 0.6, 3: 0.5}
    heads = [working(0, q[0]), working(1, q[1]), Head(4, {OWN: 2.0}), working(2, q[2]), working(3, q[3])]
    return _scenario("a head that adds the class of a place which knows nothing", [heads], {0: (2,)}, q)


def cancelling() -> Scenario:
    """The scenario with two planted heads: one adds noise, the other takes it away and adds the strongest evidence."""
    q = {0: 0.8, 1: 0.7, 2: 0.6, 3: 0.5, 5: 0.9}
    noise, evidence = 5.0, weight_of_evidence(q[5])
    heads = [
        working(0, q[0]),
        Head(4, {OWN: noise}),
        working(1, q[1]),
        Head(5, {OWN: evidence, OTHER: -noise}),
        working(2, q[2]),
        working(3, q[3]),
    ]
    return _scenario(
        "a head that adds noise, and one that takes it away again beside adding the strongest evidence",
        [heads],
        {0: (1, 3)},
        q,
        leaks={5: 4},
    )


def relay() -> Scenario:
    """The scenario with two planted heads in different layers, each of which is worth nothing without the other."""
    q = {0: 0.75, 1: 0.65, 2: 0.55, 3: 0.45, 4: 0.9}
    first = [
        working(0, q[0]),
        Head(4, {OWN: weight_of_evidence(q[4])}, standing=6, writes=OTHER),
        working(3, q[3]),
    ]
    second = [working(1, q[1]), working(2, q[2]), Head(6, {OTHER: 1.0})]
    return _scenario(
        "a head of the first layer that only one of the second reads: each is worth nothing without the other",
        [first, second],
        {0: (1,), 1: (2,)},
        q,
    )


SCENARIOS: Mapping[str, Callable[[], Scenario]] = {
    build.__name__: build for build in (dead, duplicate, redundant, harmful, cancelling, relay)
}
