"""A directory that plain transformers loads, without this package."""

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mha.exporting.inputs import tensors_of
from mha.exporting.registry import Format, Run, Wish, first_line, register_format
from mha.families import AttentionMap, find_attention
from mha.pruning.configurations import RECORD
from mha.values.errors import ExportError

SHOWN = 3  # layers that an error names


class Transformers(Format):
    """config.json and weights, as `save_pretrained` writes them; only of models whose configuration can say it."""

    name = "transformers"
    runtime = "transformers"
    packages: Mapping[str, str] = {"transformers": "hf"}
    takes_int8 = False

    def write(self, wish: Wish, directory: Path) -> dict[str, list[int | None]]:
        import transformers

        model: Any = wish.model
        if not isinstance(model, transformers.PreTrainedModel):
            name = type(model).__name__
            raise ExportError(f"{name} is no model of transformers, which could load it; use another format")
        _check_alike(find_attention(model))
        config = model.config
        if hasattr(config, RECORD):  # nothing but this package reads it
            delattr(config, RECORD)
        model.save_pretrained(directory)
        self._check(wish, directory)
        return {name: [None] * value.dim() for name, value in tensors_of(wish.inputs).items()}

    def open(self, directory: Path) -> Run:
        model = _loaded(directory)

        def call(inputs: Mapping[str, Any]) -> Any:
            with torch.no_grad():
                return model(**inputs)

        return call

    def _check(self, wish: Wish, directory: Path) -> None:
        """Refuse a directory that plain transformers can't load, or loads as another model.

        Raises:
            ExportError: it says why.
        """
        try:
            loaded = _loaded(directory)
        except Exception as error:
            raise ExportError(
                f"the configuration of {type(wish.model).__name__} can't say how many heads are left, so plain "
                f"transformers does not load them ({first_line(error)}); use save_pruned and from_pretrained, or "
                "another format"
            ) from error
        models = wish.model, loaded
        here, there = ({name: each.shape for name, each in model.state_dict().items()} for model in models)
        if here != there:
            raise ExportError(f"plain transformers loads other weights of {type(wish.model).__name__} than were saved")


def _check_alike(layers: AttentionMap) -> None:
    """Refuse layers with unlike numbers of heads or groups, which one configuration can't say.

    Raises:
        ExportError: it says which layers are unlike the most, and what to change in the plan.
    """
    shapes = {name: (layer.num_heads, layer.num_kv_heads) for name, layer in layers.items()}
    if len(set(shapes.values())) <= 1 and all(heads for heads, _ in shapes.values()):
        return
    (heads, groups), _ = Counter(shapes.values()).most_common(1)[0]
    unlike = [f"{name}: {h} in {g}" for name, (h, g) in shapes.items() if (h, g) != (heads, groups) or not h]
    more = f" and {len(unlike) - SHOWN} more" if len(unlike) > SHOWN else ""
    raise ExportError(
        "one configuration states one number of heads for all layers, and these are unlike the others' "
        f"{heads} heads in {groups} key/value groups: {', '.join(unlike[:SHOWN])}{more}; keep as many in every layer, "
        "at least one, or use another format"
    )


def _loaded(directory: Path) -> nn.Module:
    """The model in a directory, by transformers alone."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    kind = getattr(transformers, config.architectures[0])
    with warnings.catch_warnings(action="ignore"):
        model: nn.Module = kind.from_pretrained(directory, local_files_only=True, dtype="auto")
    return model.eval()


register_format(Transformers())
