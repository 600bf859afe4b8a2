"""A run as plain values: what `load` reads and everything else draws from."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from reports.base import stats
from reports.base.formatting import digits
from reports.base.stats import Processes

BASELINES = ("even", "random")
REFERENCES = ("dense", "none")
MINUS = "−"
RAW, SHRINK = "none", "shrink"  # of the axis repair; shrink chooses heads itself, and is their criterion, too
LAYER = "attention"  # what the run directory calls the task of the bare layer
GENERATION = "generation"  # and the kind of cases in which a causal model generates


@dataclass(frozen=True)
class Metric:
    """The metric by which a task is judged, and how its values are written.

    Attributes:
        chance: the value that the metric has for whoever only guesses.
        is_share: whether its values are shares, which are written in per cent.
    """

    name: str
    higher_is_better: bool
    chance: float
    is_share: bool  # written in per cent

    @property
    def label(self) -> str:
        """The metric's name, with its unit if values are in per cent, or with "(lower is better)" if that is so."""
        if self.is_share:
            return f"{self.name} (%)"
        return self.name if self.higher_is_better else f"{self.name} (lower is better)"

    def text(self, value: float) -> str:
        """A value as text: of a share in per cent with one decimal, else three significant digits."""
        return f"{100 * value:.1f} %" if self.is_share else digits(value).replace("-", MINUS)

    def change(self, value: float) -> str:
        """A difference of two values as text, with its sign: of shares in points (hundredths), else a plain number."""
        if self.is_share:
            return f"{100 * value:+.1f} points".replace("-", MINUS)
        return f"{'+' if value >= 0 else MINUS}{digits(abs(value))}"

    def interval(self, low: float, high: float) -> str:
        """The interval of a value or of a difference as "LOW to HIGH", without a unit; of a share in hundredths."""
        ends = (f"{100 * end:.1f}" if self.is_share else digits(end) for end in (low, high))
        return " to ".join(ends).replace("-", MINUS)


@dataclass(frozen=True, eq=False)
class AttentionExample:
    """Attention weights of one layer on one held-out example, before and after pruning.

    Attributes:
        example: its name; "" in older runs, which have one example of a task.
        plan: the plan by which the model was pruned; "" where it is not recorded.
        dense, pruned: the weights, (h, q, k) and (kept h, q, k).
        heads: the original numbers of the kept heads, in the order of `pruned`.
        queries, keys: the labels (tokens) of the queries and of the keys, (q,) and (k,).
    """

    task: str
    example: str  # what it is called; older runs have one without a name
    layer: str
    plan: str
    dense: np.ndarray  # (h, q, k)
    pruned: np.ndarray  # (kept h, q, k)
    heads: tuple[int, ...]  # original numbers of the kept heads
    queries: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Run:
    """One run directory, read and checked. A table whose file is missing, or can't be read, is empty.

    Attributes:
        path: as it was given, of a directory or of the .zip of one; nothing reads from it later.
        environment: what environment.json holds.
        cases: finished latency cases, one row each: the fields of `cases/CASE.json`, `shape` a tuple, without those
            that have tables of their own.
        samples: case, arm, round, seconds, process; each sample once, under the case that timed it.
        counts: case, arm, flops, attention_flops, bytes, parameters, peak_bytes, cache_bytes of one call.
        skipped_arms: case, arm, reason.
        unfinished: kind, name, status, error: cases, plans and other steps that failed, ran out of memory or were
            skipped.
        examples: task, plan, example, value (see `read_examples`), told: what each model did on each held-out example.
        plans: the rows of plans.csv, or, where the run has not ended or these are none, those made from `plans/`.
        scores: task, criterion, layer, head, score, seconds.
        promises: what tasks state about themselves: task, promise, value, low, high, bound, kept ("True", "False").
        ceilings: device, dtype, ceiling ("matmul" in FLOP/s, "copy" and "cached copy" in bytes/s), value, low, high,
            samples, process.
        predictions: shares of dense latency, predicted from measured costs, and measured.
        operators, memory: where a profiled pass spent its time, and what it had allocated when.
        slices: the metric of pruned plans on parts of the examples that the task names: task, plan, slice, examples,
            value, dense, and difference with an interval that holds for all parts of a plan at once.
        calibration: how far a plan's model is as often right as it is sure: task, plan, measure, value, low, high,
            difference, difference_low, difference_high, answers.
        reliability: task, plan, bin, answers, confidence, right: answers in bins of rising confidence.
        texts: task, plan, number, prompt, pieces (the tokens that a model wrote, as a JSON list).
        attention: the attention weights of a few examples, in the order of the tasks; see `read_attention`.
        notes: sentences about what is missing.
        left_out: what, reason: what of the files could not be used. `what` is a path relative to the run, or tells of
            several files; `reason` is a sentence.
    """

    path: Path
    environment: Mapping[str, Any]
    cases: pd.DataFrame
    samples: pd.DataFrame
    counts: pd.DataFrame
    skipped_arms: pd.DataFrame
    unfinished: pd.DataFrame
    examples: pd.DataFrame
    plans: pd.DataFrame
    scores: pd.DataFrame
    promises: pd.DataFrame
    ceilings: pd.DataFrame
    predictions: pd.DataFrame
    operators: pd.DataFrame
    memory: pd.DataFrame
    slices: pd.DataFrame
    calibration: pd.DataFrame
    reliability: pd.DataFrame
    texts: pd.DataFrame
    attention: tuple[AttentionExample, ...]
    notes: tuple[str, ...]
    left_out: pd.DataFrame

    @property
    def name(self) -> str:
        """The name of the run: see `name_of`."""
        return name_of(self.path)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return tuple(self.environment["tasks"])

    def metric(self, task: str) -> Metric:
        """The metric of a task; it is a share if larger is better and the values of all its plans are from 0 to 1."""
        facts = self.environment["tasks"][task]
        values = self.plans.loc[self.plans["task"] == task, "value"]
        is_share = facts["higher_is_better"] and bool(values.between(0, 1).all())
        return Metric(facts["metric"], facts["higher_is_better"], facts["chance"], is_share)

    def pretrained(self, task: str) -> bool:
        """Whether a task's model was trained elsewhere, for its own sake; False where an older run does not say."""
        return bool(self.environment["tasks"][task].get("pretrained"))

    @cached_property
    def criteria(self) -> tuple[str, ...]:
        """The names of the criteria that plans, cases or scores are of, sorted, with shrink and the baselines last.

        The order gives each its colour in all figures. "dense" and "none", which stand for no criterion, are left out.
        """
        names = {*self.plans["criterion"], *self.cases["criterion"].dropna(), *self.scores["criterion"]}
        chosen = sorted(names - {SHRINK, *BASELINES, *REFERENCES})
        return (*chosen, *(name for name in (SHRINK, *BASELINES) if name in names))

    @property
    def noisy(self) -> tuple[str, ...]:
        """Sentences on what was wrong with the machine when the run checked whether it is quiet; none if it was."""
        others = [
            (f"{name}: ", about.get("machine")) for name, about in (self.environment.get("machines") or {}).items()
        ]
        machines = [("", self.environment.get("machine")), *others]
        return tuple(f"{name}{why}" for name, machine in machines for why in (machine or {}).get("noisy") or ())

    @cached_property
    def timed(self) -> frozenset[str]:
        """The names of the cases that have samples, which are those that timed a shape."""
        return frozenset(self.samples["case"].unique())

    @cached_property
    def seconds(self) -> Mapping[tuple[str, str], Processes]:
        """(case, arm) -> the seconds of its samples, one array (rounds,) for each process."""
        values = self.samples["seconds"].to_numpy()
        rounds: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
        # indices, not groups: a frame for each of thousands of cases takes seconds
        groups = self.samples.groupby(["case", "arm", "process"]).indices
        for (case, arm, _), rows in sorted(cast(dict[Any, np.ndarray], groups).items()):
            rounds[str(case), str(arm)].append(values[rows])
        return {key: tuple(processes) for key, processes in rounds.items()}

    @cached_property
    def log_ratios(self) -> Mapping[tuple[str, str, str], Processes]:
        """(case, arm over, arm under) -> logs of the ratios of their seconds, paired by round, an array a process.

        The pairs of arms are ("dense", "pruned") and (X, "mha") for each other arm X; an array is (rounds,).
        """
        others = sorted({*self.samples["arm"]} - {"mha", "dense", "pruned"})
        return {
            (case, over, under): ratios
            for over, under in (("dense", "pruned"), *((arm, "mha") for arm in others))
            for case, ratios in stats.paired_log_ratios(self.samples, over, under).items()
        }


def name_of(path: Path) -> str:
    """The name of a run: that of its directory, or of its archive without .zip."""
    path = path.resolve()
    return path.stem if path.suffix.lower() == ".zip" else path.name
