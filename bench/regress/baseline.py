"""A stored run to compare with: what may be compared with another machine's, and no more.

Exact figures may; times may not. The ratio of two times of one process, as pruned over dense, may: what slows both does
not show in it.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np

from bench.regress.errors import GateError
from bench.regress.files import read_json
from bench.regress.measuring import SCREEN, Rounds
from bench.regress.statistics import Contrast

SCHEMA, KIND = 1, "gate-baseline"
SAME_MACHINE = ("cpu", "threads", "packages")  # for peak bytes: kernels take working memory as the processor has it
NOTE = (
    "Compared with the stored run {label}: exact figures and ratios of times in one process (pruned over dense) only. "
    "Absolute times belong to the machine that they were measured on."
)


class Baseline(NamedTuple):
    """What is kept of a run.

    Attributes:
        label: the file.
        ratios: benchmark -> of each round the logarithm of its time over that of the one beside it.
        figures: as `exact.read` has them.
        about: `revision`, `created`, `python` and `machine`.
    """

    label: str
    ratios: Mapping[str, list[float]]
    figures: Mapping[str, Any]
    about: Mapping[str, Any]


def kept(rounds: Rounds, figures: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The document of `baseline.json`: what the head of this run was like."""
    found: dict[str, list[float]] = {}
    for record in rounds.of(SCREEN):
        for name in record["beside"]:
            if logs := ratios_of(record, name):
                found.setdefault(name, []).append(fmean(logs))
    return {"schema": SCHEMA, "kind": KIND, **about, "ratios": found, "figures": figures}


def read_baseline(path: Path) -> Baseline:
    """Raises:
    GateError: there is none, or it is something else.
    """
    if not path.is_file():
        raise GateError(f"--baseline {path}: no such file. Every run of the gate leaves one: DIR/baseline.json")
    found = read_json(path)
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise GateError(
            f"--baseline {path}: expected the baseline.json of a run of the gate; times of another machine, as in a "
            "report of pytest-benchmark, are never compared"
        )
    if found.get("schema") != SCHEMA:
        raise GateError(f"--baseline {path}: its schema is {found.get('schema')!r}, expected {SCHEMA}; make it again")
    about = {name: found.get(name) for name in ("revision", "created", "python", "machine")}
    return Baseline(str(path), found.get("ratios") or {}, found.get("figures") or {}, about)


def ratios_of(record: Mapping[str, Any], name: str) -> list[float]:
    """Of each process of the head, log of the median time over that of the benchmark beside it; [] where one misses."""
    over, under = record["seconds"].get(name, {}), record["seconds"].get(record["beside"].get(name), {})
    both = sorted(process for process in over if process.startswith("head") and process in under)
    return [float(np.log(median(over[process]) / median(under[process]))) for process in both]


def against(baseline: Baseline, record: Mapping[str, Any], number: int) -> dict[str, Contrast]:
    """The contrasts of a round with the stored rounds, paired as they come; those of the control, too, which are none.

    Args:
        number: of the round, from 0.
    """
    found = {}
    for name, stored in baseline.ratios.items():
        logs = ratios_of(record, name)
        if len(logs) > 1 and stored:
            found[name] = Contrast(fmean(logs) - stored[number % len(stored)], (logs[0] - logs[1]) / 2**0.5)
    return found


def comparable(baseline: Baseline, machine: Mapping[str, Any]) -> tuple[Mapping[str, Any], str | None]:
    """The stored figures that mean the same here, and what a reader should know of the others."""
    before = baseline.about["machine"] or {}
    if all(before.get(name) == machine[name] for name in SAME_MACHINE):
        return baseline.figures, None
    without = {
        name: {**each, "exact": {key: value for key, value in each.get("exact", {}).items() if key != "peak_bytes"}}
        for name, each in baseline.figures.items()
    }
    return without, "Peak bytes are not compared: they belong to the processor and the torch version of the stored run."
