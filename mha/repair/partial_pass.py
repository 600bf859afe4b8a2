"""Passes over a batch that end as soon as the layers in question have run."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from torch import Tensor, nn

from mha.pruning.masking import nothing_compiled
from mha.repair.observe import first_tensor
from mha.runtime.undoing import hooked

InputAndOutput = tuple[Tensor, Tensor]  # what a layer reads and what it puts out in one run


class _ReachedError(BaseException):
    """Stops a forward pass which has shown what is needed; no `except Exception` on the way holds it up."""


def runs_and_reads(
    linear: nn.Module,
    reader: nn.Module | None,
    count: int,
    run: Callable[[], Any],
    *,
    entered: nn.Module | None = None,
) -> tuple[list[InputAndOutput], list[Tensor]]:
    """(What a layer reads, what it puts out) in each of its first `count` runs, and what the reader reads after each.

    The pass ends after the last of these; there are fewer where it comes to its own end before.

    Args:
        reader: None where only the layer itself is of interest; then nothing is read.
        run: runs the model.
        entered: where given, calls of this module count in place of runs of the layer, which may not run at all.
    """
    ran: list[InputAndOutput] = []
    reads: list[Tensor] = []
    begun = 0

    def enter(*_: Any) -> None:
        nonlocal begun
        begun += 1

    def after(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        ran.append((args[0], output))
        if entered is None:
            enter()
        if reader is None and begun == count:
            raise _ReachedError

    def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
        if begun > len(reads):
            read = first_tensor(args)
            assert read is not None  # it read one in the dense model
            reads.append(read)
        if len(reads) == count:
            raise _ReachedError

    with ExitStack() as hooks, suppress(_ReachedError), nothing_compiled():
        hooks.enter_context(hooked(linear, after))
        if entered is not None:
            hooks.enter_context(hooked(entered, enter, before=True))
        if reader is not None:
            hooks.enter_context(hooked(reader, before, before=True))
        run()
    return ran, reads
