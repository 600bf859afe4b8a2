"""Simulated runs of the gate over recorded rounds: how often it raises a false alarm, and what it finds.

A simulated run asks `next_round` what to measure, as a real one does. What it gets is a round drawn at random from the
real runs without a change, half of which have their arms exchanged. A slowdown is put into the head's samples.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from scipy import stats

from bench.regress.errors import GateError
from bench.regress.files import read_json, write_json, write_text
from bench.regress.injecting import TYPICAL
from bench.regress.measuring import SCREEN, GateOptions, GateRounds, next_round, of_both_arms
from bench.regress.verdict import INCONCLUSIVE, PASS, REGRESSED, overall
from bench.regress.verdict_rows import doubts, rows_of

SHARES = (0.02, 0.03, 0.04, 0.05, 0.10, 0.20)
KINDS = ("layer", "constant", "noise")
GROUPED = "[grouped-"  # the benchmarks of layers with key/value groups
OTHER = {"head": "base", "base": "head"}
CORES = 2
RARE = 10  # times as many runs without a change: false alarms are to be rare, and these runs are short
Record = Mapping[str, Any]


class Rate(NamedTuple):
    """In how many runs something came out, with the exact (Clopper-Pearson) 95 % interval of its share of all runs.

    Attributes:
        times: the runs in which it came out.
        runs: all runs.
        low, high: the ends of the interval, as shares.
    """

    times: int
    runs: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.times / self.runs:.1%} [{self.low:.1%}, {self.high:.1%}] ({self.times} of {self.runs})"


def rate(count: int, runs: int) -> Rate:
    """The share of `runs` runs in `count` of which something came out, with its interval."""
    ends = stats.binomtest(count, runs).proportion_ci(method="exact")
    return Rate(count, runs, float(ends.low), float(ends.high))


def published(folder: Path, runs: int) -> str:
    """Simulate runs, and write calibration.json and calibration.md beside the real ones; returns a line on where.

    Args:
        folder: has the real runs, a folder each.
        runs: how many to simulate for each slowdown; without one, `RARE` times as many.

    Raises:
        GateError: the folder has no rounds of runs without a change.
    """
    real = {path.parent.name: read_json(path) for path in sorted(folder.glob("*/verdict.json"))}
    pool = recorded(folder)
    simulated = {"no-change": tally(pool, RARE * runs)}
    for kind in KINDS:
        for share in SHARES:
            changed = [slowed(record, kind, share, seed) for seed, record in enumerate(pool)]
            simulated[f"{kind}-{share:.2f}"] = tally(changed, runs)
    document = {
        "schema": 1,
        "kind": "gate-calibration",
        "machine": next(iter(real.values()))["machine"] if real else None,
        "rounds": len(pool),
        "simulated": simulated,
        "real": {
            name: {key: each[key] for key in ("verdict", "why", "seconds", "load")} for name, each in real.items()
        },
    }
    write_json(folder / "calibration.json", document)
    write_text(folder / "calibration.md", table(document))
    return f"the calibration: {folder / 'calibration.md'}"


def recorded(folder: Path) -> list[Record]:
    """The rounds of the first look of all real runs without a change, each also with its arms exchanged.

    Raises:
        GateError: the folder has no such rounds.
    """
    files = sorted(folder.glob("no-change-*/rounds/*.json"))
    records = [record for record in map(read_json, files) if record["phase"] == SCREEN]
    if not records:
        raise GateError(f"{folder} has no rounds of runs without a change; run some with --no-change")
    return [with_contrasts(each) for record in records for each in (record, exchanged(record))]


def exchanged(record: Record) -> dict[str, Any]:
    """The record of the round with the samples of both arms exchanged; contrasts that it may have stay as they were."""
    return {
        **record,
        "seconds": {
            name: {f"{OTHER[process[:-2]]}{process[-2:]}": samples for process, samples in processes.items()}
            for name, processes in record["seconds"].items()
        },
    }


def slowed(record: Record, kind: str, share: float, seed: int) -> dict[str, Any]:
    """The record of the round with its head slowed down, as bench/regress/injecting.py does it, and its contrasts anew.

    Args:
        kind: of the slowdown, one of `KINDS`.
        share: of the time of a call that is added.
        seed: of the random numbers of "noise".
    """
    chance = random.Random(seed)
    slower = {
        "layer": lambda name, each: each * (1 + share) if GROUPED in name else each,
        "constant": lambda name, each: each + share * TYPICAL if _is_ours(name) else each,
        "noise": lambda name, each: each * (1 + share * chance.expovariate(1.0)) if _is_ours(name) else each,
    }[kind]
    seconds = {
        name: {
            process: list(map(partial(slower, name), samples)) if process.startswith("head") else samples
            for process, samples in processes.items()
        }
        for name, processes in record["seconds"].items()
    }
    return with_contrasts({**record, "seconds": seconds})


def with_contrasts(record: Record) -> dict[str, Any]:
    """The record of a round with its contrasts, as `GateRounds` has it."""
    return {**record, "contrasts": of_both_arms(record)}


def _is_ours(name: str) -> bool:
    """Whether a benchmark, by its name, calls mha's own layer: it is neither the control nor one of torch's modules."""
    return "[" in name and not name.partition("[")[2].startswith(("torch-", "encoder-"))


def tally(pool: Sequence[Record], runs: int, options: GateOptions | None = None) -> dict[str, int]:
    """Verdict -> how many of so many simulated runs came to it; they draw their rounds from the records in `pool`."""
    return dict(Counter(simulated(pool, random.Random(seed), options or GateOptions()) for seed in range(runs)))


def simulated(pool: Sequence[Record], chance: random.Random, options: GateOptions) -> str:
    """The verdict of one simulated run of the gate, each round of which `chance` draws from the records in `pool`."""
    rounds = GateRounds(())
    while step := next_round(rounds, options):
        drawn = chance.choice(pool)
        wanted = None if step.only is None else {"", *step.only}
        kept = {
            name: each
            for name, each in drawn["contrasts"].items()
            if wanted is None or name in wanted or "[" not in name
        }
        spent = {name: each for name, each in drawn["spent"].items() if name in kept or name == ""}
        record = {**drawn, "phase": step.phase, "contrasts": kept, "spent": spent, "took": sum(spent.values())}
        rounds = GateRounds((*rounds.records, record))
    return overall(rows_of(rounds, options), doubts(rounds, options, CORES))


def table(document: Mapping[str, Any]) -> str:
    """Two tables in Markdown, from what calibration.json holds: how often simulated and real runs came to each verdict.

    A row for each slowdown has the share of runs that were REGRESSED, PASS and INCONCLUSIVE, with its 95 % interval.
    """
    lines = [
        f"Simulated runs over {document['rounds']} recorded rounds (arms exchanged in half of them).",
        "",
        "| what was changed | REGRESSED | PASS | INCONCLUSIVE |",
        "|---|---|---|---|",
        *(_line(name, counts) for name, counts in document["simulated"].items()),
        "",
        "Whole real runs.",
        "",
        "| what was changed | REGRESSED | PASS | INCONCLUSIVE | median seconds |",
        "|---|---|---|---|---|",
    ]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for name, run in document["real"].items():
        groups.setdefault(name.rpartition("-")[0], []).append(run)
    for name, several in groups.items():
        seconds = median(run["seconds"] for run in several)
        lines.append(_line(name, Counter(run["verdict"] for run in several)) + f" {seconds:.0f} |")
    return "\n".join([*lines, ""])


def _line(name: str, counts: Mapping[str, int]) -> str:
    runs = sum(counts.values())
    cells = (str(rate(counts.get(verdict, 0), runs)) for verdict in (REGRESSED, PASS, INCONCLUSIVE))
    return f"| {name} | {' | '.join(cells)} |"
