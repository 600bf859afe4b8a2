"""Decides what is measured next, and keeps the rounds that have been: each is on disk the moment it ends."""

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from bench.measure.machine import load_between, usage_so_far
from bench.regress.files import read_json, write_json
from bench.regress.rounds import CONTROL_NAME, PROCESSES, measure_round
from bench.regress.statistics import Contrast, Effect, contrast, effect
from bench.regress.verdict import Looks, Rules, undecided
from bench.regress.workers import Arm

ARMS = 2
SCREEN, AGAIN = "screen", "again"
FEWEST = 8  # rounds of a first look
TIMES = 2  # as many rounds in the second look


@dataclass(frozen=True)
class GateOptions:
    """How a run of the gate measures and judges.

    Attributes:
        files: the files of its benchmarks, relative to the checkout.
        budget: seconds for all rounds, second looks included.
        seconds: of sampling for each benchmark in a round.
        threads: how many threads torch uses.
        device: where the benchmarks run, as torch calls it.
        rules: the limits by which benchmarks are judged.
    """

    files: tuple[str, ...] = ("bench/regress/bench_gate.py",)
    budget: float = 600.0
    seconds: float = 0.3
    threads: int = 1
    device: str = "cpu"
    rules: Rules = field(default_factory=Rules)


Contrasts = Callable[[Mapping[str, Any], int], Mapping[str, Contrast]]


class Next(NamedTuple):
    """The round to measure next: its phase, "screen" (first look) or "again", and its benchmarks; None means all."""

    phase: str
    only: tuple[str, ...] | None


@dataclass(frozen=True)
class GateRounds:
    """The rounds that have been measured.

    Attributes:
        records: for each round what was measured (`seconds`, `errors` and `skipped` as in `GateRound`, or `ratios`),
            `spent`, `phase`, `took` (seconds), `load` (cores that others used) and `contrasts`: benchmark ->
            `Contrast`, for those that can be compared.
    """

    records: tuple[Mapping[str, Any], ...]

    def of(self, phase: str) -> list[Mapping[str, Any]]:
        """The records of the rounds of one phase, "screen" or "again"."""
        return [record for record in self.records if record["phase"] == phase]

    @property
    def took(self) -> float:
        """Seconds that all rounds took."""
        return sum(record["took"] for record in self.records)

    @property
    def load(self) -> float | None:
        """How many cores other processes used on average during the rounds; None where the system does not tell."""
        loads = [(record["load"], record["took"]) for record in self.records if record["load"] is not None]
        total = sum(took for _, took in loads)
        return sum(cores * took for cores, took in loads) / total if total else None

    def compared(self) -> list[str]:
        """The names, sorted, of the benchmarks that have a contrast in every round of the first look.

        The control is left out.
        """
        screened = [set(record["contrasts"]) for record in self.of(SCREEN)]
        return sorted(set.intersection(*screened) - {CONTROL_NAME}) if screened else []

    def effect(self, name: str, *phases: str) -> Effect | None:
        """The effect on the benchmark `name`, from the rounds of these phases that have it; None if too few do."""
        contrasts_of_rounds = [each["contrasts"] for each in self.records if each["phase"] in phases]
        pairs = tuple(contrasts[name] for contrasts in contrasts_of_rounds if name in contrasts)
        return effect(pairs) if len(pairs) >= FEWEST else None

    def looks(self, name: str) -> Looks | None:
        """What the first and the second look at the benchmark `name` saw; None where the first has too few rounds."""
        screen, again = self.effect(name, SCREEN), self.effect(name, AGAIN)
        return None if screen is None else Looks(screen, again, self.effect(name, SCREEN, AGAIN) if again else None)

    def cost(self, names: Iterable[str] | None) -> float:
        """Seconds that a round of these benchmarks (None: all) has taken on average; what was not measured counts as 0.

        The control, and starting and ending processes, are included.
        """
        spent: dict[str, list[float]] = {}
        for record in self.records:
            for name, seconds in record["spent"].items():
                spent.setdefault(name, []).append(seconds)
        wanted = spent if names is None else {"", CONTROL_NAME, *names}
        return sum(fmean(spent[name]) for name in wanted if name in spent)


def wanted_rounds(benchmarks: int, fdr: float) -> int:
    """How many rounds a first look at so many benchmarks takes, `FEWEST` at least.

    With so many the least possible p, 2^-rounds, can pass `fdr` after it is adjusted for all benchmarks.
    """
    return max(FEWEST, math.ceil(math.log2(max(benchmarks, 1) / fdr)))


def next_round(rounds: GateRounds, options: GateOptions, spent: float = 0.0) -> Next | None:
    """The round to measure next, which follows from the rounds so far; None if all is decided, or the time is spent.

    First comes a first look at all benchmarks; then a second one, of twice as many rounds, at those it leaves
    undecided; then, as long as there is time, more rounds of those of which too little is known still.

    Args:
        spent: seconds of the budget that were used for other things than rounds.
    """
    left = options.budget - spent - rounds.took
    compared = rounds.compared()
    screened, again = len(rounds.of(SCREEN)), len(rounds.of(AGAIN))
    if not screened:
        return Next(SCREEN, None)
    wanted = wanted_rounds(len(compared), options.rules.fdr)
    if not compared:
        return None
    if screened < wanted and not again:
        return Next(SCREEN, None) if rounds.cost(None) <= left else None
    effects = {name: seen for name in compared if (seen := rounds.effect(name, SCREEN))}
    doubtful = undecided(effects, options.rules)
    if again >= TIMES * wanted:
        doubtful = [name for name in doubtful if (looks := rounds.looks(name)) and _is_open(looks, options.rules)]
    fits = bool(doubtful) and rounds.cost(doubtful) <= left
    return Next(AGAIN, tuple(doubtful)) if fits else None


def _is_open(looks: Looks, rules: Rules) -> bool:
    """Whether all rounds of a benchmark together still leave open whether it became slower.

    They neither show a slowdown above `rules.threshold` nor exclude one by `rules.blind`.
    """
    seen = looks.together or looks.screen
    return seen.high >= rules.blind and seen.low <= rules.threshold


Take = Callable[[Next, int], Mapping[str, Any]]


class Store:
    """Keeps the rounds of a run in a folder, one JSON file each, named by the round's number.

    Args:
        folder: is made if it is not there.
        contrasts: computes the contrasts of a round's benchmarks from its record and its number.
    """

    def __init__(self, folder: Path, contrasts: Contrasts) -> None:
        self._folder, self._contrasts = folder, contrasts
        folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> GateRounds:
        """All rounds in the folder, in order of their numbers.

        Raises:
            GateError: a file holds no JSON.
        """
        return GateRounds(tuple(map(self._whole, sorted(self._folder.glob("*.json")))))

    def add(self, number: int, record: Mapping[str, Any]) -> dict[str, Any]:
        """Write a round's record to the file of this number; returns the record with its contrasts, as `read` gives it.

        Raises:
            GateError: the file can't be written.
        """
        write_json(self._path(number), dict(record))
        return self._whole(self._path(number))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:04d}.json"

    def _whole(self, path: Path) -> dict[str, Any]:
        record = read_json(path)
        return {**record, "contrasts": self._contrasts(record, int(path.stem))}


def measure(
    take: Take,
    options: GateOptions,
    store: Store,
    say: Callable[[str], None],
    *,
    spent: float = 0.0,
) -> GateRounds:
    """Measure round after round until `next_round` has no more, going on after those in the store; returns them all.

    Args:
        take: measures a round, and returns the fields of its record; it gets a number that no other round has.
        say: called before each round with a sentence on what is measured.
        spent: seconds of the budget that were used for other things than rounds.

    Raises:
        GateError: a process of a round has ended early or hangs, or a round's file can't be read or written.
    """
    rounds = store.read()
    while step := next_round(rounds, options, spent):
        say(f"{_what(rounds, step, options)}, {rounds.took + spent:.0f} of {options.budget:.0f} s spent")
        number, before = len(rounds.records), usage_so_far()
        measured = take(step, number)
        circumstances = {
            "phase": step.phase,
            "took": sum(measured["spent"].values()),
            "load": load_between(before, usage_so_far()),
        }
        rounds = GateRounds((*rounds.records, store.add(number, {**measured, **circumstances})))
    return rounds


def of_arms(arms: Sequence[Arm], options: GateOptions, step: Next, number: int) -> dict[str, Any]:
    """Measure a round of both sides, its random orders seeded by its number; returns the fields of `GateRound`.

    Args:
        step: which benchmarks to time.

    Raises:
        GateError: a process has ended early, or hangs.
    """
    with tempfile.TemporaryDirectory(prefix="gate-") as folder:
        measured = measure_round(
            arms,
            options.files,
            Path(folder),
            seconds=options.seconds,
            seed=number,
            threads=options.threads,
            only=step.only,
        )
    return measured._asdict()


def of_both_arms(record: Mapping[str, Any], number: int = 0) -> dict[str, Contrast]:  # noqa: ARG001
    """Benchmark -> its contrast, for those that all processes of a round have timed; `number` is not used."""
    whole = {name: each for name, each in record["seconds"].items() if len(each) == ARMS * PROCESSES}
    return {name: contrast(seconds) for name, seconds in whole.items()}


def _what(rounds: GateRounds, step: Next, options: GateOptions) -> str:
    """What is measured next, as words for the user: "round 3 of 8", at a second look with the first few names."""
    done = len(rounds.of(step.phase))
    wanted = wanted_rounds(len(rounds.compared()), options.rules.fdr)
    if not rounds.records:
        return "round 1"
    if step.phase == SCREEN:
        return f"round {done + 1} of {wanted}"
    names = ", ".join((step.only or ())[:3]) + (" …" if len(step.only or ()) > 3 else "")
    return f"second look, round {done + 1} of {TIMES * wanted}: {names}"
