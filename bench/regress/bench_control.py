"""The gate's control: work that no change to `mha` can touch, so that its time tells what the machine did.

Its samples stand in each file of the gate's `rounds/`, and the verdict has them under `control`.
"""

from typing import Any

import torch

from bench.regress.device import DEVICE, wait

SIZE, PRODUCTS, STEPS = 256, 4, 20_000
WARM_UP = 3


def test_control(benchmark: Any) -> None:
    """Time matrix products that fit in a core's cache, and steps of the interpreter: on a CPU some two milliseconds."""
    matrix = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def work() -> int:
        product, count = matrix, 0
        for _ in range(PRODUCTS):
            product = (product @ matrix).softmax(-1)
        for step in range(STEPS):
            count += step
        wait()
        return count

    with torch.inference_mode():
        for _ in range(WARM_UP):
            work()
        benchmark(work)
