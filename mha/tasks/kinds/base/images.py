"""Kinds whose examples are images, as the model's image processor makes them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mha.tasks.files.near_images import KnownImages, Looks, looks_of
from mha.tasks.files.tables import Row
from mha.tasks.kinds.base.file_task import LABELS, Batch, FileTask
from mha.values.errors import TaskError

IMAGE_COLUMNS = ("image", "img", "picture")

Example = tuple[Tensor, int | None]  # pixels (channel, height, width), and the number of the class


class ImageTask(FileTask):
    """A task on images."""

    def check(self) -> None:
        """Refuse what is no image processor."""
        if not callable(self.processor) or hasattr(self.processor, "model_max_length"):
            came = "none" if self.processor is None else type(self.processor).__name__
            raise TaskError(
                f"{self.settings.path}: {self.settings.kind} needs the model's image processor, got {came}; give it as "
                "transformers.AutoImageProcessor.from_pretrained(…)"
            )

    known_as = KnownImages

    def content(self, row: Row) -> Looks:
        return looks_of(self.image_of(row))

    def image_of(self, row: Row) -> Any:
        """The row's image, in RGB.

        Raises:
            TaskError: it is none.
        """
        if not hasattr(row["image"], "convert"):
            raise TaskError(
                f"{self.settings.path}: {row.where}: expected an image, got {str(row['image'])[:40]!r}; name a folder "
                "of images"
            )
        return row["image"].convert("RGB")

    def encoded(self, part: str) -> list[Example]:
        images = map(self.image_of, self.rows[part])
        return [(self.processor(images=image, return_tensors="pt").pixel_values[0], None) for image in images]

    def length(self, example: Example) -> int:  # noqa: ARG002
        """All images are of one size once they are processed."""
        return 1

    def collate(self, examples: Sequence[Example]) -> Batch:
        """`pixel_values` (b, channel, height, width), and `labels` (b,) where there are any."""
        pixels, numbers = zip(*examples, strict=True)
        batch = {"pixel_values": torch.stack(pixels)}
        return batch if numbers[0] is None else {**batch, LABELS: torch.tensor(numbers)}

    def example(self, batch_size: int, seq_len: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ARG002
        """Random pixels of the size of the data's."""
        size = self.examples["evaluation"][0][0].shape
        pixels = torch.randn(batch_size, *size, generator=torch.Generator().manual_seed(0))
        return (), {"pixel_values": pixels.to(next(self._given.parameters()).dtype)}
