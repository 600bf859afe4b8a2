"""Which attention heads matter, cutting the others out for good, and what that costs and saves.

Every arrow is one function, every noun a value that can be printed, saved and compared:

    model ─find_attention─▶ AttentionMap ─score─▶ HeadScores ─choose─▶ HeadPlan ─prune─▶ smaller model

To find out which heads matter: `find_attention` lists the attention layers of a model, `score` rates their heads by one
of the `criteria`, and `visualize` shows them. To cut: `choose` turns scores and a budget into a plan, whose price
`measure_costs` tells beforehand; `masked` tries the plan out, `prune` slices the weights, `check` proves that both
agree. To repair: `compensate` fits what is left to the dense model, `distill` trains it, and `shrink` does everything
in one call. To keep: `save_pruned`, `load_pruned`, `from_pretrained`; to leave for another runtime: `export`, proved by
`check_export`. To add: `register_family` for attention of your
own, `register_criterion` for a way to score. All of it from the command line: `python -m mha --help`.

Plans and scores speak of original head numbers, also for a model that has been pruned before. All errors raised on
purpose are `MhaError`s.

Example:
    >>> layer = nn.TransformerEncoderLayer(32, nhead=4, batch_first=True)
    >>> model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    >>> batches = [torch.randn(8, 5, 32) for _ in range(2)]
    >>> scores = mha.score(model, batches, lambda model, batch: model(batch).square().mean())
    >>> plan = mha.choose(scores, keep=0.5)
    >>> smaller = mha.prune(model, plan)
    >>> sum(layer.num_heads for layer in mha.find_attention(smaller).values())
    4
    >>> mha.check(model, plan, (batches[0],)) < 1e-5
    True
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mha import tasks, visualize
    from mha.certifying.certificate import Certificate
    from mha.certifying.certify import certify
    from mha.certifying.judge import Judge
    from mha.costs import CostTable, measure_costs
    from mha.exporting.check_export import ExportCheck, check_export
    from mha.exporting.export import export
    from mha.exporting.exported import Exported
    from mha.families import AttentionLayer, AttentionMap, Family, find_attention, register_family
    from mha.importance.registry import criteria, register_criterion
    from mha.importance.score import score
    from mha.layer.attention import MultiHeadAttention
    from mha.planning.choose import choose
    from mha.pruning.checkpoint.loading import from_pretrained, load_pruned
    from mha.pruning.checkpoint.saving import save_pruned
    from mha.pruning.equivalence import check
    from mha.pruning.masking import masked
    from mha.pruning.optimizer import slice_optimizer
    from mha.pruning.slicing import plan_of, prune
    from mha.repair.compensate import compensate
    from mha.repair.distill import distill
    from mha.repair.shrink import shrink
    from mha.values.errors import (
        BusyError,
        CalibrationError,
        CertificateError,
        CheckpointError,
        CostsError,
        EquivalenceError,
        ExportError,
        LostHeadsWarning,
        MhaError,
        MissingPackageError,
        OptimizerError,
        OverlapWarning,
        PlanError,
        ScoresError,
        ShapeError,
        SlowPlanWarning,
        TaskError,
        UnsupportedModule,
    )
    from mha.values.plan import HeadPlan, HeadScores

__version__ = "0.1.0"

__all__ = [
    "AttentionLayer",
    "AttentionMap",
    "BusyError",
    "CalibrationError",
    "Certificate",
    "CertificateError",
    "CheckpointError",
    "CostTable",
    "CostsError",
    "EquivalenceError",
    "ExportCheck",
    "ExportError",
    "Exported",
    "Family",
    "HeadPlan",
    "HeadScores",
    "Judge",
    "LostHeadsWarning",
    "MhaError",
    "MissingPackageError",
    "MultiHeadAttention",
    "OptimizerError",
    "OverlapWarning",
    "PlanError",
    "ScoresError",
    "ShapeError",
    "SlowPlanWarning",
    "TaskError",
    "UnsupportedModule",
    "certify",
    "check",
    "check_export",
    "choose",
    "compensate",
    "criteria",
    "distill",
    "export",
    "find_attention",
    "from_pretrained",
    "load_pruned",
    "masked",
    "measure_costs",
    "plan_of",
    "prune",
    "register_criterion",
    "register_family",
    "save_pruned",
    "score",
    "shrink",
    "slice_optimizer",
    "tasks",
    "visualize",
]

_HOME = {  # module -> the public names that it defines: each is imported when it is first asked for
    "mha.certifying.certificate": "Certificate",
    "mha.certifying.certify": "certify",
    "mha.certifying.judge": "Judge",
    "mha.costs": "CostTable measure_costs",
    "mha.exporting.check_export": "ExportCheck check_export",
    "mha.exporting.export": "export",
    "mha.exporting.exported": "Exported",
    "mha.families": "AttentionLayer AttentionMap Family find_attention register_family",
    "mha.importance.registry": "criteria register_criterion",
    "mha.importance.score": "score",
    "mha.layer.attention": "MultiHeadAttention",
    "mha.planning.choose": "choose",
    "mha.pruning.checkpoint.loading": "from_pretrained load_pruned",
    "mha.pruning.checkpoint.saving": "save_pruned",
    "mha.pruning.equivalence": "check",
    "mha.pruning.masking": "masked",
    "mha.pruning.optimizer": "slice_optimizer",
    "mha.pruning.slicing": "plan_of prune",
    "mha.repair.compensate": "compensate",
    "mha.repair.distill": "distill",
    "mha.repair.shrink": "shrink",
    "mha.values.errors": (
        "BusyError CalibrationError CertificateError CheckpointError CostsError EquivalenceError ExportError "
        "LostHeadsWarning MhaError MissingPackageError OptimizerError OverlapWarning PlanError ScoresError ShapeError "
        "SlowPlanWarning TaskError UnsupportedModule"
    ),
    "mha.values.plan": "HeadPlan HeadScores",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}
_ROOMS = (
    *("certifying", "cli", "costs", "exporting", "families", "importance", "layer", "planning", "pruning"),
    *("repair", "runtime", "tasks", "timing", "values", "visualize"),
)


def __getattr__(name: str) -> Any:
    """A public name, or a room of the library, imported when it is first asked for: `import mha` alone costs nothing.

    Raises:
        AttributeError: there is no such name.
    """
    if name in _ROOMS:
        return importlib.import_module(f"mha.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mha' has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    """All names that can be asked for."""
    return sorted({*globals(), *__all__, *_ROOMS})
