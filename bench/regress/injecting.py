"""A pytest plugin that makes attention slower on purpose, for bench/regress/calibrate.py.

$MHA_GATE_INJECTED names the slowdown, as in "layer:0.1": its kind, and a share of the time of a call.

- layer: every call of a layer with key/value groups takes longer by that share; there is one such benchmark
- constant: every call of any layer takes longer by the same time, that share of `TYPICAL` seconds
- noise: every call of any layer takes longer by a random share, exponentially distributed, whose mean is that share.
"""

import os
import random
import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import mha
from bench.regress.device import wait

VARIABLE = "MHA_GATE_INJECTED"
NOTHING = "nothing:0.00"
TYPICAL = 0.004  # seconds of a call

Kind = Callable[[mha.MultiHeadAttention, float], float]  # layer, seconds of a call -> seconds that a share of 1 adds
KINDS: Mapping[str, Kind] = {
    "nothing": lambda layer, seconds: 0.0,  # noqa: ARG005
    "layer": lambda layer, seconds: seconds if layer.num_kv_heads != layer.num_heads else 0.0,
    "constant": lambda layer, seconds: TYPICAL,  # noqa: ARG005
    "noise": lambda layer, seconds: seconds * random.expovariate(1.0),  # noqa: ARG005
}


def pytest_configure() -> None:
    """Slow the forward of `mha.MultiHeadAttention` as the environment variable asks."""
    kind, _, share = os.environ.get(VARIABLE, NOTHING).partition(":")
    mha.MultiHeadAttention.forward = slowed(mha.MultiHeadAttention.forward, KINDS[kind], float(share))  # type: ignore[method-assign]


def slowed(forward: Callable[..., Any], kind: Kind, share: float) -> Callable[..., Any]:
    """The forward with a slowdown: each call takes longer by `share` times the seconds that `kind` returns for it.

    `kind` gets the layer and the seconds that the call took, until the device was done; the rest is waited for, busily.
    """

    @wraps(forward)
    def later(layer: mha.MultiHeadAttention, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        output = forward(layer, *args, **kwargs)
        wait()
        end = time.perf_counter()
        end += share * kind(layer, end - start)
        while time.perf_counter() < end:
            pass
        return output

    return later
