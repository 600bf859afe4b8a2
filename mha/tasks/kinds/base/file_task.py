"""What all kinds of tasks are: rows of files about a model that is there already."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mha.tasks.base.batching import rows_by_length
from mha.tasks.base.protocol import Task
from mha.tasks.files.near_copies import Known
from mha.tasks.files.near_images import KnownImages
from mha.tasks.files.parts import Columns, keep_apart, read_parts
from mha.tasks.files.settings import Settings, check_options
from mha.tasks.files.tables import Row
from mha.tasks.kinds.base.metrics import Metric
from mha.values.errors import TaskError
from mha.values.unknown_words import unknown

Batch = dict[str, Tensor]
LABELS = "labels"


class FileTask(Task):
    """A task that a file describes. A kind says what its rows have, and how they are fed and judged.

    Attributes:
        about: what the kind is for, in a few words.
        columns: what is read of a row -> the usual names of its column.
        optional: what is read where there is such a column.
        labels: what unlabelled rows need not have.
        metrics: the metrics by name; the first is the usual one.
        kind_options: the keys of [options] with their defaults.
        architectures: how the names of the models' classes end.
        unit: what a row of plain text is, unless the file says it.
        known_as: makes, of what examples are known by, what others are compared with to find copies.
        rows: part -> its rows, as they were read; examples: part -> what is collated to batches.
        dropped: part -> how many of its rows were dropped since evaluation has them too.
    """

    about: ClassVar[str]
    columns: ClassVar[Columns]
    optional: ClassVar[frozenset[str]] = frozenset()
    labels: ClassVar[frozenset[str]] = frozenset()
    metrics: ClassVar[Mapping[str, Metric]]
    kind_options: ClassVar[Mapping[str, Any]] = {}
    architectures: ClassVar[tuple[str, ...]] = ()
    unit: ClassVar[str] = "line"
    known_as: ClassVar[type[Known | KnownImages]] = Known
    pretrained = True

    def __init__(self, model: nn.Module, processor: Any, settings: Settings) -> None:
        self.settings, self.processor, self._given = settings, processor, model
        self.options = check_options(settings, self.kind_options)
        self.name, self.batch_size = settings.name, settings.batch_size
        self.metric = settings.metric or self.usual_metric(model)
        if self.metric not in self.metrics:
            what = f"metric of {settings.kind}"
            raise TaskError(f"{settings.path}: {unknown(what, self.metric, self.metrics)}")
        self._measure = self.metrics[self.metric]
        self.higher_is_better, self.bounds = self._measure.higher_is_better, self._measure.bounds
        self.check()
        self.rows = read_parts(settings, self.columns, self.optional, self.labels)
        self.dropped = keep_apart(settings, self.rows, self.content, self.known_as)
        self.examples = {part: self.encoded(part) for part in self.rows}  # at once, so that errors come at once
        self.chance = self.chance_of(self.rows["evaluation"])

    @classmethod
    def usual_metric(cls, model: nn.Module) -> str:  # noqa: ARG003
        """The metric for this model, unless the file says it."""
        return next(iter(cls.metrics))

    def check(self) -> None:
        """Refuse a model, tokenizer or options that the kind can't work with, before data are read."""

    @abstractmethod
    def content(self, row: Row) -> Any:
        """What an example is known by, so that no two parts have it: what `known_as` takes."""

    def chance_of(self, rows: Sequence[Row]) -> float:  # noqa: ARG002
        """The metric's value for a model that knows nothing, on these rows."""
        return 0.0

    @abstractmethod
    def encoded(self, part: str) -> Sequence[Any]:
        """The examples of a part, ready to be collated."""

    @abstractmethod
    def length(self, example: Any) -> int:
        """By which examples share a batch."""

    @abstractmethod
    def collate(self, examples: Sequence[Any]) -> Batch:
        """One batch of these examples."""

    @property
    def config(self) -> Any:
        """The model's configuration; None where it has none."""
        return getattr(self._given, "config", None)

    def model(self) -> nn.Module:
        """A copy of the model that the task was read for, in eval mode."""
        return copy.deepcopy(self._given).eval()

    def calibration(self) -> list[Batch]:
        return [batch for _, batch in self.batches("calibration")]

    def unlabelled(self) -> list[Batch]:
        return [batch for _, batch in self.batches("unlabelled")] if "unlabelled" in self.rows else []

    def batches(self, part: str) -> Iterator[tuple[list[int], Batch]]:
        """The examples of a part in batches of like length: the places of a batch's examples, and the batch."""
        examples = self.examples[part]
        for places in rows_by_length([self.length(one) for one in examples], batch_size=self.batch_size):
            yield places, self.collate([examples[place] for place in places])

    @torch.inference_mode()
    def in_order(self, values_of: Callable[[Batch], Tensor]) -> np.ndarray:
        """What `values_of` gives of each batch of the evaluation examples, (b, …), in the order of the data: (n, …)."""
        found = [(places, values_of(batch)) for places, batch in self.batches("evaluation")]
        order = np.argsort([place for places, _ in found for place in places])
        return torch.cat([values.double().cpu() for _, values in found]).numpy()[order]

    def aggregate(self, values: np.ndarray) -> float:
        """The metric, given rows of what `evaluate` returns."""
        return self._measure.aggregate(values)


def on_device(model: nn.Module, batch: Batch) -> Batch:
    """The batch's tensors, moved to the model's device; pixels in the model's dtype."""
    of_model = next(model.parameters())
    return {name: part.to(of_model if part.is_floating_point() else of_model.device) for name, part in batch.items()}


def inputs_of(batch: Batch) -> Batch:
    """The batch without its labels."""
    return {name: part for name, part in batch.items() if name != LABELS}
