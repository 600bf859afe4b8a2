"""From labels as data have them to the numbers that a model gives its classes."""

from collections.abc import Iterable, Mapping
from typing import Any

from mha.tasks.files.settings import Settings
from mha.tasks.files.tables import Row
from mha.values.errors import TaskError
from mha.values.unknown_words import unknown


def classes_of(config: Any) -> dict[str, int]:
    """Name -> number of the classes that a model's configuration knows."""
    names: Mapping[Any, str] = getattr(config, "id2label", None) or {}
    return {name: int(number) for number, name in sorted(names.items(), key=lambda one: int(one[0]))}


class Labels:
    """Finds the number of each label.

    A label is looked for among the keys of [labels], then among the model's names, and then may be a number itself.
    """

    def __init__(self, settings: Settings, config: Any) -> None:
        self._classes = classes_of(config)
        self._settings = settings
        for label, value in settings.labels.items():
            if self._direct(value) is None:
                raise TaskError(f"{settings.path}: [labels] {label}: {self._unfit(value)}")

    def number(self, label: Any, where: str) -> int:
        """The number of a label.

        Args:
            where: which row has it, for the error.

        Raises:
            TaskError: it is none of the model's.
        """
        number = self._direct(self._settings.labels.get(str(label), label))
        if number is None:
            raise TaskError(
                f"{self._settings.path}: {where}: {self._unfit(label)}. If data and model name their labels in two "
                f"ways, say which is which under [labels], as {str(label)!r} = 0"
            )
        return number

    def numbers(self, rows: Iterable[Row]) -> list[int]:
        """The number of each row's label."""
        return [self.number(row["label"], row.where) for row in rows]

    def _direct(self, label: Any) -> int | None:
        """The number of a label by the model's name, or the number that it is; None if it is neither."""
        if str(label) in self._classes:
            return self._classes[str(label)]
        try:
            number = int(label)
        except (TypeError, ValueError, OverflowError):
            return None
        return number if number in self._classes.values() and number == float(label) else None

    def _unfit(self, label: Any) -> str:
        """That the model has no such label, and which it has."""
        known = [f"{name} ({number})" for name, number in self._classes.items()]
        near = unknown("label", label, self._classes).partition(" There are: ")[0]
        the = "The" if near.endswith("?") else "the"
        return f"{near} {the} model has {len(known)}: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}"
