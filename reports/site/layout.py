"""The order of figures on each kind of page: that of the lists here, then by name those in none of them."""

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
    """Name -> figure module, of all figures of a run, in the order of its page."""
    return in_order(figures.registry(), RUN)


def of_task(task: str) -> dict[str, figures.FigureModule]:
    """Name -> figure module, of those about `task` (a task's name, LAYER or GENERATION), in the order of the page."""
    return in_order(figures.about(task), RUN)


def of_comparison() -> dict[str, compare.FigureModule]:
    """Name -> figure module, of all figures of two sides, in the order of their page."""
    return in_order(compare.registry(), COMPARE)


def of_importance_run() -> dict[str, importance_run.FigureModule]:
    """Name -> figure module, of all figures of the importance experiments, in the order of their page."""
    return in_order(importance_run.registry(), IMPORTANCE_RUN)


def in_order(modules: Mapping[str, Module], names: Sequence[str]) -> dict[str, Module]:
    """The modules in the order of `names`, and then those that are not among these, by name."""
    places = [*names, *sorted(modules)]
    return {name: modules[name] for name in sorted(modules, key=places.index)}
