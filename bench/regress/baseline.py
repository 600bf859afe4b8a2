"""Compares a run with a stored one, even of another machine, by the numbers that do not depend on the machine.

These are the exact figures, and the ratio of two times that one process has measured (pruned over dense), since what
slows the machine slows both. Times themselves are never compared.
"""

from collections import Counter
from collections.abc import Mapping
from math import log, sqrt
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from bench.regress.errors import GateError
from bench.regress.files import read_json
from bench.regress.measuring import SCREEN, GateOptions, GateRounds, Next
from bench.regress.rounds import PROCESSES, run_apart
from bench.regress.statistics import Contrast
from bench.regress.workers import Arm

RATIOS = "bench/regress/bench_ratios.py"
SCHEMA, KIND = 1, "gate-baseline"
# for peak bytes: kernels take working memory as the processor has it
SAME_MACHINE = ("cpu", "threads", "device", "packages")
NOTE = (
    "Compared with the stored run {label}: exact figures and ratios of times in one process (pruned over dense) only. "
    "Absolute times belong to the machine that they were measured on."
)


class Baseline(NamedTuple):
    """A stored run, with which later ones are compared.

    Attributes:
        label: the path of its file.
        ratios: benchmark -> for each round the mean logarithm of the pruned layer's time over the dense one's.
        figures: the exact figures, as `exact.read` returns them.
        about: where it comes from: `revision`, `created`, `python` and `machine`.
    """

    label: str
    ratios: Mapping[str, list[float]]
    figures: Mapping[str, Any]
    about: Mapping[str, Any]


def of_ratios(arm: Arm, options: GateOptions, step: Next, number: int) -> dict[str, Any]:  # noqa: ARG001
    """Measure one round of how long pruned attention takes relative to dense: two fresh processes, one after the other.

    Args:
        step: which benchmarks to run.
        number: of the round; not used.

    Returns:
        `ratios` (benchmark -> for each process the logarithm of pruned time over dense time), `errors` and `skipped`
        (arm -> benchmark -> why; of the head alone) and `spent` (benchmark -> seconds).

    Raises:
        GateError: a process ended early, or says nothing any more.
    """
    runs = [run_apart(arm, RATIOS, options.threads, step.only) for _ in range(PROCESSES)]
    ratios: dict[str, list[float]] = {}
    spent: Counter[str] = Counter()
    for run in runs:
        spent.update(run.spent)
        for entry in run.document["benchmarks"]:
            if "speedups" in entry["extra_info"]:
                ratios.setdefault(entry["fullname"], []).append(-log(entry["extra_info"]["speedups"]["dense"]["value"]))
    errors = {name: error for run in runs for name, error in run.errors.items()}
    skipped = {name: why for run in runs for name, why in run.skipped.items()}
    of_head = {"errors": {"head": errors, "base": {}}, "skipped": {"head": skipped, "base": {}}}
    return {"ratios": ratios, **of_head, "spent": dict(spent)}


def kept(rounds: GateRounds, figures: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The document that --record stores: `about` (revision, machine, …), ratios of the first look, exact figures."""
    ratios: dict[str, list[float]] = {}
    for record in rounds.of(SCREEN):
        for name, logs in record["ratios"].items():
            ratios.setdefault(name, []).append(fmean(logs))
    return {"schema": SCHEMA, "kind": KIND, **about, "ratios": ratios, "figures": figures}


def read_baseline(path: Path) -> Baseline:
    """Read a stored run from its file.

    Raises:
        GateError: there is no such file, it is no stored run, or it has another schema.
    """
    if not path.is_file():
        raise GateError(f"--baseline {path}: no such file; make one with --record {path}")
    document = read_json(path)
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise GateError(
            f"--baseline {path}: expected what --record writes; times of another machine, as in a report of "
            "pytest-benchmark, are never compared"
        )
    if document.get("schema") != SCHEMA:
        schema = document.get("schema")
        raise GateError(f"--baseline {path}: its schema is {schema!r}, expected {SCHEMA}; make it again")
    about = {name: document.get(name) for name in ("revision", "created", "python", "machine")}
    return Baseline(str(path), document.get("ratios") or {}, document.get("figures") or {}, about)


def against(baseline: Baseline, record: Mapping[str, Any], number: int) -> dict[str, Contrast]:
    """How much the ratios of a round differ from those of a stored round: a contrast for each benchmark that both have.

    Args:
        record: what the round has measured.
        number: of the round, from 0; stored rounds are taken in the same order, and from the start again when they run
            out.
    """
    return {
        name: Contrast(fmean(logs) - stored[number % len(stored)], (logs[0] - logs[1]) / sqrt(2))
        for name, logs in record["ratios"].items()
        if len(logs) == PROCESSES and (stored := baseline.ratios.get(name))
    }


def with_itself(record: Mapping[str, Any], number: int) -> dict[str, Contrast]:  # noqa: ARG001
    """Benchmark -> a contrast of zero, for each ratio of a round; for a run that is stored, not compared."""
    return {name: Contrast(0.0, 0.0) for name in record["ratios"]}


def comparable(baseline: Baseline, machine: Mapping[str, Any]) -> tuple[Mapping[str, Any], str | None]:
    """The stored exact figures that can be compared on this machine, and a sentence on the others (None: no others).

    Peak bytes can't, unless processor, threads, device and packages are those of the stored run.
    """
    before = baseline.about["machine"] or {}
    if all(before.get(name) == machine[name] for name in SAME_MACHINE):
        return baseline.figures, None
    without = {
        name: {**each, "exact": {key: value for key, value in each.get("exact", {}).items() if key != "peak_bytes"}}
        for name, each in baseline.figures.items()
    }
    return without, "Peak bytes are not compared: they belong to the processor and the torch version of the stored run."
