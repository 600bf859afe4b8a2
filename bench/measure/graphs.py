"""Calls recorded as CUDA graphs: all kernels of a call are launched by one, so that no launch is waited for."""

from collections.abc import Callable

import torch

WARM_UP = 3  # calls before one is recorded, as libraries set themselves up in the first


def graph(call: Callable[[], object], device: torch.device | str) -> Callable[[], object]:
    """Record what a call does on a CUDA device; returns a function that does it again, on the same tensors.

    Raises:
        RuntimeError: the device is no CUDA device, or the call does what a graph can't hold, such as waiting for a
            result on the CPU.
    """
    place = torch.device(device)
    if place.type != "cuda":
        raise RuntimeError(f"graphs are recorded on a CUDA device only, not on {place}")
    stream = torch.cuda.Stream(place)
    stream.wait_stream(torch.cuda.current_stream(place))
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream(place).wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded), torch.inference_mode():
        call()
    return recorded.replay
