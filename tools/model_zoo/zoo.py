"""Every model type of transformers, tiny, with random weights and inputs of its modality; nothing is downloaded.

specimen = build("llama")
output = run(specimen)
"""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import model_type_to_module_name

from tools.model_zoo.configs import COMMON_TOKENS, SIZES, tiny_config
from tools.model_zoo.drivers import DRIVERS, FORGET
from tools.model_zoo.inputs import LAST_WORD, inputs_for
from tools.model_zoo.precision import DoublePrecision
from tools.model_zoo.reasons import KNOWN, reason_of
from tools.model_zoo.weights import draw_weights

Attention = Literal["sdpa", "eager"]

# Where the generating class of a type stands; the first that lists it counts.
GENERATING = (
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)


class NotBuilt(Exception):  # noqa: N818
    """This model type can't be built here; the message says why in a few words."""


@dataclass(frozen=True)
class Specimen:
    """A tiny model that is ready to run.

    Attributes:
        model: in evaluation mode, every weight drawn at random.
        inputs: keyword arguments for its `forward`; empty for a type that `run` runs by a function in `DRIVERS`.
        generates: whether `build_generating` makes one of this type.
        attention: "sdpa", or "eager" where the type has no other.
    """

    model_type: str
    model: nn.Module
    config: PreTrainedConfig
    inputs: dict[str, Any]
    generates: bool
    attention: Attention


def model_types() -> tuple[str, ...]:
    """All types that transformers maps to a base model."""
    return tuple(modeling_auto.MODEL_MAPPING_NAMES)


def build(
    model_type: str, seed: int = 0, dtype: torch.dtype = torch.float64, attention: Attention = "sdpa"
) -> Specimen:
    """The base model of a type (what `AutoModel` gives), with inputs for it.

    Raises:
        NotBuilt: a library is missing, or the type can't be made small.
    """
    return _built(model_type, modeling_auto.MODEL_MAPPING_NAMES, seed, dtype, attention, generating=False)


def build_generating(
    model_type: str, seed: int = 0, dtype: torch.dtype = torch.float64, attention: Attention = "sdpa"
) -> Specimen:
    """The model of a type that has logits and `generate`, with inputs for it whose texts are not padded.

    Raises:
        NotBuilt: the type does not generate, or what `build` raises.
    """
    names = _generating_names(model_type)
    if names is None:
        raise NotBuilt("does not generate text")
    return _built(model_type, names, seed, dtype, attention, generating=True)


def run(specimen: Specimen, model: nn.Module | None = None) -> Any:
    """The output for the specimen's inputs: that of its own model, or of `model` if one is given.

    The same seed is set each time, since some models draw noise also while they are evaluated.
    """
    model = specimen.model if model is None else model
    torch.manual_seed(0)
    with _precision_of(model):
        drive = DRIVERS.get(specimen.model_type)
        output = model(**specimen.inputs) if drive is None or specimen.inputs else drive(model)
    if forget := FORGET.get(specimen.model_type):
        forget(model)
    return output


def generate(
    specimen: Specimen, model: nn.Module | None = None, *, cache: Literal["dynamic", "static"] | None, steps: int = 4
) -> Tensor:
    """The logits of greedy generation, (b, step, vocabulary), with a key/value cache or without."""
    model = specimen.model if model is None else model
    torch.manual_seed(0)
    options: dict[str, Any] = {"cache_implementation": cache} if cache == "static" else {}
    if specimen.config.is_encoder_decoder:
        options["decoder_start_token_id"] = COMMON_TOKENS["decoder_start_token_id"]
    with _precision_of(model), torch.no_grad():
        made = cast(Any, model).generate(
            **specimen.inputs,
            **options,
            use_cache=cache is not None,
            do_sample=False,
            num_beams=1,
            suppress_tokens=list(range(LAST_WORD, SIZES["vocab_size"])),  # a placeholder would ask for its image
            min_new_tokens=steps,
            max_new_tokens=steps,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.stack(made.logits, dim=1)


def tensors(output: Any) -> Iterator[Tensor]:
    """All tensors of an output, in order; a key/value cache is passed over."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from tensors(part)
    elif isinstance(output, list | tuple):
        for part in output:
            yield from tensors(part)


def _built(
    model_type: str,
    names: Mapping[str, Any],
    seed: int,
    dtype: torch.dtype,
    attention: Attention,
    *,
    generating: bool,
) -> Specimen:
    if model_type in KNOWN:
        raise NotBuilt(KNOWN[model_type])
    try:
        with _precision(dtype):
            model, attention = _model(model_type, names, seed, dtype, attention, generating)
            drawn = {} if model_type in DRIVERS and not generating else inputs_for(model_type, model, seed, generating)
    except Exception as error:
        raise NotBuilt(reason_of(error)) from error
    inputs = {name: _as_dtype(value, dtype) for name, value in drawn.items()}
    generates = generating or _generating_names(model_type) is not None
    return Specimen(model_type, model, model.config, inputs, generates, attention)


def _model(
    model_type: str, names: Mapping[str, Any], seed: int, dtype: torch.dtype, attention: Attention, generating: bool
) -> tuple[Any, Attention]:
    kind = _model_class(model_type, names)
    config = _config_for(kind, tiny_config(model_type))
    if generating and hasattr(config, "is_decoder"):
        config.is_decoder = True  # BERT and its kin generate only so
    options: dict[str, Any] = {"dtype": dtype}
    if hasattr(kind, "set_experts_implementation"):  # not in transformers 4, on which a peer is tried
        options["experts_implementation"] = "eager"
    try:
        model = kind._from_config(config, attn_implementation=attention, **options)
    except ValueError as error:
        if attention == "eager" or "scaled_dot_product_attention" not in str(error):
            raise
        attention = "eager"
        model = kind._from_config(config, attn_implementation=attention, **options)
    if generating:
        model.generation_config.forced_eos_token_id = None
    model.to(dtype).eval()
    draw_weights(model, seed)
    return model, attention


def _model_class(model_type: str, names: Mapping[str, Any]) -> Any:
    name = names[model_type] if isinstance(names[model_type], str) else names[model_type][0]
    package = f"transformers.models.{model_type_to_module_name(model_type)}"
    for module in (package, "transformers", f"{package}.modeling_{package.rpartition('.')[2]}"):
        if hasattr(loaded := importlib.import_module(module), name):
            return getattr(loaded, name)
    raise NotBuilt(f"transformers has no {name}")


def _config_for(kind: Any, config: PreTrainedConfig) -> PreTrainedConfig:
    """The part of the configuration that this class is made from: of MusicgenModel, that of the decoder."""
    if isinstance(config, kind.config_class):
        return config
    return next((part for part in vars(config).values() if isinstance(part, kind.config_class)), config)


def _generating_names(model_type: str) -> Mapping[str, Any] | None:
    return next((names for names in GENERATING if model_type in names), None)


def _as_dtype(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _precision(dtype: torch.dtype) -> AbstractContextManager[Any]:
    return DoublePrecision() if dtype == torch.float64 else nullcontext()


def _precision_of(model: nn.Module) -> AbstractContextManager[Any]:
    return _precision(next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32))
