"""Valid inputs for a model of any modality, made by recipes that are named by the arguments of `forward`."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

BATCH = 2
LENGTH = 11  # of a text
TARGET_LENGTH = 7  # of what a decoder has written so far
FIRST_WORD, LAST_WORD = 5, 95  # ids of ordinary words; below and above are the special ones
PADDED = 3  # positions at the end of the second text


@dataclass
class Request:
    """What a recipe makes an input from: model, configuration, a seeded source of noise, and the inputs made so far."""

    model: nn.Module
    config: PreTrainedConfig
    generator: torch.Generator
    arguments: Mapping[str, inspect.Parameter]
    generating: bool
    inputs: dict[str, Any] = field(default_factory=dict)

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def words(self, *shape: int) -> Tensor:
        return torch.randint(FIRST_WORD, LAST_WORD, shape, generator=self.generator)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator)

    def part(self, *names: str) -> PreTrainedConfig:
        """The first of the sub-configurations with these names that there is, else the whole configuration."""
        return next((part for name in names if (part := getattr(self.config, name, None)) is not None), self.config)

    @property
    def vision(self) -> PreTrainedConfig:
        vision = self.part("vision_config", "vision_model_config", "image_model_config", "backbone_config", "vq_config")
        return getattr(vision, "backbone_config", vision)

    @property
    def audio(self) -> PreTrainedConfig:
        return self.part("audio_config", "encoder_config")


Recipe = Callable[[Request], Any]


def noise(*shape: int) -> Recipe:
    return lambda request: request.noise(*shape)


def words(*shape: int) -> Recipe:
    return lambda request: request.words(*shape)


def ones(*shape: int) -> Recipe:
    return lambda _: torch.ones(shape, dtype=torch.long)


def value(constant: Any) -> Recipe:
    return lambda _: constant


def first(config: object, *names: str, default: Any = None) -> Any:
    """The value of the first of these attributes that is not None, else `default`."""
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if value is not None), default)


def size_of_image(request: Request) -> tuple[int, int]:
    size = first(request.vision, "image_size", "crop_size", "img_size", default=32)
    return tuple(size) if isinstance(size, list | tuple) else (size, size)


def channels_of_image(request: Request) -> int:
    channels = first(request.vision, "num_channels", "in_channels", "in_chans", default=3)
    return channels if isinstance(channels, int) else 3


def image(request: Request) -> Tensor:
    if {"image_grid_thw", "grid_thw"} & set(request.arguments):
        return patches(request)
    return request.noise(BATCH, channels_of_image(request), *size_of_image(request))


GRID = (1, 4, 4)  # frames, rows and columns of patches of one image


def patches(request: Request) -> Tensor:
    """One image for each text, as flattened patches in rows: (b · patches, values of a patch)."""
    vision = request.vision
    patch = first(vision, "patch_size", default=8)
    depth = first(vision, "temporal_patch_size", "patch_temporal", default=1)
    rows = GRID[0] * GRID[1] * GRID[2]
    return request.noise(BATCH * rows, channels_of_image(request) * depth * patch * patch)


def grid(_: Request) -> Tensor:
    return torch.tensor([GRID] * BATCH)


def mel(request: Request) -> Tensor:
    """Spectrograms (b, bins, frames) with as many frames as the encoder wants."""
    bins = first(request.audio, "num_mel_bins", "input_size", default=16)
    frames = first(request.audio, "max_source_positions", default=16)
    return request.noise(BATCH, bins, 2 * frames)


def sound_mask(request: Request) -> Tensor:
    """A mask (b, frames) that says that every frame of the spectrograms is sound."""
    return torch.ones(BATCH, request.inputs["input_features"].shape[-1], dtype=torch.long)


def frames(length: int, width: int | None = None) -> Recipe:
    """A recipe for spectrograms (b, frames, bins): `length` frames of `width` bins, or of as many as the model has."""
    return lambda request: request.noise(BATCH, length, width or first(request.audio, "num_mel_bins", default=16))


def text(request: Request) -> Tensor:
    """Token ids of texts, with one placeholder token for each feature of the images, videos or sounds in them."""
    return text_around({modality: _features(request, modality) // BATCH for modality in PLACEHOLDERS})(request)


def text_around(features: Mapping[str, int]) -> Recipe:
    """A recipe for texts: two words, then so many placeholder tokens of each modality, then more words."""

    def made(request: Request) -> Tensor:
        placeholders = [
            token
            for modality, count in features.items()
            for _ in range(count)
            if (token := _token(request, modality)) is not None
        ]
        ids = request.words(BATCH, LENGTH)
        inside = torch.tensor(placeholders, dtype=torch.long).expand(BATCH, -1)
        return torch.cat([ids[:, :2], inside, ids[:, 2:]], dim=1)

    return made


PLACEHOLDERS = {
    "image": {"pixel_values"},
    "video": {"pixel_values_videos"},
    "audio": {"input_features", "input_values", "audio_input_ids"},
}


def _token(request: Request, modality: str) -> int | None:
    names = f"{modality}_token_id", f"{modality}_token_index"
    parts = request.part("encoder"), request.part("vlm_config"), request.vision, request.audio
    holders = request.config, *parts, getattr(request.model, "vocabulary_mapping", None)
    return next((token for holder in holders if (token := first(holder, *names)) is not None), None)


def _features(request: Request, modality: str) -> int:
    """How many feature vectors the model makes of all its images, videos or sounds."""
    inner = getattr(request.model, "model", None)
    encode = getattr(inner, f"get_{modality}_features", getattr(request.model, f"get_{modality}_features", None))
    if encode is None or not PLACEHOLDERS[modality] & set(request.inputs):
        return 0
    wanted = inspect.signature(inspect.unwrap(encode)).parameters
    made = encode(**{name: value for name, value in request.inputs.items() if name in wanted})
    return _rows(made)


def _rows(features: Any) -> int:
    features = first(features, "pooler_output", "last_hidden_state", default=features)
    if isinstance(features, Tensor):
        return features.numel() // features.shape[-1]
    return sum(map(_rows, features))


def token_types(request: Request) -> Tensor | None:
    """For each token of the texts 0 for a word, 1 for an image, 2 for a video; None without texts."""
    ids = request.inputs.get("input_ids")
    if ids is None:
        return None
    types = torch.zeros_like(ids)
    for kind, modality in enumerate(("image", "video"), start=1):
        token = _token(request, modality)
        types[ids == token] = kind if token is not None else 0
    return types


def text_mask(request: Request) -> Tensor | None:
    """The attention mask of the texts: the second is padded at its end, unless the model is to generate."""
    ids = request.inputs.get("input_ids")
    if ids is None:
        return None
    mask = torch.ones(ids.shape[:2], dtype=torch.long)
    mask[-1, -PADDED:] = int(request.generating)
    return mask


def target(request: Request) -> Tensor | None:
    """Token ids that a decoder has written so far; None where a model that generates has no encoder."""
    has_decoder = request.config.is_encoder_decoder or not request.generating
    return request.words(BATCH, TARGET_LENGTH) if has_decoder else None


# In this order: a text has room for the features of what came before it.
RECIPES: dict[str, Recipe | None] = {
    "pixel_values": image,
    "hidden_states": patches,
    "image_grid_thw": grid,
    "grid_thw": grid,
    "input_features": mel,
    "input_features_mask": sound_mask,
    "feature_attention_mask": sound_mask,
    "input_values": noise(BATCH, 2000),
    "input_ids": text,
    "decoder_input_ids": target,
    "bbox": lambda request: torch.cumsum(request.integers(1, 9, BATCH, LENGTH, 4), dim=-1),
    "token_type_ids": token_types,
    "mm_token_type_ids": token_types,
    "attention_mask": text_mask,
    "use_cache": lambda request: None if request.generating else False,
}


# What a forward takes without naming it.
EXTRA = {"voxtral_realtime_text": {"t_cond"}, "diffusion_gemma": {"pixel_values", "image_position_ids"}}


def _arguments(model: nn.Module | None) -> Mapping[str, inspect.Parameter]:
    return {} if model is None else inspect.signature(model.forward).parameters


def inputs_for(model_type: str, model: nn.Module, seed: int, generating: bool) -> dict[str, Any]:
    """Arguments for the `forward` of this model or, if `generating`, for its `generate`, for which no text is padded.

    Raises:
        Exception: whatever the model raises while it turns an image or a sound into features to count them.
    """
    from tools.model_zoo.modalities import INPUTS

    inner = getattr(model, "model", None) if generating else None  # it names what the outer forward passes on
    arguments = {**_arguments(inner), **_arguments(model)}
    generator = torch.Generator().manual_seed(seed)
    request = Request(model, model.config, generator, arguments, generating)
    special = INPUTS.get(model_type, {})
    known = {*arguments, *EXTRA.get(model_type, ())}
    for name in [*(name for name in special if name not in RECIPES), *RECIPES]:
        recipe = special.get(name, RECIPES.get(name))
        with torch.no_grad():
            made = recipe(request) if recipe is not None and name in known else None
        if made is not None:
            request.inputs[name] = made
    return request.inputs
