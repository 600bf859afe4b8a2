"""Which figure stands where: on every page in the order of these lists; one that is not named comes last, by name."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from reports import figures
from reports.figures import compare, importance_run

RUN = (
    "accuracy_latency",
    "generation",
    "layer_peers",
    "kept_accuracy",
    "layer_pruning",
    "latency_heads",
    "layer_map",
    "speedup_map",
    "speedup_bounds",
    "roofline",
    "predictions",
    "operators",
    "memory_timeline",
    "criteria",
    "importance",
    "attention_overview",
    "attention_maps",
)
COMPARE = ("speedups", "ratios", "fronts", "accuracies", "peers")
IMPORTANCE_RUN = ("cost", "curves", "agreement", "stability")
Module = TypeVar("Module")


def of_run() -> dict[str, figures.FigureModule]:
    """Name -> figure of a run, in order."""
    return in_order(figures.registry(), RUN)


def of_task(task: str) -> dict[str, figures.FigureModule]:
    """Name -> figure of those that are asked about a task, about the bare layer or about generation, in order."""
    return in_order(figures.about(task), RUN)


def of_comparison() -> dict[str, compare.FigureModule]:
    """Name -> figure of two sides, in order."""
    return in_order(compare.registry(), COMPARE)


def of_importance_run() -> dict[str, importance_run.FigureModule]:
    """Name -> figure of the importance experiments, in order."""
    return in_order(importance_run.registry(), IMPORTANCE_RUN)


def in_order(modules: Mapping[str, Module], names: Sequence[str]) -> dict[str, Module]:
    """The modules as `names` has them, and then the others by name."""
    places = [*names, *sorted(modules)]
    return {name: modules[name] for name in sorted(modules, key=places.index)}
