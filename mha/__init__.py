"""Which attention heads matter, cutting the others out for good, and what that costs and saves."""

from mha import tasks, visualize
from mha.attention import MultiHeadAttention
from mha.checkpoint import from_pretrained, load_pruned, save_pruned
from mha.compensation import compensate
from mha.costs import CostTable, measure_costs
from mha.distillation import distill
from mha.equivalence import check
from mha.errors import EquivalenceError, MhaError, SlowPlanWarning, UnsupportedModule
from mha.families import AttentionLayer, AttentionMap, Family, find_attention, register_family
from mha.heads import HeadPlan, HeadScores
from mha.importance import criteria, score
from mha.masking import masked
from mha.optimizers import slice_optimizer
from mha.planning import choose
from mha.pruning import plan_of, prune
from mha.shrinking import shrink

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
