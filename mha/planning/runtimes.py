"""What the runtimes that people deploy to can run of a pruned model: one table, with the source of each line."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mha.values.errors import ScoresError
from mha.values.unknown_words import unknown


class Runtime(NamedTuple):
    """What a runtime asks of a plan.

    Attributes:
        terms: arguments of `choose` beside the budget.
        why: where a reader finds that it is so.
    """

    terms: Mapping[str, Any]
    why: str


TRACED = "what is traced has the shapes of each layer in its graph (docs/exporting.md)"
GROUPS = "layers differ by n_heads_in_group and no_op of their block_configs (configurations of Nemotron-NAS)"
RUNTIMES: Mapping[str, Runtime] = {
    "torch": Runtime({}, TRACED),
    "onnx": Runtime({}, TRACED),
    "openvino": Runtime({}, TRACED),
    "executorch": Runtime({}, TRACED),
    "llama.cpp": Runtime({}, "its deci has arrays of head counts, in which 0 is a layer without attention (deci.cpp)"),
    "transformers": Runtime(
        {"uniform": True, "min_heads": 1}, "config.json states one num_attention_heads and one num_key_value_heads"
    ),
    "vllm": Runtime({"whole_groups": True}, GROUPS),
    "tensorrt-llm": Runtime({"whole_groups": True}, GROUPS),
    "tensor cores": Runtime({"multiple_of": 8}, "sides of matrix products that are multiples of 8 fill them"),
}


def terms_of(runs_on: str | None, terms: Mapping[str, Any], layers: Iterable[str]) -> dict[str, Any]:
    """The terms, and what a runtime asks for besides: of both the stricter.

    Args:
        runs_on: a name of `RUNTIMES`; None for no runtime.
        terms: fields of `mha.planning.terms.Terms`.
        layers: names of the layers that a plan is chosen for.

    Raises:
        ScoresError: there is no such runtime in the table; the message lists those that there are.
    """
    if runs_on is None:
        return dict(terms)
    if runs_on not in RUNTIMES:
        raise ScoresError(unknown("runtime", runs_on, RUNTIMES))
    asked = dict(terms)
    for name, value in RUNTIMES[runs_on].terms.items():
        asked[name] = _stricter(name, value, asked.get(name), layers)
    return asked


def _stricter(name: str, value: Any, given: Any, layers: Iterable[str]) -> Any:
    """Of a runtime's value of a term and the one that is given, what meets both."""
    if not given:
        return value
    if name == "multiple_of":
        return math.lcm(value, given)
    if isinstance(given, Mapping):  # layer -> the fewest heads
        return {layer: max(value, given.get(layer, 0)) for layer in (*layers, *given)}
    return max(value, given)
