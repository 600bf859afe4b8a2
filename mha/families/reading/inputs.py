"""The arguments of an attention module's forward: which are the same for all heads, and which hold a part for each.

An argument that is not known here, by its name and by what the code does with it, may have a size per head, or come
from a layer with other heads; the module is then refused.
"""

import inspect
import re

from torch import nn

from mha.families.base.gathering import masks_of
from mha.families.reading.source import UnclearError, reading, text
from mha.runtime.generated_classes import whole

# The same for all heads, whatever the code does with them.
SHARED = frozenset(
    (
        "self",
        "hidden_states",
        "hidden_state",
        "attention_mask",
        "past_key_values",
        "past_key_value",
        "layer_past",
        "cache",
        "layer_state",
        "cache_position",
        "use_cache",
        "output_attentions",
        "position_ids",
        "position_embeddings",
        "rotary_pos_emb",
        "cu_seqlens",
        "max_seqlen",
        "key_value_states",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "cross_attention_states",
        "query",
        "key",
        "value",
        "queries",
        "keys",
        "values",
        "query_states",
        "key_states",
        "value_states",
        "x",
        "mask",
        "attn_mask",
        "input",
        "kv",
        "is_causal",
        "is_index_masked",
        "sequence_length",
        "kwargs",
        "args",
    )
)
# The same for all heads if the code uses them so.
SHARED_IF = {
    "from_tensor": r"self\.query\(from_tensor\)",
    "to_tensor": r"self\.key\(to_tensor\)",
    "query_tensor": r"self\.query\(query_tensor\)",
    "key_tensor": r"self\.key\(key_tensor\)",
    "value_tensor": r"self\.value\(value_tensor\)",
    "hidden_q": r"self\.project_q\(hidden_q\)",
    "hidden_kv": r"self\.project_k\(hidden_kv\)",
    "height": r"\(hidden_states, height, width\)|\.(reshape|view)\(batch_size, num_channels, height, width\)",
    "width": r"\(hidden_states, height, width\)|\.(reshape|view)\(batch_size, num_channels, height, width\)",
    "layer_idx": r"\.update\(key_states, value_states, layer_idx\)",
    "object_queries": r"self\.with_pos_embed\(hidden_states, object_queries\)|hidden_states \+ object_queries",
    "spatial_position_embeddings": r"self\.with_pos_embed\(key_value_states, spatial_position_embeddings\)",
    "sinusoidal_pos": r"sin, cos = sinusoidal_pos\.chunk\(2, dim=-1\)",
    "relative_position_embeddings": r"_encoding\(self, query_states, key_states, relative_position_embeddings\)",
    "context": r"self\.key\(context\)",
    "v": r"self\.Wv\(v\)",
    "k": r"self\.Wk\(k\)",
    "q": r"self\.Wq\(q\)",
    "rel_embeddings": r"self\.(pos_key_proj|key_proj|pos_proj|pos_q_proj)\(rel_embeddings\)",
    "relative_pos": r"torch\.clamp\(relative_pos \+ att_span",
    "bbox_pos_emb": r"torch\.einsum\('bnid,bijd->bnij', \(query_layer, bbox_pos_emb\)\)",
    "position_mask": r"self\.get_position_ids\(hidden_states, masks=position_mask\)",
    "cycle_offset": r"\.update\(key_states, value_states, self\.layer_idx \+ cycle_offset\)",
    "codebook_idx": r"self\.q_proj\(hidden_states, codebook_idx\)",
    "attention_scaling": r"query_states\.float\(\) \* attention_scaling",
    "context_hidden_states": r"torch\.cat\(\[context_hidden_states, hidden_states\], dim=1\)",
    "key_padding_mask": r"key_padding_mask\.unsqueeze\(1\)\.unsqueeze\(2\)",
    "prev_topk_indices": r"topk_indices = prev_topk_indices",
    "inputs": r"self\.key\(inputs\)",
    "inputs_mask": r"attention_mask = inputs_mask",
    "is_index_global_attn": r"self\._get_global_attn_indices\(is_index_global_attn\)",
    "is_global_attn": r"if is_global_attn:",
    "attention_dists": r"self\.rel_pos_emb\(attention_dists\)",
    "attention_similarity": r"attention_mask=attention_similarity",
    "word_hidden_states": r"self\.query\(word_hidden_states\)",
    "entity_hidden_states": r"torch\.cat\(\[word_hidden_states, entity_hidden_states\]",
    "pos_emb": r"self\.linear_pos\(pos_emb\)",
    "position_bias": r"torch\.matmul\(reshape_q, position_bias\.transpose\(-2, -1\)\)",
    "residual": r"dropout_add\(output_tensor, residual, self\.hidden_dropout, self\.training\)",
    "resolution": r"height, width = resolution",
    "size": r"H, W = size|reshape\(B, C, \*size\)",
    "feat_size": r"H, W = feat_size",
    "interpolate_pos_encoding": r"self\.relative_position_bias\(window_size, interpolate_pos_encoding",
}
# One part for each head, along this dimension, if the code adds them to the scores, (b, h, q, k).
PER_HEAD = {
    "rope": (-3, r"apply_rot_embed_cat\(q"),
    "shared_rel_pos_bias": (-3, r"(\+|rel_pos_bias =) shared_rel_pos_bias"),
    "alibi": (-3, r"alibi\.baddbmm\(|alibi\.view\(batch_size, self\.num_heads, 1, -1\)"),
    "position_bias": (-3, r"(attention_scores|score) (=|\+=) ((attention_scores|score) \+ )?position_bias"),
    "attention_mask": (-3, r"expected_shape = \(batch_size, self\.num_attn_heads, 1, src_len\)"),
    "attn_prompt": (-3, r"attn_prompt\[0\]\.expand\(bsz, -1, -1, -1\)"),
    "rel_pos": (-3, r"attention_scores \+= (\(rel_pos \+ rel_2d_pos\)|rel_pos) /"),
    "rel_2d_pos": (-3, r"attention_scores \+= \(rel_pos \+ rel_2d_pos\) /"),
    "relative_position_bias": (
        -3,
        r"(attn_bias|attention_scores) (=|\+=) (attention_scores \+ )?relative_position_bias",
    ),
}
# Queries whose heads come before their positions, rotated by angles with a row for each head: (b, h, d).
ROTATES_BY_HEAD = re.compile(
    r"(\w+) = [^\n]*\.transpose\(1, 2\)\n(?:.*\n)*?.*rotary_pos_emb\(\1, [^\n]*unsqueeze_dim=2\)"
)
# A tensor that the model has added per-head inputs to before it comes here: of one head, or of each.
MERGED = {"alibi": ("attention_mask", -3)}


def explain_inputs(module: nn.Module, known: frozenset[str] = frozenset()) -> dict[str, int]:
    """Argument of the module's forward that holds a part for each head -> its dimension of heads, from the back (-3).

    Attention masks are among them, for these may have one part for each head.

    Args:
        known: arguments that are not looked at, since the caller knows of them.

    Raises:
        UnclearError: `forward` reads another argument that is not known to be the same for all heads, or to be used as
            one with a part for each.
    """
    code, used = text(module), reading(module)
    names = [name for name in inspect.signature(whole(module).forward).parameters if name not in known]
    names = [name for name in names if used is None or name in used.variables]
    per_head = {name: PER_HEAD[name][0] for name in names if name in PER_HEAD and re.search(PER_HEAD[name][1], code)}
    shared = {name for name in names if name in SHARED_IF and re.search(SHARED_IF[name], code)}
    shared |= SHARED - per_head.keys()
    if unknown := [name for name in names if (name in per_head) == (name in shared)]:
        raise UnclearError(
            f"{whole(module).__name__} is given {', '.join(unknown)}, which may differ from head to head"
        )
    if ROTATES_BY_HEAD.search(code):
        per_head["position_embeddings"] = -2
    return masks_of(module) | per_head | dict(MERGED[name] for name in per_head if name in MERGED)
