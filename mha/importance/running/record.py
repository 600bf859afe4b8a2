"""The calls of a model's submodules in one pass, and what of them a replay needs.

Calls within calls, in the order in which they begin, and what becomes of them in a replay that starts at the output
projection of block 1:

    recorded pass                        replay
    -------------                        ------
    model(                               runs
        embed()                          returns what it returned
        block 0(                         returns what it returned; nothing within it is called
            ...  )
        block 1(                         runs
            norm()                       returns what it returned
            attention(                   runs, or is not called either: see `ReplayStart.straight`
                W_q()  W_k()  W_v()      return what they returned
                W_o()                    the start: runs, on a context in which a head is masked
            )
            mlp()  )                     runs
        head()  )                        runs

So what had returned before W_o began is not computed again; what was under way then, or came later, is.
"""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from mha.runtime.nests import leaves

Repeat = Callable[[], Any]  # makes a call with the arguments that it has been bound to
Versions = list[tuple[Tensor, int]]  # tensors, each with the count of its changes in place
PLAIN = (type(None), bool, int, float, complex, str, torch.dtype, torch.device, torch.Size)


class NotReplayableError(Exception):
    """A replay can't be trusted to do what the recorded pass did; says why. Never leaves the package."""


@dataclass(eq=False)
class ModuleCall:
    """One call of a submodule in the recorded pass.

    Attributes:
        start, end: when it began and returned, on a clock that ticks whenever a call begins or returns.
        before: how many calls of modules without submodules had returned when it began.
        tensors: those of its output, with their versions when it returned; None where the output is of a kind that
            may not be returned twice, such as a key/value cache.
    """

    module: nn.Module
    start: int
    before: int
    end: int = 0
    output: Any = None
    tensors: Versions | None = None

    def again(self) -> Any:
        """The output once more: the same tensors; containers that a caller could change are made anew each time."""
        items = self.output if isinstance(self.output, tuple) else (self.output,)
        if all(isinstance(item, Tensor | None) for item in items):
            return self.output
        return copy.deepcopy(self.output, {id(tensor): tensor for tensor, _ in self.tensors or ()})


@dataclass(eq=False)
class ReplayStart:
    """Where a replay begins to compute.

    Of `attention(... W_o() )`, the projection is W_o. Where all that the attention module returns is what W_o returned,
    alone or in a tuple beside None, a replay does not enter the module, but makes W_o's call in its place:

        call        straight         what a replay does when it comes to `call`
        ----        --------         ------------------------------------------
        W_o         None             runs W_o
        attention   again            runs `again`, which is W_o with the arguments it had, and returns that
        attention   (again, None)    the same, and returns it in such a tuple

    Attributes:
        projection: the first call of an output projection.
        call: that call, or the attention module's call around it.
        again: makes the projection's call with the arguments it had.
        straight: returns what the attention module would, by running `again` alone; None where `call` is W_o's own.
        tensors: those of the arguments, with their versions, as in `ModuleCall.tensors`.
    """

    projection: ModuleCall
    call: ModuleCall
    again: Repeat | None
    tensors: Versions | None
    straight: Repeat | None = None


class Recorder:
    """Handles the calls of one pass: makes them, and remembers what replays will return.

    What it remembers of each block is its output, and what the attention layer starts from: about four activations.

    Args:
        outputs: the output projections that replays will start from.

    Attributes:
        starts: output projection -> where a replay from it on begins, in the order of the pass.
    """

    def __init__(self, outputs: Collection[nn.Module]) -> None:
        self.starts: dict[Any, ReplayStart] = {}
        self._outputs = frozenset(outputs)
        self._calls: list[ModuleCall] = []  # in the order in which they began
        self._clock = 0
        self._leaves = 0

    def __call__(self, bound: "partial[Any]", forward: Repeat) -> Any:
        """Make a submodule's call, and return what it returns.

        Args:
            bound: the submodule, with the arguments that it is called with.
            forward: runs its forward on them.
        """
        module = cast(nn.Module, bound.func)
        call, number = ModuleCall(module, self._tick(), self._leaves), len(self._calls)
        self._calls.append(call)
        if module in self._outputs and module not in self.starts:
            self.starts[module] = ReplayStart(call, call, bound, versions_of((bound.args, bound.keywords)))
        call.output = forward()
        call.end = self._tick()
        call.tensors = versions_of(call.output)
        self._leaves += next(module.children(), None) is None
        self._shorten(call)
        self._forget(call, number)
        return call.output

    def share(self, output: nn.Module) -> float:
        """The share of the pass that a replay from this projection on runs, by calls of modules without submodules."""
        return 1 - self.starts[output].projection.before / max(self._leaves, 1)

    def script(self, output: nn.Module) -> list[tuple[ModuleCall, bool]]:
        """The calls that a replay from this projection on meets up to its start, in the order in which they begin.

        Returns:
            Each call, and whether the replay returns its recorded output (True) or runs it (False).
        """
        start = self.starts[output].call.start
        script: list[tuple[ModuleCall, bool]] = []
        until = 0
        for call in self._calls:
            if until < call.start <= start:
                at_once = call.end < start and call.tensors is not None
                script.append((call, at_once))
                until = call.end if at_once else until
        return script

    def finish(self) -> None:
        """Drop the recorded outputs that no replay returns; called at the end of the pass.

        Raises:
            NotReplayableError: a tensor that replays return or start from has been changed in place meanwhile.
        """
        returned = {call for output in self.starts for call, at_once in self.script(output) if at_once}
        for call in self._calls:
            if call not in returned:
                call.output, call.tensors = None, None if call.tensors is None else []
        for start in self.starts.values():
            if start.straight is None:
                start.again = None
            else:
                start.projection.output, start.projection.tensors = None, None
        self.check()

    def check(self) -> None:
        """Check that no tensor that replays return or start from has been changed in place since it was recorded.

        Raises:
            NotReplayableError: one has; says of which class of module.
        """
        for call in self._calls:
            if not unchanged(call.tensors):
                raise NotReplayableError(f"what a {type(call.module).__name__} returned was changed in place")
        if not all(unchanged(start.tensors) for start in self.starts.values() if start.straight):
            raise NotReplayableError("what an output projection reads was changed in place")

    def held(self) -> list[Tensor]:
        """The tensors that the record keeps alive, each once."""
        kept = [call.tensors for call in self._calls] + [start.tensors for start in self.starts.values() if start.again]
        return list({id(tensor): tensor for tensors in kept for tensor, _ in tensors or ()}.values())

    def _tick(self) -> int:
        """Advance the clock by one tick, and return its reading."""
        self._clock += 1
        return self._clock

    def _shorten(self, call: ModuleCall) -> None:
        """If all that this call returns is the output of the one output projection within it, shorten the replay.

        "All" means alone, or in a tuple beside None. A replay then runs the projection in place of this call, as in
        `ReplayStart`.
        """
        within = [start for start in self.starts.values() if start.projection.start > call.start]
        if len(within) != 1 or within[0].tensors is None or not unchanged(within[0].projection.tensors):
            return
        (start,) = within
        again, projected = start.again, start.projection.output
        assert again is not None
        if call.output is projected:
            start.call, start.straight = call, again
        elif type(call.output) is tuple and all(item is projected or item is None for item in call.output):
            filled = [item is projected for item in call.output]
            if sum(filled) == 1:
                start.call, start.straight = call, lambda: tuple(again() if here else None for here in filled)

    def _forget(self, call: ModuleCall, number: int) -> None:
        """Drop the calls within a finished one, call `number`, that no replay meets: those after the last start."""
        if call.tensors is not None:
            starts = {start.call for start in self.starts.values()}
            last = max(
                (index for index in range(number, len(self._calls)) if self._calls[index] in starts), default=number
            )
            del self._calls[last + 1 :]


def versions_of(value: Any) -> Versions | None:
    """The tensors in a value, each with the count of its changes in place.

    None where the value holds anything but tensors and numbers, names and the like (`PLAIN`), in tuples, lists and
    dictionaries.
    """
    versions: Versions = []
    for _, leaf in leaves(value, containers=(tuple, list, dict)):
        if isinstance(leaf, Tensor):
            versions.append((leaf, leaf._version))
        elif not isinstance(leaf, PLAIN):
            return None
    return versions


def unchanged(tensors: Versions | None) -> bool:
    """Whether none of these tensors has been changed in place since `versions_of` was called; True without any."""
    return all(tensor._version == version for tensor, version in tensors or ())
