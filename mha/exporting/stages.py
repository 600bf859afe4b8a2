"""What is traced of a model: itself, once; or, with a key/value cache, how it reads a prompt and goes on from there."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mha.exporting.decoding import CACHE, ENCODED, FLAG, IDS, MASK, POSITIONS, positions
from mha.exporting.inputs import tensors_of
from mha.exporting.registry import Wish
from mha.values.errors import ExportError

BATCH, PAST, NEW, SOURCE = 3, 5, 2, 11  # of what is traced; a size of 1 would be taken to be always 1
KNOWN = (IDS, MASK, POSITIONS)


class Stage(NamedTuple):
    """A module, and the inputs that it is traced with: tensors and caches, by name."""

    module: nn.Module
    inputs: dict[str, Any]


def stages(wish: Wish) -> dict[str, Stage]:
    """What is to be traced, by name; the first takes a model's inputs from the start.

    Without a cache that is "model". With one, a decoder is still one program, "model", which takes any number of new
    tokens beside a cache of any length, empty for a prompt; so weights are written once. An encoder-decoder has two:
    "prefill" also runs the encoder, and "decode" goes on from what that returned.

    Raises:
        ExportError: a cache is wished for, and the model has none that is known, or the example no token ids.
    """
    module = bound(wish.model, fixed_of(wish.inputs, cache=wish.cache))
    if not wish.cache:
        return {"model": Stage(module, tensors_of(wish.inputs))}
    taken = inspect.signature(wish.model.forward).parameters
    if CACHE not in taken:
        name = type(wish.model).__name__
        raise ExportError(f"{name}.forward takes no {CACHE}: leave out cache, or give a decoder of transformers")
    if getattr(getattr(wish.model, "config", None), "is_encoder_decoder", False):
        return _of_encoder_decoder(module, wish)
    return _of_decoder(module, wish, taken)


def _of_decoder(module: nn.Module, wish: Wish, taken: Mapping[str, Any]) -> dict[str, Stage]:
    """One program: new tokens, the mask of all, positions of the new ones, and the cache of those before."""
    from transformers import DynamicCache

    given = tensors_of(wish.inputs)
    if IDS not in given or given.keys() - set(KNOWN):
        raise ExportError(
            f"with a cache a decoder goes on by token ids, and the example has {', '.join(given)}; give input_ids, and "
            "attention_mask if there is padding, or leave out cache"
        )
    ids = _tiled(given[IDS], PAST + NEW)
    mask = torch.ones_like(ids)
    names = [name for name in KNOWN if name in taken]
    cache = (
        DynamicCache()
    )  # of plain layers, where a sliding window is the mask's; else counts would be traced as fixed
    with torch.no_grad():
        past, new = (
            {IDS: ids[:, part].clone(), MASK: mask[:, : part.stop].clone(), POSITIONS: positions(mask)[:, part].clone()}
            for part in (slice(0, PAST), slice(PAST, PAST + NEW))
        )
        module(**{name: past[name] for name in names}, **{CACHE: cache})
    return {"model": Stage(module, {**{name: new[name] for name in names}, CACHE: cache})}


def _of_encoder_decoder(module: nn.Module, wish: Wish) -> dict[str, Stage]:
    """Two programs: the encoder with the decoder's prompt, and the decoder's next tokens."""
    from transformers.modeling_outputs import BaseModelOutput

    given = tensors_of(wish.inputs)
    if f"decoder_{IDS}" not in given:
        raise ExportError(
            f"with a cache a decoder goes on by token ids, and the example has {', '.join(given)}; give decoder_{IDS} "
            "beside what the encoder reads"
        )
    if given.keys() & {f"decoder_{MASK}", f"decoder_{POSITIONS}"}:
        raise ExportError(f"a decoder's own mask or positions are not known here; give decoder_{IDS} alone")
    first = {name: _tiled(value, PAST if name.startswith("decoder_") else SOURCE) for name, value in given.items()}
    with torch.no_grad():
        read = module(**first)
    new = {f"decoder_{IDS}": first[f"decoder_{IDS}"][:, :NEW].clone()}
    mask = {MASK: first[MASK]} if MASK in first else {}
    encoded = BaseModelOutput(last_hidden_state=read.encoder_last_hidden_state)
    return {
        "prefill": Stage(module, first),
        "decode": Stage(module, {**new, **mask, ENCODED: encoded, CACHE: read.past_key_values}),
    }


def fixed_of(inputs: Mapping[str, Any], *, cache: bool) -> dict[str, Any]:
    """Inputs that are no tensors, and so are the same in every call; with a cache `use_cache` is on."""
    fixed = {name: value for name, value in inputs.items() if not isinstance(value, Tensor)}
    return {**fixed, FLAG: True} if cache else fixed


def _tiled(value: Tensor, length: int) -> Tensor:
    """A tensor's values again and again: token ids and masks as (BATCH, length), of others the first axis to BATCH."""
    if value.dim() == 2 and not value.is_floating_point():
        return value.repeat(BATCH, length)[:BATCH, :length].clone()
    return value.repeat(BATCH, *[1] * (value.dim() - 1))[:BATCH]


def bound(model: nn.Module, fixed: dict[str, Any]) -> nn.Module:
    """The model, with these inputs fixed; itself if there are none."""
    return model if not fixed else Bound(model, fixed)


class Bound(nn.Module):
    """A model some of whose inputs are fixed; those of its calls are given by name.

    Args:
        fixed: name -> value.
    """

    def __init__(self, model: nn.Module, fixed: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.fixed = model, fixed
        self.config = getattr(model, "config", None)
        if self.config is None:
            del self.config

    def forward(self, **given: Any) -> Any:
        return self.model(**given, **self.fixed)
