"""A trace as torch writes it on a CUDA device today, small enough to count by hand."""

from typing import Any

STEP_US, KERNEL_US, COPY_US = 1000, 300, 50
STEPS = (3, 4)


def gpu_trace() -> dict[str, Any]:
    """Two passes; in each aten::addmm starts one kernel of 300 µs and aten::copy_ one copy of 50 µs.

    What the host calls has category cuda_runtime or cuda_driver, and each step's mark stands on the device, too.
    """
    events: list[dict[str, Any]] = []
    for place, number in enumerate(STEPS):
        start, ids = 10_000 + STEP_US * place, 100 * (place + 1)
        events += [
            _span("user_annotation", f"ProfilerStep#{number}", start, STEP_US, {"External id": ids}),
            _span("gpu_user_annotation", f"ProfilerStep#{number}", start + 120, 400, {"External id": ids}, device=True),
            _span("cpu_op", "aten::addmm", start + 50, 200, {"External id": ids + 1, "Input Dims": [[3, 5], [5, 7]]}),
            _span("cuda_runtime", "cudaLaunchKernel", start + 80, 10, _link(ids + 1)),
            _span("kernel", "sgemm_32x32", start + 120, KERNEL_US, _link(ids + 1) | _KERNEL, device=True),
            _span("cpu_op", "aten::copy_", start + 300, 100, {"External id": ids + 2}),
            _span("cuda_driver", "cuMemcpyAsync", start + 320, 10, _link(ids + 2)),
            _span("gpu_memcpy", "Memcpy DtoD", start + 440, COPY_US, _link(ids + 2) | {"device": 0}, device=True),
            _memory(start + 60, 512, device_type=1),
            _memory(start + 70, 64, device_type=0),
            _memory(start + 310, 256, device_type=1),
            _memory(start + 350, -512, device_type=1),
        ]
    properties = {"id": 0, "name": "GPU", "totalGlobalMem": 2**34, "computeMajor": 9, "computeMinor": 0, "numSms": 132}
    return {"schemaVersion": 1, "deviceProperties": [properties], "traceEvents": events}


_KERNEL = {
    "device": 0, "stream": 7, "registers per thread": 32, "shared memory": 0, "blocks per SM": 1.5, "grid": [2, 1, 1],
    "block": [128, 1, 1], "est. achieved occupancy %": 50,
}  # fmt: skip


def _link(number: int) -> dict[str, Any]:
    return {"External id": number, "correlation": number}


def _span(cat: str, name: str, ts: float, dur: float, args: dict[str, Any], *, device: bool = False) -> dict[str, Any]:
    where = {"pid": 0, "tid": 7} if device else {"pid": 4242, "tid": 4242}
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, **where, "args": args}


def _memory(ts: float, size: int, *, device_type: int) -> dict[str, Any]:
    args = {"Total Reserved": 2048, "Total Allocated": 1024, "Bytes": size, "Device Id": 0, "Device Type": device_type,
            "Addr": 17}  # fmt: skip
    return {"ph": "i", "cat": "cpu_instant_event", "s": "t", "name": "[memory]", "ts": ts, "pid": 4242, "tid": 4242,
            "args": args}  # fmt: skip
