"""The part of a model's pass that a masked head can't change, recorded once and not computed again.

Everything that ran before a layer's output projection is the same with and without any of that layer's
heads. So one pass is recorded, call by call of its submodules; in a replay, the calls that had returned
before the projection began return what they returned then. Nothing is assumed about the model's structure:
what ran before is known from the order of the calls alone (drawn in `mha.importance.running.record`).

    with replay.watching():
        with replay.recording():          Recorder handles every call of a submodule: makes it, and keeps its output
            loss(model, batch)
        with replay.starting_at(W_o):     Player handles them: returns what was kept up to W_o, then makes them
            loss(model, batch)
        with replay.starting_at(...):     the same record, from another layer on
            loss(model, batch)
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from mha.importance.running.record import NotReplayableError, Recorder, Repeat
from mha.runtime.intercept import Handler, intercepted
from mha.runtime.undoing import changed


class Player:
    """Handles the calls of submodules in one replay: returns recorded outputs up to its start, then makes the calls.

    Args:
        record: the recorded pass.
        output: the output projection that the replay starts at.

    Attributes:
        problem: how the replay differs from the recorded pass; None if it does not.
    """

    def __init__(self, record: Recorder, output: nn.Module) -> None:
        self.problem: str | None = None
        self._script = record.script(output)
        self._straight = record.starts[output].straight
        self._next = 0

    def __call__(self, bound: "partial[Any]", forward: Repeat) -> Any:
        """The output of a submodule's call: the recorded one before the replay's start, then what its forward returns.

        Args:
            bound: the submodule, with the arguments that it is called with.
            forward: runs its forward on them.

        Raises:
            NotReplayableError: another module ran at this place in the recorded pass.
        """
        if self._next == len(self._script):
            return forward()
        call, at_once = self._script[self._next]
        if call.module is not bound.func:
            self.problem = (
                self.problem or f"a {type(bound.func).__name__} ran where a {type(call.module).__name__} had run before"
            )
            raise NotReplayableError(self.problem)
        self._next += 1
        if self._next == len(self._script) and self._straight is not None:
            return self._straight()
        return call.again() if at_once else forward()

    def check(self) -> None:
        """Check, after the pass, that the replay has reached its start by the same calls as the recorded pass.

        Raises:
            NotReplayableError: another module was called on the way, or the pass ended before the start.
        """
        if self.problem is None and self._next < len(self._script):
            self.problem = f"the pass ended before its {type(self._script[self._next][0].module).__name__}"
        if self.problem is not None:  # also if the loss has caught what was raised
            raise NotReplayableError(self.problem)


class Replay:
    """A model whose passes can be recorded, and run again from an output projection on.

    Within `watching` its submodules are watched; outside of `recording` and `starting_at` they do what they always
    do. One record is held at a time.

    Args:
        outputs: the output projections to start from.
    """

    def __init__(self, model: nn.Module, outputs: Collection[nn.Module]) -> None:
        self.record = Recorder(outputs)
        self._modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
        self._outputs = outputs
        self._handler: Handler | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the context passes can be recorded and replayed; the record is dropped at the end."""
        with changed(self._drop_record), intercepted(self._modules, self._handle):
            yield

    def _drop_record(self) -> None:
        """Forget what was recorded."""
        self.record = Recorder(self._outputs)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within the context the model's pass is recorded, in place of the one before.

        Raises:
            NotReplayableError: what a module had returned was changed in place afterwards.
        """
        self.record = Recorder(self._outputs)
        with self._handled_by(self.record):
            yield
        self.record.finish()

    @contextmanager
    def starting_at(self, output: nn.Module) -> Iterator[None]:
        """Within the context the recorded pass runs again, and computes nothing that precedes this projection.

        Raises:
            NotReplayableError: up to the projection, other modules were called than in the recorded pass, or in
                another order.
        """
        player = Player(self.record, output)
        with self._handled_by(player):
            yield
        player.check()

    def _handle(self, call: "partial[Any]", forward: Repeat) -> Any:
        """Hand a submodule's call to the present handler, or run its forward if there is none."""
        return forward() if self._handler is None else self._handler(call, forward)

    @contextmanager
    def _handled_by(self, handler: Handler) -> Iterator[None]:
        """Within the context, `handler` handles the calls of submodules."""
        self._handler = handler
        try:
            yield
        finally:
            self._handler = None
