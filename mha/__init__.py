"""Which attention heads matter, cutting the others out for good, and what that costs and saves."""

from mha import tasks, visualize
from mha.costs import CostTable, measure_costs
from mha.families import AttentionLayer, AttentionMap, Family, find_attention, register_family
from mha.importance.registry import criteria
from mha.importance.score import score
from mha.layer.attention import MultiHeadAttention
from mha.planning.choose import choose
from mha.pruning.checkpoint.saving import from_pretrained, load_pruned, save_pruned
from mha.pruning.equivalence import check
from mha.pruning.masking import masked
from mha.pruning.optimizer import slice_optimizer
from mha.pruning.slicing import plan_of, prune
from mha.repair.compensate import compensate
from mha.repair.distill import distill
from mha.repair.shrink import shrink
from mha.values.errors import EquivalenceError, MhaError, SlowPlanWarning, UnsupportedModule
from mha.values.plan import HeadPlan, HeadScores

__version__ = "0.1.0"

__all__ = [
    "AttentionLayer",
    "AttentionMap",
    "CostTable",
    "EquivalenceError",
    "Family",
    "HeadPlan",
    "HeadScores",
    "MhaError",
    "MultiHeadAttention",
    "SlowPlanWarning",
    "UnsupportedModule",
    "check",
    "choose",
    "compensate",
    "criteria",
    "distill",
    "find_attention",
    "from_pretrained",
    "load_pruned",
    "masked",
    "measure_costs",
    "plan_of",
    "prune",
    "register_family",
    "save_pruned",
    "score",
    "shrink",
    "slice_optimizer",
    "tasks",
    "visualize",
]
