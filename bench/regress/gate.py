"""One run of the gate, from two checkouts to a verdict."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.measure.files import now
from bench.regress import exact
from bench.regress.baseline import Baseline, against, comparable, kept, of_ratios, with_itself
from bench.regress.errors import GateError
from bench.regress.files import read_json, write_json
from bench.regress.measuring import Contrasts, GateOptions, GateRounds, Store, Take, measure, of_arms, of_both_arms
from bench.regress.rounds import run_apart
from bench.regress.statistics import LEVEL
from bench.regress.verdict import overall
from bench.regress.verdict_rows import control_row, doubts, rows_of, short
from bench.regress.workers import Arm

FIGURES = "bench/regress/bench_figures.py"
SCHEMA = 1
NO_FIGURES: dict[str, Any] = {"figures": {}, "errors": {}, "skipped": {}, "took": 0.0}  # where none are counted

Say = Callable[[str], None]


@dataclass(frozen=True)
class Gate:
    """One run of the gate, in its directory; what has been measured there already is not measured again.

    Attributes:
        directory: where the run's files go.
        arms: base and head; the head alone where there is a baseline, or where it is only recorded.
        options: how it measures and judges.
        baseline: a stored run that the head is compared with, in place of a base.
        about: fields of verdict.json about both sides, the machine and the command.
        notes: sentences that a reader of the verdict should know.
        only_base: benchmarks that the base's files have, and the head's no longer have.
        say: called with a sentence on what is done next.
    """

    directory: Path
    arms: tuple[Arm, ...]
    options: GateOptions
    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    only_base: tuple[str, ...] = ()
    baseline: Baseline | None = None
    say: Say = print

    def run(self) -> dict[str, Any]:
        """Measure what is not there yet, judge, write verdict.json, and return what is in it.

        Raises:
            GateError: a process has ended early or hangs, a file can't be read or written, there is no benchmark, or
                exact figures are not in the form that `bench.regress.exact` describes.
        """
        figures, spent = self.count()
        take: Take = partial(of_arms, self.arms, self.options)
        contrasts: Contrasts = of_both_arms
        if self.baseline:
            take, contrasts = partial(of_ratios, self.arms[0], self.options), partial(against, self.baseline)
        rounds = measure(take, self.options, Store(self.directory / "rounds", contrasts), self.say, spent=spent)
        verdict = {**self._verdict(rounds, figures), "seconds": round(rounds.took + spent, 1)}
        write_json(self.directory / "verdict.json", verdict)
        return verdict

    def record(self) -> dict[str, Any]:
        """Measure the head alone, and return the document to compare with later: exact figures and ratios.

        Raises:
            GateError: a process has ended early or hangs, or a file can't be read or written.
        """
        counted = self._counted(self.arms[0])
        take, store = partial(of_ratios, self.arms[0], self.options), Store(self.directory / "rounds", with_itself)
        rounds = measure(take, self.options, store, self.say, spent=counted["took"])
        head = {name: self.about["head"][name] for name in ("revision", "python")} | {"machine": self.about["machine"]}
        return kept(rounds, counted["figures"], {**head, "created": now()})

    def count(self) -> tuple[list[dict[str, Any]], float]:
        """The rows of the verdict for the exact figures, and the seconds that it took to count them, now or before.

        Raises:
            GateError: a process has ended early or hangs, a file can't be read or written, or figures can't be read.
        """
        read = {arm.name: self._counted(arm) for arm in self.arms}
        head, took = read["head"], sum(each["took"] for each in read.values())
        skipped = head.get("skipped", {})
        if self.baseline:
            stored = comparable(self.baseline, self.about["machine"])[0]
            before = {name: each for name, each in stored.items() if name not in skipped}  # another machine could
        else:
            before = read["base"]["figures"]
        return exact.compare(before, head["figures"], head["errors"], skipped), took

    def _counted(self, arm: Arm) -> dict[str, Any]:
        """The exact figures of one side, as `count_figures` returns them, from the run's file if that exists."""
        kept = self.directory / f"figures-{arm.name}.json"
        if not kept.exists():
            self.say(f"exact figures of the {arm.name}")
            write_json(kept, count_figures(arm, self.options.threads))
        return read_json(kept)

    def _verdict(self, rounds: GateRounds, figures: list[dict[str, Any]]) -> dict[str, Any]:
        """The document for verdict.json, from the rounds and from the rows of exact figures.

        Raises:
            GateError: no benchmark was found on either side.
        """
        rows = rows_of(rounds, self.options, self.only_base, self.baseline)
        if not rows:
            raise GateError(
                f"{', '.join(self.options.files)}: no benchmark takes pytest-benchmark's fixture; name others"
            )
        reasons = doubts(rounds, self.options, self.about["machine"]["cores"])
        alone = [] if rounds.compared() else ["No benchmark runs on both sides, so no time is compared."]
        return {
            "schema": SCHEMA,
            "kind": "gate",
            "verdict": overall([*rows, *figures], reasons),
            "why": [*reasons, *alone, *self.notes],
            **self.about,
            "created": now(),
            "budget": self.options.budget,
            "rules": {**asdict(self.options.rules), "level": LEVEL},
            "control": control_row(rounds),
            "load": rounds.load,
            "benchmarks": rows,
            "figures": figures,
        }


def count_figures(arm: Arm, threads: int) -> dict[str, Any]:
    """Count the exact figures of one side in a process of its own.

    Returns:
        `figures` (as `exact.read` returns them), `errors` and `skipped` (benchmark -> why), and `took` (seconds).

    Raises:
        GateError: the process ended early, or says nothing any more; or two benchmarks share a name.
    """
    run = run_apart(arm, FIGURES, threads)
    errors, skipped = ({short(name) or "any": why for name, why in each.items()} for each in (run.errors, run.skipped))
    took = sum(run.spent.values())
    return {"figures": exact.read(run.document), "errors": errors, "skipped": skipped, "took": took}
