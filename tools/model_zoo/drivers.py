"""How to run models that a call of their `forward` does not run, and to clear those that remember earlier calls."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _words(*shape: int) -> Tensor:
    return torch.randint(5, 30, shape, generator=torch.Generator().manual_seed(0))


def _speech(model: Any) -> Any:
    """Run Bark's three transformers, which its `generate` calls one after the other; returns their outputs."""
    semantic = model.semantic(_words(2, 11), use_cache=False)
    coarse = model.coarse_acoustics(_words(2, 11), use_cache=False)
    return semantic, coarse, model.fine_acoustics(1, _words(2, 11, 8))


def _codes(model: Any) -> Any:
    return model.encode(_noise(2, 32, 4, 4))


def _codec(model: Any) -> Any:
    """Run X-Codec; returns its sound, and the features that its codes are made of, since codes hide small changes."""
    sound = _noise(2, 1, 3200)
    return model(sound).audio_values, model.encoder_semantic(model._extract_semantic_features(sound).transpose(1, 2))


def _video(session_of: Callable[[], Any], size: int) -> Callable[[nn.Module], Any]:
    """A function that lets a model follow one object, clicked on in the first frame, through a video."""

    def track(model: nn.Module) -> Any:
        session = session_of()(video=_noise(3, 3, size, size), video_height=size, video_width=size, dtype=torch.float64)
        index = session.obj_id_to_idx(1)
        click = {
            "point_coords": torch.tensor([[[[9.0, 13.0]]]]),
            "point_labels": torch.ones(1, 1, 1, dtype=torch.int32),
        }
        session.add_point_inputs(index, 0, click)
        session.obj_with_new_inputs.append(1)
        outputs = [model(session, frame_idx=frame) for frame in range(3)]
        return [(output.pred_masks, output.object_score_logits) for output in outputs]

    return track


def _session(module: str, name: str) -> Callable[[], Any]:
    def load() -> Any:
        return getattr(importlib.import_module(f"transformers.models.{module}.modeling_{module}"), name)

    return load


DRIVERS: dict[str, Callable[[nn.Module], Any]] = {
    "bark": _speech,
    "glm_image_vqmodel": _codes,
    "xcodec": _codec,
    "sam2_video": _video(_session("sam2_video", "Sam2VideoInferenceSession"), 64),
    "edgetam_video": _video(_session("edgetam_video", "EdgeTamVideoInferenceSession"), 64),
    "sam3_tracker_video": _video(_session("sam3_tracker_video", "Sam3TrackerVideoInferenceSession"), 32),
}


def _forget_texts(model: Any) -> None:
    """Empty OmDet-Turbo's caches of texts, which a call fills for the next one, also for that of a pruned copy."""
    for name in ("language_cache_class", "language_cache_prompt"):
        full = getattr(model, name)
        setattr(model, name, type(full)(full.capacity))


FORGET: dict[str, Callable[[nn.Module], None]] = {"omdet-turbo": _forget_texts}
