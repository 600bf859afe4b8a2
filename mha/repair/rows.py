"""What a layer of the pruned model reads and should put out: the rows that it is fitted to, one layer at a time.

`SideBySide` goes through both models once, all batches together (`mha.runtime.lockstep`): when a layer is fitted, what
comes after it goes on with the new weights. `FromTheStart` runs both models anew for every layer, up to that layer. It
takes time by the square of the depth, and is for models that `SideBySide` can't lead: those in which a layer runs again
on what it made itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer
from mha.families.base.linears import weight_of
from mha.pruning.masking import nothing_compiled
from mha.repair.observe import Forward, all_finite, first_tensor
from mha.repair.partial_pass import InputAndOutput, runs_and_reads
from mha.repair.residual_stream import Goal, check_finite
from mha.runtime.intercept import intercepted
from mha.runtime.lockstep import Pass, few_threads, pause, running
from mha.runtime.memory import Trimmed
from mha.runtime.undoing import hooked
from mha.values.errors import CalibrationError

CLOSE = {torch.float64: 1e-8, torch.float32: 1e-3}  # relative difference to a pass of its own that is rounding
ROUGHLY = 5e-2  # in half precision


class Rows(NamedTuple):
    """What a layer reads and should put out in one run.

    Attributes:
        batch: the number of the batch.
        read: (..., k).
        wanted: (..., o).
        weights: (...), how much each token counts.
    """

    batch: int
    read: Tensor
    wanted: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Part:
    """A linear layer that is fitted.

    Attributes:
        name: of the layer in the dense model.
        linear: the pruned model's; dense: the dense model's.
        goal: what the layer leads to in the dense model.
        layer: the attention layer of the pruned model whose output projection it is; None where it is none.
        kept: indices of the dense layer's output features that it still has; None for all.
    """

    name: str
    linear: nn.Module
    dense: nn.Module
    goal: Goal
    layer: AttentionLayer | None = None
    kept: Tensor | None = None

    @property
    def without_heads(self) -> bool:
        """Whether the linear layer is what is left of an attention layer that keeps no head."""
        return self.layer is not None and not self.layer.num_heads

    def of_kept(self, output: Tensor) -> Tensor:
        """Of what the layer puts out in the dense model, (..., o), the features that it still has."""
        return output if self.kept is None else output.index_select(-1, self.kept.to(output.device))

    def over_no_heads(self, like: Tensor) -> InputAndOutput:
        """What a projection without heads reads, (..., 0), and puts out: its bias or 0, in the shape of `like`."""
        bias = self.linear._parameters.get("bias")
        output = torch.zeros_like(like) if bias is None else bias.detach().clone().expand_as(like)
        return like.new_zeros(*like.shape[:-1], 0), output


class Source(Protocol):
    """Where rows come from, layer by layer."""

    def __iter__(self) -> Iterator[Part]:
        """The layers, each when its rows are there; it is to be fitted before the next one is asked for."""

    def rows(self, part: Part) -> Iterator[Rows]:
        """The rows of the layer that is up."""


class FromTheStart:
    """Rows from passes that begin anew for every layer.

    Args:
        student, teacher: the pruned and the dense model.
        parts: the layers, in the order in which they run.
        first: the number of the first batch.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        parts: Sequence[Part],
        batches: Sequence[Any],
        forward: Forward,
        first: int = 0,
    ) -> None:
        self._student, self._teacher, self._parts = student, teacher, parts
        self._batches, self._forward, self._first = batches, forward, first

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts)

    def rows(self, part: Part) -> Iterator[Rows]:
        """The rows of the layer, of one batch after the other.

        Raises:
            CalibrationError: in some batch the layer does not run as in the dense model, or reads or puts out NaN or
                infinity.
        """
        for number, batch in enumerate(self._batches, start=self._first):
            weights = part.goal.weights[number]
            if not weights:
                continue
            run = partial(self._forward, self._teacher, batch)
            reader = None if part.goal.reader is None else self._teacher.get_submodule(part.goal.reader)
            ran, reads = runs_and_reads(part.dense, reader, len(weights), run)
            values = [part.of_kept(output) for _, output in ran] if reader is None else reads
            for (read, wanted), counts in zip(self._of_student(part, number, batch, values), weights, strict=True):
                yield Rows(number, read, wanted, _per_token(counts, read))

    def _of_student(self, part: Part, number: int, batch: Any, values: Sequence[Tensor]) -> list[InputAndOutput]:
        """What the pruned model's layer reads in each run on this batch, and should put out.

        Args:
            number: of the batch.
            values: what the dense model's layer puts out in each run, or what its reader reads.
        """
        reader = None if part.goal.reader is None else self._student.get_submodule(part.goal.reader)
        entered = part.layer.module if part.without_heads and part.layer is not None else None
        ran: list[InputAndOutput] = []
        streams: list[Tensor] = []
        if entered is None or reader is not None:
            run = partial(self._forward, self._student, batch)
            ran, streams = runs_and_reads(part.linear, reader, len(values), run, entered=entered)
        if entered is not None:  # its projection need not be called
            ran = [part.over_no_heads(value) for value in values]
        shapes = [tensor.shape for tensor in (streams if reader is not None else [output for _, output in ran])]
        _check_alike(part.name, number, shapes, [value.shape for value in values])
        for read, output in ran:
            _check_finite(part.name, number, read, output)
        if reader is None:
            return [(read, value) for (read, _), value in zip(ran, values, strict=True)]
        return [
            (read, _missing(value, stream, output))
            for (read, output), stream, value in zip(ran, streams, values, strict=True)
        ]


class StrayedError(Exception):
    """Passes that went side by side raised an error, or have not come to what a pass of its own comes to."""


class Call(NamedTuple):
    """A call in which every fitted layer runs once: of a batch's `forward`, or of the model within it.

    Attributes:
        batch: the number of the batch.
        place: of the call, among those of the batch.
        run: given the model, makes the call.
    """

    batch: int
    place: int
    run: Callable[[nn.Module], Any]


class _Ran(NamedTuple):
    """A layer that a pass has come to.

    Attributes:
        read: what it reads, (..., k); None in the dense model, and where the layer keeps no head.
        output: what it has put into the stream that its reader reads, (..., o); None where that is still to come.
    """

    name: str
    read: Tensor | None = None
    output: Tensor | None = None


class _Stop(NamedTuple):
    """Where a pass has paused.

    Attributes:
        ran: the layers that are fitted there.
        value: what their reader reads; without one, what the layer puts out in the dense model, or reads in the other.
    """

    ran: tuple[_Ran, ...]
    value: Tensor


class SideBySide:
    """Rows from one pass through both models, in which all calls wait for one another at every layer.

    A layer of the pruned model is only computed once it is fitted: where it adds to a residual stream, its reader is
    waited for with nothing added.

    Args:
        student, teacher: the pruned and the dense model.
        parts: the layers, in the order in which they run.
        calls: all of them, of all batches.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, parts: Sequence[Part], calls: Sequence[Call]) -> None:
        self._student, self._teacher, self._calls = student, teacher, calls
        self._parts = {part.name: part for part in parts}
        self._widths = {part.name: len(weight_of(part.linear)) for part in parts}  # of what the layers put out
        self._stops: list[tuple[_Stop, _Stop]] = []  # for each call, where the pruned and the dense model are
        self._memory = Trimmed()

    def __iter__(self) -> Iterator[Part]:
        """The layers, in the order in which the passes come to where they are fitted.

        Raises:
            CalibrationError: the pruned model does not run as the dense one does.
            StrayedError: the model or `forward` raises an error, or a pass of its own through the pruned model does
                not come to what the passes came to.
        """
        left = set(self._parts)
        with self._passes() as passes:
            while left:
                self._advance(passes)
                names = self._names()
                for name in names:
                    yield self._parts[name]
                    self._go_on_with(self._parts[name])
                left -= set(names)
            last, stop = self._parts[names[-1]], self._stops[0][0]
        self._stops = []
        self._check(last, stop)

    def rows(self, part: Part) -> Iterator[Rows]:
        """The rows of the layer that is up, of one call after the other.

        Raises:
            CalibrationError: it does not run as in the dense model, or reads or puts out NaN or infinity.
        """
        _check_finite(part.name, self._calls[0].batch, *part.linear.parameters())
        for call, (stop, dense) in zip(self._calls, self._stops, strict=True):
            read, output = _run_of(part, stop)
            streams = part.goal.reader is not None
            value = dense.value if streams else part.of_kept(dense.value)
            came = stop.value.shape if streams else torch.Size((*read.shape[:-1], self._widths[part.name]))
            _check_alike(part.name, call.batch, [came], [value.shape])
            check_finite(part.name, call.batch, value)
            _check_finite(part.name, call.batch, read, *((stop.value,) if streams else ()))
            wanted = _missing(value, stop.value, output) if streams else value
            yield Rows(call.batch, read, wanted, _per_token(part.goal.weights[call.batch][call.place], read))

    @contextmanager
    def _passes(self) -> Iterator[list[tuple[Pass, Pass]]]:
        """Passes of all calls through the pruned and the dense model; they end with the context."""
        passes: list[tuple[Pass, Pass]] = []
        with ExitStack() as contexts:
            contexts.enter_context(nothing_compiled())
            contexts.enter_context(few_threads(2 * len(self._calls)))
            for model, of_student in ((self._student, True), (self._teacher, False)):
                contexts.enter_context(self._hooked(model, of_student=of_student))
            try:
                for call in self._calls:
                    passes.append((Pass(partial(call.run, self._student)), Pass(partial(call.run, self._teacher))))
                yield passes
            finally:
                for both in passes:
                    for walk in both:
                        walk.close()

    @contextmanager
    def _hooked(self, model: nn.Module, *, of_student: bool) -> Iterator[None]:
        """Within the context passes through the model pause where a layer is fitted."""
        with ExitStack() as hooks:
            computed = {part.linear: part for part in self._parts.values() if not part.without_heads}
            if of_student:
                hooks.enter_context(intercepted(computed, partial(self._comes, computed)))
            for part in self._parts.values():
                if of_student and part.without_heads and part.layer is not None:
                    hooks.enter_context(hooked(part.layer.module, partial(self._enters, part), before=True))
                elif not of_student:
                    hooks.enter_context(hooked(part.dense, partial(self._has_run, part)))
            for reader in {part.goal.reader for part in self._parts.values() if part.goal.reader is not None}:
                hooks.enter_context(hooked(model.get_submodule(reader), partial(self._reads, reader), before=True))
            yield

    def _enters(self, part: Part, *_: Any) -> None:
        """A hook before an attention layer without heads."""
        if (walk := running()) is not None:
            walk.notes.append(_Ran(part.name))
            if part.goal.reader is None:
                pause(_Stop((walk.notes.pop(),), torch.empty(0)))

    def _comes(self, parts: Mapping[Any, Part], call: "partial[Any]", run: Callable[[], Tensor]) -> Tensor:
        """In place of a call of a layer of the pruned model: what it puts out once it is fitted, if that is right here.

        Where it is fitted later, when its reader is come to, that is nothing.

        Args:
            parts: linear layer of the pruned model -> its part.
        """
        if (walk := running()) is None:
            return run()
        part = parts[call.func]
        ran = _Ran(part.name, call.args[0])
        if part.goal.reader is None:
            pause(_Stop((ran,), call.args[0]))
            return run()
        walk.notes.append(ran)
        return _nothing(call.args[0], self._widths[part.name])

    def _has_run(self, part: Part, _linear: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        """A hook after a layer of the dense model."""
        if (walk := running()) is None:
            return
        if part.goal.reader is None:
            pause(_Stop((_Ran(part.name),), output))
        else:
            walk.notes.append(_Ran(part.name))

    def _reads(self, reader: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
        """A hook before a module that reads the residual stream after one or several layers have added to it."""
        if (walk := running()) is None:
            return
        here = [ran for ran in walk.notes if self._parts[ran.name].goal.reader == reader]
        value = first_tensor(args)
        if here and value is not None:
            walk.notes[:] = [ran for ran in walk.notes if ran not in here]
            pause(_Stop(tuple(here), value))

    def _advance(self, passes: Sequence[tuple[Pass, Pass]]) -> None:
        """Let all passes go on to where they pause next, and note where that is."""
        self._stops = []  # what is not needed any more is let go of first
        for model, dense in passes:
            stop, of_dense = self._next(model), self._next(dense)
            self._stops.append((self._filled(stop, of_dense), of_dense))
            self._memory.look()

    def _next(self, walk: Pass) -> _Stop:
        """Let a pass go on to where it pauses next.

        Raises:
            CalibrationError: it has come to its end, though there are layers left that are to be fitted.
            StrayedError: the model or `forward` raises an error.
        """
        try:
            stop = walk.advance()
        except Exception as error:
            raise StrayedError(f"a pass beside others raised {error!r}") from error
        if stop is None:
            raise CalibrationError(
                "forward must run the pruned model as it runs the teacher, but one of the two ended before all layers "
                "had run that ran when the teacher was read"
            )
        assert isinstance(stop, _Stop)
        return stop

    def _names(self) -> list[str]:
        """The layers that are up, in the order of `parts`.

        Raises:
            CalibrationError: they are not the same in all passes.
        """
        several = {frozenset(ran.name for ran in stop.ran) for both in self._stops for stop in both}
        if len(several) > 1:
            listing = " or ".join(str(sorted(names)) for names in several)
            raise CalibrationError(
                f"forward must run the pruned model as it runs the teacher, but layers run in another order: {listing}"
            )
        (names,) = several
        return [name for name in self._parts if name in names]

    def _filled(self, stop: _Stop, dense: _Stop) -> _Stop:
        """The pruned model's stop, with what layers without heads put out; `dense` is the dense model's stop.

        Of several layers with one reader, each is fitted with what the others put out now.
        """
        ran = [
            _Ran(run.name, *self._parts[run.name].over_no_heads(dense.value)) if run.read is None else run
            for run in stop.ran
        ]
        for place, run in enumerate(ran):
            if len(ran) > 1 and run.output is None and run.read is not None:
                output = self._parts[run.name].linear.forward(run.read)
                ran[place] = run._replace(output=output)
                stop.value.add_(output)
        return _Stop(tuple(ran), stop.value)

    def _go_on_with(self, part: Part) -> None:
        """Put into the passes' residual streams what the layer puts out now that it is fitted."""
        if part.goal.reader is None:
            return  # it is computed where the pass goes on
        for stop, _ in self._stops:
            read, output = _run_of(part, stop)
            now = part.over_no_heads(stop.value)[1] if part.without_heads else part.linear.forward(read)
            stop.value.add_(now if output is None else now - output)

    def _check(self, part: Part, stop: _Stop) -> None:
        """Compare a pass of its own, of the first call, with what the passes side by side came to at the last layer.

        Args:
            part: the last layer.
            stop: where the first call's pass through the pruned model was then.

        Raises:
            StrayedError: they differ by more than rounding.
        """
        reader = None if part.goal.reader is None else self._student.get_submodule(part.goal.reader)
        if part.without_heads and reader is None:
            return
        entered = part.layer.module if part.without_heads and part.layer is not None else None
        run = partial(self._calls[0].run, self._student)
        with torch.no_grad():
            ran, reads = runs_and_reads(part.linear, reader, 1, run, entered=entered)
        expected = stop.value if reader is not None else _run_of(part, stop)[0]
        came = (reads if reader is not None else [read for read, _ in ran])[0]
        difference = (came - expected).double().norm() / expected.double().norm().clamp_min(1e-30)
        if came.shape != expected.shape or not difference <= CLOSE.get(expected.dtype, ROUGHLY):
            raise StrayedError(f"{part.name!r}: {difference:.2g} beside a pass of its own")


def _run_of(part: Part, stop: _Stop) -> tuple[Tensor, Tensor | None]:
    """What the layer, which is up, reads in the pruned model, and what it has put into the stream; None for nothing."""
    ran = next(ran for ran in stop.ran if ran.name == part.name)
    assert ran.read is not None
    return ran.read, ran.output


def _nothing(read: Tensor, width: int) -> Tensor:
    """Zeros (..., o) of this width in place of what a linear layer puts out for what it reads, (..., k)."""
    kind = read.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else read.dtype
    return torch.zeros((*read.shape[:-1], width), dtype=dtype, device=read.device)


def _per_token(weights: Tensor, read: Tensor) -> Tensor:
    """The weights, one for all tokens or one for each in their order, as (...), for what a layer reads, (..., k)."""
    return weights.expand(read.shape[:-1]) if weights.dim() == 0 else weights.reshape(read.shape[:-1])


def _missing(value: Tensor, stream: Tensor, output: Tensor | None) -> Tensor:
    """What a layer should put out, so that the stream holds `value` where it holds `stream` with the layer's output.

    Args:
        output: the layer's; None where the stream lacks it.
    """
    wide = torch.promote_types(value.dtype, torch.float32)
    return value.to(wide) - (stream.to(wide) if output is None else stream.to(wide) - output.to(wide))


def _check_alike(name: str, number: int, shapes: Sequence[torch.Size], expected: Sequence[torch.Size]) -> None:
    """Refuse runs of a layer whose outputs have other shapes than in the dense model.

    Args:
        name, number: of the layer and of the batch, for the error.
        shapes: of what it puts out, or is read after it, in each run.
        expected: the same of the dense model.

    Raises:
        CalibrationError: there is such a run, or another number of runs than expected.
    """
    if list(shapes) != list(expected):
        raise CalibrationError(
            f"{name!r}, batch {number}: forward must run the pruned model as it runs the teacher, but the "
            f"layer puts out {[tuple(shape) for shape in shapes]} in the pruned model and "
            f"{[tuple(shape) for shape in expected]} in the teacher"
        )


def _check_finite(name: str, number: int, *tensors: Tensor) -> None:
    """Refuse tensors that a layer of the pruned model reads or puts out in a batch, with NaN or infinity in them.

    Raises:
        CalibrationError: there is NaN or infinity.
    """
    if not all_finite(*tensors):
        raise CalibrationError(
            f"{name!r}, batch {number}: the layer reads or puts out NaN or infinite values in the pruned "
            "model; look for them in its weights"
        )
