"""Multi-head latent attention (DeepSeek-V2, 2024, section 2.1): keys and values come from a latent that heads share.

The projections from the latents to heads lose rows with their heads; the latents, and what leads to them, stay whole.
"""

import re

from torch import nn

from mha.families.base.description import Family
from mha.families.base.find import register_convention
from mha.families.reading.explain import Projections, describe, is_from_transformers
from mha.families.reading.source import UnclearError, text
from mha.runtime.generated_classes import whole
from mha.values.layout import Axis

LATENTS = ("q_a_proj", "q_a_layernorm", "kv_a_proj_with_mqa", "kv_a_layernorm", "k_rope_only_layernorm")
QUERIES = {"q_b_proj": "(h g d)", "q_proj": "(h g d)", "q_gate_proj": "(h g m)"}
# DeepSeek-V3.2 (2025, section 2.1): which keys are attended to is the same for all heads, and may be handed on to later
# layers. A layer without heads goes on computing that, by its own code.
HANDED_ON = "topk_indices = prev_topk_indices"
INDEXED = re.compile(r"self\.indexer\((hidden_states=)?hidden_states, (q_resid=)?q_resid,")
WIDTHS = ("qk_head_dim", "v_head_dim", "qk_nope_head_dim")


@register_convention
def latent_projections(module: nn.Module) -> Family | str | None:
    """Describe a module of transformers with DeepSeek's projections to and from a latent of keys and values.

    Returns:
        The description; the reason why such a module is refused, as where its attributes don't give the widths of a
        head; None for any other module.
    """
    children = dict(module.named_children())
    if not is_from_transformers(module) or not {"kv_a_proj_with_mqa", "kv_b_proj", "o_proj"} <= children.keys():
        return None
    query = next((name for name in QUERIES if isinstance(children.get(name), nn.Linear)), None)
    try:
        if query is None or any(not isinstance(vars(module).get(name), int) for name in WIDTHS):
            raise UnclearError("no attribute gives the widths of a latent head")
        key, value, content = (vars(module)[name] for name in WIDTHS)
        rows: dict[str, Axis] = {query: (QUERIES[query],), "kv_b_proj": ("(h n)",)}
        heads = int(children["o_proj"].get_parameter("weight").shape[1]) // value
        sizes = {"h": heads, "g": 1, "d": key, "e": value, "n": content + value, "m": key + value}
        code, kind = text(module), whole(module)
        indexed = ", indexed" if INDEXED.search(code) or HANDED_ON in code else ""
        kept_whole = (*LATENTS, "indexer") if INDEXED.search(code) else LATENTS
        projections = Projections(f"latent{indexed} {query} … o_proj", "", rows, "o_proj", sizes, kept_whole)
        return describe(module, projections, empty=kind if indexed else None)
    except UnclearError as reason:
        return str(reason)
