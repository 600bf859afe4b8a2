"""The formats by name: a file each in `formats/`, which registers itself."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from mha.exporting.decoding import Decoder
from mha.values.errors import ExportError
from mha.values.unknown_words import unknown

Sizes = dict[str, list[int | None]]
Inputs = Mapping[str, Any]  # what a model's forward takes, by name
Run = Callable[[Inputs], Any]  # inputs -> what the model that was exported returned for such inputs


@dataclass(frozen=True)
class Wish:
    """What a format is asked to write.

    Attributes:
        model: in eval mode, on the CPU; a copy, which the format may change.
        inputs: an example, by the names that the model's forward gives them.
        int8: whether weights are to be 8-bit integers.
        tokenizer: a file whose tokenizer is copied, where the format has one; None for none.
        cache: whether a decoder's keys and values are to be kept from token to token.
    """

    model: nn.Module
    inputs: dict[str, Any]
    int8: bool
    tokenizer: Path | None = None
    cache: bool = False


class Format(Protocol):
    """A format: how a model gets into it, and how what was written is run.

    Attributes:
        name: what `export` calls it.
        runtime: the package that runs it, whose version an export is bound to.
        packages: package -> the extra of this project that brings it, for all that writing and running need.
        takes_int8: whether weights can be 8-bit integers.
        traced: whether it is a graph, which takes the tensors that it was traced with, and has all else fixed.
        takes_cache: whether a decoder can be written so that it keeps keys and values from token to token.
    """

    name: str
    runtime: str
    packages: Mapping[str, str]
    takes_int8: bool
    traced: bool = False
    takes_cache: bool = False

    def write(self, wish: Wish, directory: Path) -> Sizes:
        """Write the model into the directory.

        Returns:
            Name of each tensor among the inputs -> its sizes as the export takes them: None where any size does. With
            a cache those of its tensors too, under names that begin with "past_key_values.".

        Raises:
            ExportError: the format, or the runtime, can't have this model; the message says what to change.
        """
        ...

    def largest(self, inputs: Inputs) -> Mapping[str, list[int]]:  # noqa: ARG002
        """Tensor among the inputs, of which these are an example -> the most that each of its open sizes may be.

        Empty where any will do: by default.
        """
        return {}

    def open(self, directory: Path) -> Run:
        """A function that runs what is in the directory, in the runtime, on the CPU."""
        ...

    def decoder(self, directory: Path, sizes: Sizes) -> Decoder:
        """What runs an export that was wished for with a cache.

        Args:
            sizes: of its first inputs and of the cache, as `write` returned them.
        """
        raise ExportError(f"{directory}: {self.name} has no cache of {', '.join(sizes)}")

    def comparable(self, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        """Of a model's outputs, by where they are, what the runtime tells of them: by default all, as they are.

        Args:
            found: what the runtime returned for the same inputs.
        """
        return dict(expected)


FORMATS: dict[str, Format] = {}


def register_format(format: Format) -> Format:
    """Add a format, under its name; one of that name is replaced."""
    FORMATS[format.name] = format
    return format


def find_format(name: str) -> Format:
    """The format of this name.

    Raises:
        ExportError: there is none; the message lists those that there are.
    """
    for module in pkgutil.iter_modules([str(Path(__file__).with_name("formats"))]):
        importlib.import_module(f"mha.exporting.formats.{module.name}")
    if name not in FORMATS:
        raise ExportError(unknown("format", name, sorted(FORMATS)))
    return FORMATS[name]


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or the name of its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
