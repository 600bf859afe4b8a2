"""The order of figures on each kind of page: that of the lists here, then by name those in none of them."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from reports import figures
from reports.figures import compare, importance_run, runtimes_run

RUN = (
    "accuracy_latency",
    "generation",
    "layer_peers",
    "kept_accuracy",
    "changed_examples",
    "slices",
    "reliability",
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
RUNTIMES_RUN = ("runtimes", "footprint")
Module = TypeVar("Module")


def of_run() -> dict[str, figures.FigureModule]:
    """All figure modules of a run by name, in the order in which its page shows them."""
    return in_order(figures.registry(), RUN)


def of_task(task: str) -> dict[str, figures.FigureModule]:
    """The figure modules about `task` (a task's name, LAYER or GENERATION) by name, in the order of a run's page."""
    return in_order(figures.about(task), RUN)


def of_comparison() -> dict[str, compare.FigureModule]:
    """All figure modules of two sides by name, in the order in which their page shows them."""
    return in_order(compare.registry(), COMPARE)


def of_importance_run() -> dict[str, importance_run.FigureModule]:
    """All figure modules of the importance experiments by name, in the order in which their page shows them."""
    return in_order(importance_run.registry(), IMPORTANCE_RUN)


def of_runtimes_run() -> dict[str, runtimes_run.FigureModule]:
    """All figure modules of runs of bench.runtimes by name, in the order in which their page shows them."""
    return in_order(runtimes_run.registry(), RUNTIMES_RUN)


def in_order(modules: Mapping[str, Module], names: Sequence[str]) -> dict[str, Module]:
    """The same mapping in the order of `names`, and after these what they don't name, by name."""
    places = [*names, *sorted(modules)]
    return {name: modules[name] for name in sorted(modules, key=places.index)}
