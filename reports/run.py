"""A run as plain values: what `load` reads and everything else draws from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports import stats

BASELINES = ("even", "random")
REFERENCES = ("dense", "none")
MINUS = "−"
LAYER = "attention"  # what the run directory calls the task of the bare layer


@dataclass(frozen=True)
class Metric:
    """How a task is judged, and how that is written."""

    name: str
    higher_is_better: bool
    chance: float
    is_share: bool  # written in per cent

    @property
    def label(self) -> str:
        if self.is_share:
            return f"{self.name} (%)"
        return self.name if self.higher_is_better else f"{self.name} (lower is better)"

    def text(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self.is_share else f"{value:.3g}"

    def change(self, value: float) -> str:
        return (f"{100 * value:+.1f} points" if self.is_share else f"{value:+.3g}").replace("-", MINUS)

    def interval(self, low: float, high: float) -> str:
        scale, digits = (100, ".1f") if self.is_share else (1, ".3g")
        return f"{scale * low:{digits}} to {scale * high:{digits}}".replace("-", MINUS)


@dataclass(frozen=True, eq=False)
class AttentionExample:
    """Attention weights of one layer on one held-out example, before and after pruning."""

    task: str
    layer: str
    plan: str
    dense: np.ndarray  # (h, q, k)
    pruned: np.ndarray  # (kept h, q, k)
    heads: tuple[int, ...]  # original numbers of the kept heads
    queries: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Run:
    """One run directory, read and checked.

    Attributes:
        cases: finished latency cases, one row each: the fields of `cases/CASE.json`, `shape` a tuple.
        samples: case, arm, round, seconds; each sample once, under the case that timed it.
        failed: name, error: cases and plans that failed.
        plans: the rows of plans.csv. Empty where the file is missing; so are the next two.
        scores: task, criterion, layer, head, score, seconds.
        promises: what tasks state about themselves: task, promise, value, low, high, bound, kept ("True", "False").
        attention: in the order of the tasks and of their layers.
        notes: sentences about what is missing.
    """

    path: Path
    environment: Mapping[str, Any]
    cases: pd.DataFrame
    samples: pd.DataFrame
    failed: pd.DataFrame
    plans: pd.DataFrame
    scores: pd.DataFrame
    promises: pd.DataFrame
    attention: tuple[AttentionExample, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.environment["tasks"])

    def metric(self, task: str) -> Metric:
        about = self.environment["tasks"][task]
        values = self.plans.loc[self.plans["task"] == task, "value"]
        is_share = about["higher_is_better"] and bool(values.between(0, 1).all())
        return Metric(about["metric"], about["higher_is_better"], about["chance"], is_share)

    @cached_property
    def criteria(self) -> tuple[str, ...]:
        """Every criterion of the run, baselines last; the order gives each its colour in all figures."""
        found = {*self.plans["criterion"], *self.cases["criterion"].dropna(), *self.scores["criterion"]}
        chosen = sorted(found - {*BASELINES, *REFERENCES})
        return (*chosen, *(name for name in BASELINES if name in found))

    @cached_property
    def seconds(self) -> Mapping[tuple[str, str], np.ndarray]:
        """(case, arm) -> seconds of its rounds."""
        return {
            (str(case), str(arm)): rows.to_numpy()
            for (case, arm), rows in self.samples.groupby(["case", "arm"])["seconds"]
        }

    @cached_property
    def log_ratios(self) -> Mapping[tuple[str, str, str], np.ndarray]:
        """(case, arm over, arm under) -> log of the ratio of their seconds, round by round."""
        return {
            (case, over, under): ratios
            for over, under in (("dense", "pruned"), ("torch", "mha"))
            for case, ratios in stats.paired_log_ratios(self.samples, over, under).items()
        }
