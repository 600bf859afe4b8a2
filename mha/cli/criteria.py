"""The option --criterion, which knows the criteria and says the nearest to one that there is not."""

import json
from collections.abc import Sequence
from typing import Any

import click

from mha.importance.registry import criteria, describe
from mha.importance.registry.criterion import DEFAULT
from mha.tasks import Task
from mha.values.unknown_words import unknown


class CriterionName(click.ParamType[str]):
    """The name of a criterion, as the command line gives it."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if it is one; else the command line ends with wrong use."""
        known = [DEFAULT, *criteria()]
        if value not in known:
            self.fail(unknown("criterion", value, known), param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:  # noqa: ARG002
        """The names that begin so, for Tab."""
        return [click.shell_completion.CompletionItem(name) for name in criteria() if name.startswith(incomplete)]


class OptionOfCriterion(click.ParamType[tuple[str, Any]]):
    """An option of a criterion, as NAME=VALUE: the name, and the value as JSON has it, or else as text."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Name and value, if there is a sign of equality between them; else the command line ends with wrong use."""
        if isinstance(value, tuple):
            return value
        name, equal, text = str(value).partition("=")
        if not name or not equal:
            self.fail(f"{value!r} is no NAME=VALUE, such as unit=batch", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


def check_options(criterion: str | None, options: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The options of a criterion by name.

    Raises:
        click.UsageError: the criterion has no such option; the message lists those that it has.
    """
    known = describe(criterion or DEFAULT).options
    for name, _ in options:
        if name not in known:
            raise click.UsageError(f"--option: {unknown(f'option of {criterion or DEFAULT}', name, known)}")
    return dict(options)


def without_data() -> list[str]:
    """The criteria that need no data."""
    return [name for name in criteria() if describe(name).needs == "nothing"]


def check_needs(criterion: str | None, task: Task | str | None) -> None:
    """Refuse a criterion that needs data where there is no task.

    Raises:
        click.UsageError: it does; the message says which need none.
    """
    if task is None and describe(criterion or DEFAULT).needs != "nothing":
        asked = f"--criterion {criterion}" if criterion else "without --criterion this"
        raise click.UsageError(
            f"{asked} needs data: give --task, or a criterion that needs none, such as --criterion magnitude "
            f"({', '.join(without_data())})"
        )
