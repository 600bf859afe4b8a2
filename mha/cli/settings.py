"""What all commands take and say: options of the model's device and dtype, JSON, notes on stderr."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

DTYPES = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """What every command may be told.

    Attributes:
        device: where the model runs; None for the CPU.
        dtype: name of the dtype that its weights get; None leaves them as they are saved.
        trust_remote_code: whether code that comes with a model may run.
        as_json: whether stdout is to hold JSON, and nothing else.
    """

    device: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    as_json: bool = False

    def words(self) -> list[str]:
        """The options of the command line that give these settings, less --json."""
        named = {"--device": self.device, "--dtype": self.dtype}
        given = [word for flag, value in named.items() if value is not None for word in (flag, value)]
        return [*given, *(["--trust-remote-code"] if self.trust_remote_code else [])]

    def tell(self, text: str, document: Mapping[str, Any]) -> None:
        """Write the result to stdout: the text, or the document as JSON where the command line asks for it."""
        click.echo(json.dumps(document, indent=2, ensure_ascii=False) if self.as_json else text)


def note(text: str) -> None:
    """Say on stderr what is being done."""
    click.echo(text, err=True)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command's function with the options that all have, which reach it as the keyword `settings`."""

    @click.option("--device", metavar="NAME", help="Where the model runs, as cpu or cuda:0. Default: the CPU.")
    @click.option("--dtype", type=click.Choice(DTYPES), help="Dtype of the weights. Default: as they are saved.")
    @click.option(
        "--trust-remote-code", is_flag=True, help="Run code that comes with the model. Without it, none is ever run."
    )
    @click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout, and nothing else there.")
    @functools.wraps(command)
    def with_those(
        *args: Any, device: str | None, dtype: str | None, trust_remote_code: bool, as_json: bool, **kwargs: Any
    ) -> None:
        settings = Settings(device, dtype, trust_remote_code, as_json)
        command(*args, settings=settings, **kwargs)

    return with_those


def lines_of(rows: list[list[str]]) -> str:
    """Rows as a table: the first is the header, columns are as wide as their widest cell, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [all(_is_number(cell) for cell in column[1:]) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numbers else cell.ljust(width)
            for cell, width, numbers in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    )


def _is_number(cell: str) -> bool:
    """Whether the cell begins like a number, or is empty."""
    return not cell or cell.lstrip("-−+")[:1].isdigit() or cell == "–"
