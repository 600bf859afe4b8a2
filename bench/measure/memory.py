"""The most memory that one call of a model needs: its weights, and what the call has at its worst on top of them."""

import copy
import ctypes
import importlib.util
import multiprocessing
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bench.measure.calls import forward, map_tensors
from mha.runtime.memory import give_back, status_bytes
from mha.timing import synchronize

PROCESS = Path("/proc/self")
M_MMAP_THRESHOLD, LARGE = -3, 64 << 10  # for glibc: blocks from so many bytes go back to the system when they are freed
HEAVY = ("transformers.modeling_utils",)  # take seconds to import
RESET_PEAK = "5"  # for clear_refs, as proc(5) has it

Result = TypeVar("Result")
ModelCall = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


class UnsendableError(RuntimeError):
    """A model can't be sent to another process, for example because its class can't be imported there."""


def peak_bytes(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], device: torch.device | str
) -> int | None:
    """Bytes of the weights and of all else that one call without gradients has at its worst; inputs do not count.

    On an accelerator its allocator says it. On the CPU it is what the resident set of a fresh process grows by during
    a call, when one before has warmed it up; that is good to about a megabyte.

    Args:
        model, args, kwargs: all on the device. From the CPU they are sent to the other process, which must be able to
            import the classes they are of, or find them in a file.

    Returns:
        None where the system does not say: on a CPU without Linux's /proc, and where the allocator keeps no peak.

    Raises:
        MemoryError: the fresh process was killed, most likely for want of memory.
        UnsendableError: the call can't be sent there.
        RuntimeError: the call has raised there; the message has its traceback.
    """
    device, call = torch.device(device), (model, args, dict(kwargs))
    growth = _in_fresh_process(call) if device.type == "cpu" else _on_accelerator(call, device)
    return None if growth is None else weight_bytes(model) + growth


def with_peak(work: Callable[[], Result]) -> tuple[Result, int | None]:
    """Do some work on the CPU; returns its result, and by how many bytes this process's memory grew for it at most.

    Memory that was free within the process before counts as none, so that the number is good to some megabytes. It is
    None where the system does not say, without Linux's /proc.
    """
    if not (PROCESS / "clear_refs").exists() or _most_resident() is None:
        return work(), None
    give_back()
    (PROCESS / "clear_refs").write_text(RESET_PEAK)
    before = _most_resident() or 0
    result = work()
    return result, max(0, (_most_resident() or 0) - before)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers; shared ones count once."""
    storages = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _on_accelerator(call: ModelCall, device: torch.device) -> int | None:
    run = forward(*call)
    run()  # what libraries keep for good they have afterwards
    synchronize(device)
    if not _allocator_counts(device):
        return None
    torch.accelerator.reset_peak_memory_stats(device)
    before = torch.accelerator.memory_allocated(device)
    run()
    synchronize(device)
    return torch.accelerator.max_memory_allocated(device) - before


def _allocator_counts(device: torch.device) -> bool:
    try:
        return bool(torch.accelerator.memory_stats(device))
    except RuntimeError:  # that of MPS does not
        return False


def _in_fresh_process(call: ModelCall) -> int | None:
    if not (PROCESS / "clear_refs").exists() or _most_resident() is None:
        return None
    sources = _sources(call[0])
    context = _context(sources)
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, sources, torch.get_num_threads()))
    process.start()
    theirs.close()  # so that it is closed when the process is gone
    try:
        outcome = _asked(ours, call)
    except (EOFError, ConnectionError):
        process.join()
        raise MemoryError(_DIED.format(_name(call), process.exitcode)) from None
    finally:
        ours.close()
        if process.is_alive():
            process.kill()
        process.join()
    if isinstance(outcome, str):
        raise RuntimeError(f"{_name(call)}, called in a fresh process to see its memory, raised there:\n{outcome}")
    return outcome


_DIED = (
    "{} was called in a fresh process to see its memory, which ended with code {} (-9: killed), most likely because "
    "memory ran out; give a smaller batch or shorter sequences"
)


def _asked(connection: Connection, call: ModelCall) -> int | str:
    """Send a call to the process, and return its answer: bytes, or a traceback.

    Raises:
        EOFError, ConnectionError: the process has ended.
        UnsendableError: the call can't be sent.
    """
    try:
        parcel = _packed(call)
        connection.send(parcel)
    except ConnectionError:
        raise
    except Exception as error:
        raise UnsendableError(
            f"{_name(call)} can't be sent to a fresh process to see its memory ({type(error).__name__}: {error}); its "
            "classes must be importable, and it may hold no functions that have no name"
        ) from error
    return connection.recv()


def _name(call: ModelCall) -> str:
    return type(call[0]).__name__


def _context(sources: Iterable[str]) -> Any:
    """A context of `multiprocessing` that forks each process from a server that has made imports and computed nothing.

    The server imports torch, the modules named by `sources`, and those of `HEAVY` that this process has imported.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", __name__, *sources, *(name for name in HEAVY if name in sys.modules)])
    return context


def _measure(connection: Connection, sources: Mapping[str, str | None], threads: int) -> None:
    """Run in the fresh process: receive a call, and send back the bytes it needs, or the traceback of its error."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc has it
        mallopt(M_MMAP_THRESHOLD, LARGE)  # first of all, or blocks would fill the gaps that others have left
    try:
        torch.set_num_threads(threads)
        for name, path in sources.items():
            _import(name, path)
        outcome: int | str = _growth(_unpacked(connection.recv()))
    except Exception:
        outcome = traceback.format_exc()
    connection.send(outcome)


def _growth(call: ModelCall) -> int:
    """How many bytes the resident set of this process grows by, at its largest, during a call, after one to warm up."""
    run = forward(*call)
    run()  # what libraries keep for good they have afterwards
    return with_peak(run)[1] or 0


def _most_resident() -> int | None:
    """How much memory this process has had at its worst since that was reset; None if the system does not say."""
    return status_bytes("VmHWM", PROCESS / "status")


class _Slot:
    """Stands for a tensor while the rest of a model is sent to another process.

    Tensors themselves would each take shared memory and an open file, of which there may not be enough.
    """


class _Packed(NamedTuple):
    """A tensor as plain bytes, with dtype, shape and whether it is a parameter."""

    data: np.ndarray
    dtype: torch.dtype
    shape: torch.Size
    is_parameter: bool

    @classmethod
    def of(cls, tensor: Tensor) -> "_Packed":
        """Pack a tensor that is on the CPU."""
        data = tensor.detach().reshape(-1).view(torch.uint8).numpy()
        return cls(data, tensor.dtype, tensor.shape, isinstance(tensor, nn.Parameter))

    def tensor(self) -> Tensor:
        """Make the tensor again, on the CPU and without a gradient; a parameter where it was one."""
        plain = torch.empty(self.shape, dtype=self.dtype)
        plain.reshape(-1).view(torch.uint8).copy_(torch.from_numpy(self.data))
        return nn.Parameter(plain, requires_grad=False) if self.is_parameter else plain


Parcel = tuple[Any, list[_Slot], list[_Packed]]  # a call with slots for tensors, the slots, and what they stand for


def _packed(call: ModelCall) -> Parcel:
    """A copy of a call with a slot in place of each tensor of model and inputs, the slots, and the packed tensors."""
    model, *inputs = call
    tensors = [*model.parameters(), *model.buffers()]
    map_tensors(inputs, tensors.append)
    each = {id(tensor): tensor for tensor in tensors}
    slots = {key: _Slot() for key in each}
    skeleton = copy.deepcopy(call, dict(slots))  # which takes the slots for copies that it has made
    return skeleton, list(slots.values()), [_Packed.of(tensor) for tensor in each.values()]


def _unpacked(parcel: Parcel) -> ModelCall:
    """The call that `_packed` has packed, with its tensors in place of their slots."""
    skeleton, slots, packed = parcel
    tensors = {id(slot): each.tensor() for slot, each in zip(slots, packed, strict=True)}
    return copy.deepcopy(skeleton, tensors)


def _sources(model: nn.Module) -> dict[str, str | None]:
    """Name of each Python module that defines a class of the model's submodules -> its file, or None."""
    names = {type(module).__module__ for module in model.modules()}
    return {name: getattr(sys.modules.get(name), "__file__", None) for name in names}


def _import(name: str, path: str | None) -> None:
    """Import a module by its name or else from its file; ImportError if neither is possible."""
    try:
        importlib.import_module(name)
    except ImportError:
        spec = importlib.util.spec_from_file_location(name, path) if path else None
        if spec is None or spec.loader is None:
            raise
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
