"""Parameters, FLOPs and peak bytes of one call: counted by torch alone, so that no change of mha can falsify them.

On one machine the numbers are the same in every process. Peak bytes belong to a version of torch and a kind of
processor, whose kernels take working memory of different sizes.
"""

import gc
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bench.measure.threads import one_thread

FUSED = (  # attention that torch's counter knows no formula for, and so takes for nothing
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math_for_mps",
)


def counted(model: nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Count what one call `model(*args, **kwargs)` takes, for `bench.regress.exact` to compare.

    Returns:
        "parameters", "flops" and "peak_bytes" -> their numbers, as the functions of these names count them.
    """

    def call() -> Any:
        return model(*args, **(kwargs or {}))

    return {"parameters": parameters(model), "flops": flops(call), "peak_bytes": peak_bytes(call, _device(model))}


def parameters(model: nn.Module) -> int:
    """How many numbers the model's parameters hold; a parameter that several modules share is counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops(call: Callable[[], Any]) -> int:
    """Count the floating-point operations of the matrix products in a call, a multiply-add as two.

    Attention counts as 4·b·h·q·k·d (batch size, heads, queries, keys, head width), whatever is masked. torch's fused
    encoder kernels, which no counter looks into, are off meanwhile.
    """
    operators = [getattr(torch.ops.aten, name) for name in FUSED if hasattr(torch.ops.aten, name)]
    counter = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(operators, _attention))
    with torch.inference_mode(), _without_fast_path(), counter:
        call()
    return int(counter.get_total_flops())


def peak_bytes(call: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """The most bytes that a call holds at one time, beyond what was held when it began; an earlier call warms it up.

    On a CPU these are the bytes that the call has asked torch's allocator for and not yet given back, on one thread,
    since some kernels take working memory for each thread. On CUDA they are what the allocator counts, which rounds
    every block up to 512 bytes.
    """
    with torch.inference_mode(), one_thread():
        call()  # what libraries keep for good they have afterwards
        with _no_collection():
            return _on_cpu(call) if torch.device(device).type == "cpu" else _on_accelerator(call, device)


def highest(events: Iterable[tuple[int, int]]) -> int:
    """The most bytes that are held at one time, of the blocks that are allocated in these events.

    A block that is freed, but was not allocated in these events, does not count: it was there before.

    Args:
        events: address and bytes of each block, in order of time; bytes > 0 where it is allocated, < 0 where it is
            freed.
    """
    held: dict[int, int] = {}
    now = most = 0
    for address, size in events:
        if size > 0:
            held[address] = size
            now += size
        else:
            now -= held.pop(address, 0)
        most = max(most, now)
    return most


def _on_cpu(call: Callable[[], Any]) -> int:
    """The peak bytes of a call on the CPU, from a trace of torch's allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        document = json.loads(trace.read_text(encoding="utf-8"))
    return highest(_allocations(document["traceEvents"]))


def _allocations(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    """Address and bytes of each event of the CPU's allocator in a trace, in order of time."""
    memory = [event for event in events if event["name"] == "[memory]"]
    for event in sorted(memory, key=lambda event: event["ts"]):
        if event["args"]["Device Type"] == DeviceType.CPU.value:
            yield event["args"]["Addr"], event["args"]["Bytes"]


def _on_accelerator(call: Callable[[], Any], device: torch.device | str) -> int:
    """The peak bytes of a call on an accelerator, beyond those held before it, as torch's allocator counts them."""
    torch.accelerator.synchronize(device)
    torch.accelerator.reset_peak_memory_stats(device)
    before = torch.accelerator.memory_allocated(device)
    call()
    torch.accelerator.synchronize(device)
    return int(torch.accelerator.max_memory_allocated(device) - before)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Within the context the garbage collector, which frees tensors at moments of its own choice, is off."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Within the context torch's encoder layers and attention run operator by operator, not as one fused kernel."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _device(model: nn.Module) -> torch.device:
    """The device of the model's first parameter, or else buffer; the CPU if it has neither."""
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, **kwargs: Any) -> int:  # noqa: ARG001
    """The floating-point operations of a fused attention kernel, from the shapes of its query, key and value.

    Those are (b, h, q, d), (b, h, k, d) and (b, h, k, d of values); further arguments are not used.
    """
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[-2] * (width + value[-1])
