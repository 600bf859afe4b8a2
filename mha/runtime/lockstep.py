"""Passes through models that go forward side by side, pausing at the same places.

What has to see all batches at one layer before any of them goes on, such as a fit of that layer, would otherwise run
every batch again from the start for each layer. Here each pass is a call in a thread of its own, and one at a time
runs: it pauses in a hook, holding the activations that the rest of it needs and no others, until it is told to go on.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch

from mha.runtime.locking import acting_as, acting_thread

LOOK = 5.0  # seconds of waiting for a pass, again and again
MOST_THREADS = 2048  # that the passes may have for their matrix products, all together

_RUNNING = threading.local()  # .walk: the pass whose thread this is


class _AbandonedError(BaseException):
    """Ends a pass that is not to go on; no `except Exception` on the way holds it up."""


class Pass:
    """A call that runs without gradients, step by step: it pauses wherever it calls `pause`.

    It runs in a thread of its own, with the autocast, the CUDA device and the right to locked models of the thread that
    made it. Whoever makes a pass must `close` it.

    Args:
        run: the call.

    Attributes:
        notes: for the hooks that the call runs, which get it from `running`.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        self.notes: list[Any] = []
        self._run = run
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._shown: Any = None
        self._error: BaseException | None = None
        self._abandoned = False
        self._surroundings = _surroundings()
        self._thread = threading.Thread(target=self._work, daemon=True, name="mha-pass")

    def advance(self) -> Any:
        """Let the call go on to its next pause, and return what it shows there; None once it is over.

        Raises:
            BaseException: whatever the call raises.
        """
        if self._thread.ident is None:
            self._thread.start()
        elif not self._thread.is_alive():
            return None
        else:
            self._go.release()
        while not self._paused.acquire(timeout=LOOK):  # a new wait each time: nobody takes this thread for stuck
            pass
        if self._error is not None:
            raise self._error
        shown, self._shown = self._shown, None
        return shown

    def close(self) -> None:
        """End the call where it is."""
        self._abandoned = True
        if self._thread.ident is not None:
            self._go.release()
            self._thread.join()

    def _work(self) -> None:
        """What the thread does: the call."""
        _RUNNING.walk = self
        try:
            with self._surroundings:
                self._run()
        except _AbandonedError:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._paused.release()

    def _pause(self, shown: Any) -> None:
        """Wait until the call may go on, or end it if it is not to."""
        self._shown = shown
        self._paused.release()
        self._go.acquire()
        if self._abandoned:
            raise _AbandonedError


def running() -> Pass | None:
    """The pass that this thread runs; None where it runs none."""
    return getattr(_RUNNING, "walk", None)


def pause(shown: Any) -> None:
    """Pause the pass that this thread runs, until its maker lets it go on.

    Args:
        shown: what the maker gets from `Pass.advance`; not None.
    """
    here = running()
    assert here is not None, "this thread runs no pass"
    here._pause(shown)


@contextmanager
def few_threads(passes: int) -> Iterator[None]:
    """Within the context so many passes, made and begun there, have at most `MOST_THREADS` threads for their products.

    torch gives every thread that calls it a pool of its own.
    """
    before = torch.get_num_threads()
    share = max(1, MOST_THREADS // max(1, passes))
    try:
        if share < before:
            torch.set_num_threads(share)
        yield
    finally:
        if share < before:
            torch.set_num_threads(before)


@contextmanager
def _as_in(thread: threading.Thread, device: int | None, casts: Mapping[str, torch.dtype]) -> Iterator[None]:
    """Within the context this thread may do what `thread` may, has this CUDA device, autocasts so, and no gradients.

    Args:
        device: the number of the CUDA device; None where there is none.
        casts: kind of device -> to what its operations are cast automatically.
    """
    with ExitStack() as contexts:
        contexts.enter_context(acting_as(thread))
        if device is not None:
            contexts.enter_context(torch.cuda.device(device))
        for kind, dtype in casts.items():
            contexts.enter_context(torch.autocast(kind, dtype))
        contexts.enter_context(torch.no_grad())
        yield


def _surroundings() -> AbstractContextManager[None]:
    """A context, to be entered in another thread, that gives that one what the present thread has."""
    cuda = torch.cuda.is_available()
    casts = {
        kind: torch.get_autocast_dtype(kind) for kind in ("cpu", *(["cuda"] * cuda)) if torch.is_autocast_enabled(kind)
    }
    return _as_in(acting_thread(), torch.cuda.current_device() if cuda else None, casts)
