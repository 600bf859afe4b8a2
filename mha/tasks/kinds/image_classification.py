"""Image classification: one class for each image."""

from typing import ClassVar

from mha.tasks.kinds.base.classification import LABEL_COLUMNS, Classification, check_classes
from mha.tasks.kinds.base.images import IMAGE_COLUMNS, Example, ImageTask
from mha.tasks.kinds.base.registry import register_kind


@register_kind("image-classification")
class ImageClassification(ImageTask, Classification):
    """One class for each image of a folder of folders, or of a table with images."""

    about = "one class for each image; data are a folder with a folder for each class"
    columns: ClassVar = {"image": IMAGE_COLUMNS, "label": LABEL_COLUMNS}
    architectures = ("ForImageClassification",)

    def check(self) -> None:
        super().check()
        check_classes(self.settings, self.config)

    def encoded(self, part: str) -> list[Example]:
        examples, numbers = super().encoded(part), self.label_numbers(part)
        if numbers is None:
            return examples
        return [(pixels, number) for (pixels, _), number in zip(examples, numbers, strict=True)]
