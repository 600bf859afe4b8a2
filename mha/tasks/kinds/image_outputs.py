"""Outputs on images: no labels at all; how far a model is from the dense model."""

from typing import ClassVar

from mha.tasks.kinds.base.dense_outputs import DenseOutputs
from mha.tasks.kinds.base.images import IMAGE_COLUMNS, ImageTask
from mha.tasks.kinds.base.registry import register_kind


@register_kind("image-outputs")
class ImageOutputs(DenseOutputs, ImageTask):
    """The distance to the dense model's outputs on images."""

    about = "no labels: how far a model's outputs on images are from the dense model's"
    columns: ClassVar = {"image": IMAGE_COLUMNS}
