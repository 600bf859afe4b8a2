"""Llama's attention in code that is not transformers': models that bring their own code along, and files of users.

Such a class is a copy of the one in some release of transformers. It is taken for a copy only if every line of its
forward, and of the functions that it calls, is known from one of the releases, which differ in a few places.
"""

import ast
import inspect
import re
from dataclasses import replace
from typing import Any

from torch import nn

from mha.families.base.description import Family
from mha.families.base.find import register_convention
from mha.families.reading.explain import is_from, is_from_transformers
from mha.families.reading.known_lines import check_lines, home_of, known_lines
from mha.families.reading.source import UnclearError, function_of, text
from mha.families.separate_projections import describe_separate
from mha.runtime.generated_classes import WHOLE, Members, making_class, whole

NAMES = {"q_proj", "k_proj", "v_proj", "o_proj"}
LIBRARIES = ("timm", "diffusers", "torchvision")  # they have conventions of their own
PAST = r"(past_key_values?|cache)"
OF_INPUTS = (
    r"(bsz, q_len|batch_size, seq_len(gth)?), _ = hidden_states\.(size\(\)|shape)",
    r"input_shape = hidden_states\.shape\[:-1\]",
    r"hidden_shape = \(\*input_shape, -1, self\.head_dim\)",
    r"else:",
    r"if 'padding_mask' in kwargs:",
    r"if self\.layer_idx is None:",
    r"if (attention_mask|position_embeddings) is (not )?None:",
    r"if output_attentions:",
    r"return super\(\)\.forward\([\w=, ]*\)",
)
PROJECTED = (
    *(
        rf"{states}_states = (self\.{letter}_norm\()?self\.{letter}_proj\(hidden_states\)"
        r"(\.view\(hidden_shape\)\)?\.transpose\(1, 2\))?"
        for states, letter in (("query", "q"), ("key", "k"), ("value", "v"))
    ),
    r"query_states = query_states\.view\(bsz, q_len, (self\.num_heads|-1), self\.head_dim\)\.transpose\(1, 2\)",
    r"(key|value)_states = \1_states\.view\(bsz, q_len, (self\.num_key_value_heads|-1), self\.head_dim\)"
    r"\.transpose\(1, 2\)",
)
ROTATED = (
    r"cos, sin = (position_embeddings|self\.rotary_emb\(value_states, (seq_len=kv_seq_len|position_ids)\))",
    r"query_states, key_states = apply_rotary_pos_emb\(query_states, key_states, cos, sin(, position_ids)?\)",
)
CACHED = (
    r"kv_seq_len = key_states\.shape\[-2\]",
    rf"kv_seq_len \+= {PAST}\.get_usable_length\(kv_seq_len, self\.layer_idx\)",
    r"kv_seq_len \+= past_key_value\[0\]\.shape\[-2\]",
    rf"if {PAST} is not None:",
    r"cache_kwargs = \{'sin': sin, 'cos': cos(, 'cache_position': cache_position)?\}",
    rf"key_states, value_states = {PAST}\.update\(key_states, value_states, self\.layer_idx(, cache_kwargs)?\)",
)
ATTENDED = (
    r"(key|value)_states = repeat_kv\(\1_states, self\.num_key_value_groups\)",
    r"attn_weights = torch\.matmul\(query_states, key_states\.transpose\(2, 3\)\) (/ math\.sqrt\(self\.head_dim\)"
    r"|\* self\.scaling)",
    r"if \w+\.size\(\) != \(bsz, (1|self\.num_heads), q_len, (kv_seq_len|self\.head_dim)\):",
    r"causal_mask = (attention_mask|causal_mask|attention_mask\[:, :, :, :key_states\.shape\[-2\]\])",
    r"if causal_mask is not None:",
    r"causal_mask = causal_mask\[:, :, :, :key_states\.shape\[-2\]\]",
    r"attn_weights = attn_weights \+ (attention_mask|causal_mask)",
    r"attn_weights = (nn\.functional|F)\.softmax\(attn_weights, dim=-1, dtype=torch\.float32\)"
    r"\.to\(query_states\.dtype\)",
    r"attn_weights = (nn\.functional|F)\.dropout\(attn_weights, p=self\.attention_dropout, training=self\.training\)",
    r"attn_output = torch\.matmul\(attn_weights, value_states\)",
    r"if query_states\.device\.type == 'cuda' and (attention_mask|causal_mask) is not None:",
    r"(query|key|value)_states = \1_states\.contiguous\(\)",
    r"is_causal = True if causal_mask is None and q_len > 1 else False",
    r"attn_output = (torch\.nn\.functional|nn\.functional|F)\.scaled_dot_product_attention\(query_states, key_states, "
    r"value_states, attn_mask=(attention_mask|causal_mask), dropout_p=[^=]*, is_causal=[\w. ()>]*\)",
    r"attention_interface(: Callable)? = eager_attention_forward",
    r"if self\.config\._attn_implementation != 'eager':",
    r"if self\.config\._attn_implementation == 'sdpa' and kwargs\.get\('output_attentions', False\):",
    r"attention_interface = ALL_ATTENTION_FUNCTIONS\[self\.config\._attn_implementation\]",
    r"attention_interface(: Callable)? = ALL_ATTENTION_FUNCTIONS\.get_interface\(self\.config\._attn_implementation, "
    r"eager_attention_forward\)",
    r"attn_output, attn_weights = attention_interface\(self, query_states, key_states, value_states, attention_mask, "
    r"dropout=[^=]*, scaling=self\.scaling, (sliding_window=self\.sliding_window, )?\*\*kwargs\)",
)
RETURNED = (
    r"attn_output = attn_output\.transpose\(1, 2\)\.contiguous\(\)",
    r"attn_output = attn_output\.(reshape|view)\(bsz, q_len, (self\.hidden_size|-1)\)",
    r"attn_output = attn_output\.reshape\(\*input_shape, -1\)\.contiguous\(\)",
    r"attn_output = self\.o_proj\(attn_output\)",
    r"if not output_attentions:",
    r"attn_weights = None",
    r"return \(attn_output, (attn_weights|None)(, past_key_value)?\)",
)
KNOWN = known_lines(OF_INPUTS, PROJECTED, ROTATED, CACHED, ATTENDED, RETURNED)
HELPERS = {
    "rotate_half": known_lines(
        (
            r"x1 = x\[\.\.\., :x\.shape\[-1\] // 2\]",
            r"x2 = x\[\.\.\., x\.shape\[-1\] // 2:\]",
            r"return torch\.cat\(\(-x2, x1\), dim=-1\)",
        )
    ),
    "apply_rotary_pos_emb": known_lines(
        (
            r"(cos|sin) = \1(\[position_ids\])?\.unsqueeze\((unsqueeze_dim|1)\)",
            r"(q|k)_embed = \1 \* cos \+ rotate_half\(\1\) \* sin",
            r"return \(q_embed, k_embed\)",
        )
    ),
    "repeat_kv": known_lines(
        (
            r"batch, num_key_value_heads, slen, head_dim = hidden_states\.shape",
            r"if n_rep == 1:",
            r"return hidden_states",
            r"hidden_states = hidden_states\[:, :, None, :, :\]\.expand\(batch, num_key_value_heads, n_rep, slen, "
            r"head_dim\)",
            r"return hidden_states\.reshape\(batch, num_key_value_heads \* n_rep, slen, head_dim\)",
        )
    ),
    "eager_attention_forward": known_lines(
        (
            r"(key|value)_states = repeat_kv\(\1, module\.num_key_value_groups\)",
            r"attn_weights = torch\.matmul\(query, key_states\.transpose\(2, 3\)\) \* scaling",
            r"if attention_mask is not None:",
            r"causal_mask = attention_mask\[:, :, :, :key_states\.shape\[-2\]\]",
            r"attn_weights = attn_weights \+ (attention_mask|causal_mask)",
            r"attn_weights = nn\.functional\.softmax\(attn_weights, dim=-1, dtype=torch\.float32\)\.to\(query\.dtype\)",
            r"attn_weights = nn\.functional\.dropout\(attn_weights, p=dropout, training=module\.training\)",
            r"attn_output = torch\.matmul\(attn_weights, value_states\)",
            r"attn_output = attn_output\.transpose\(1, 2\)\.contiguous\(\)",
            r"return \(attn_output, attn_weights\)",
        )
    ),
}
RETURNS_CACHE = re.compile(r"return \(attn_output, \w+, past_key_value\)")
FROM_TRANSFORMERS = ("ALL_ATTENTION_FUNCTIONS",)


@register_convention
def copied_attention(module: nn.Module) -> Family | str | None:
    """Describe a module that has Llama's four projections and is of none of the libraries known here.

    Returns:
        The description; the reason why such a module is refused, as where a line of its code is in no known release of
        transformers; None for a module without these projections, or of transformers, timm, diffusers or torchvision.
    """
    if is_from_transformers(module) or any(is_from(library, module) for library in LIBRARIES):
        return None
    if not dict(module.named_children()).keys() >= NAMES:
        return None
    try:
        _explain_code(module)
    except UnclearError as reason:
        return str(reason)
    answer = describe_separate(module)
    if not isinstance(answer, Family) or answer.without_heads is None or not RETURNS_CACHE.search(text(module)):
        return answer
    return replace(answer, without_heads=returning_cache(answer.without_heads))


@making_class
def returning_cache(kind: Any) -> tuple[str, Members]:
    """A subclass of a class for no heads that also returns the cache it is given, as releases before 4.48 expect."""
    signature = inspect.signature(getattr(kind, WHOLE).forward)

    def forward(self: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        arguments = signature.bind(self, *args, **kwargs).arguments
        output, weights, _ = kind.forward(self, *args, **kwargs)
        return output, weights, arguments.get("past_key_value")

    return "ReturningCache", {"forward": forward}


def _explain_code(module: nn.Module) -> None:
    """Refuse a module whose code is not that of a known release.

    Every forward that its class defines or inherits is read, except those of torch's own classes.

    Raises:
        UnclearError: a line of a forward, or of a function in `HELPERS` that it calls, is not known.
    """
    sliced = getattr(getattr(module, "config", None), "pretraining_tp", 1) > 1
    for base in whole(module).__mro__:
        if "forward" in vars(base) and not base.__module__.startswith("torch."):
            forward = function_of(base.forward, f"{base.__name__}.forward")
            check_lines(base.__name__, forward if sliced else _Unsliced().visit(forward), KNOWN)
            _explain_called(base.forward, ast.unparse(forward))


class _Unsliced(ast.NodeTransformer):
    """Drops the code for projections computed in slices (`pretraining_tp` > 1), which this module does not run."""

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) == "self.config.pretraining_tp > 1" else node


def _explain_called(forward: Any, code: str) -> None:
    """Refuse a forward that calls, by the name of a function of transformers, a function that does something else.

    Args:
        code: the forward's source.

    Raises:
        UnclearError: a function in `HELPERS` is not of transformers and a line of it is not known, or a name in
            `FROM_TRANSFORMERS` is not that of transformers.
    """
    known = forward.__globals__
    for name in [name for name in HELPERS if re.search(rf"\b{name}\b", code)]:
        if home_of(known.get(name)) != "transformers":
            helper = function_of(known.get(name), name)
            check_lines(name, helper, HELPERS[name])
            _explain_called(known[name], ast.unparse(ast.Module(helper.body, [])))
    for name in FROM_TRANSFORMERS:
        if name in code and home_of(type(known.get(name))) != "transformers":
            raise UnclearError(f"{name} is not that of transformers")
