"""What this machine has and can do: its devices, and on each of them dtypes and `torch.compile`."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from bench.measure.errors import described
from bench.measure.graphs import graph

HALF = "a CPU computes in it, but seldom faster than in float32; ask for it by --dtypes"


def devices() -> tuple[str, ...]:
    """The names of this machine's devices, the CPU first: cpu, and cuda if there is one, or cuda:0, cuda:1, …"""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ("cpu",)
    count = torch.accelerator.device_count()
    kind = accelerator.type
    return ("cpu", *([kind] if count == 1 else [f"{kind}:{index}" for index in range(count)]))


def device(word: str) -> str:
    """The device that a word means, by its name on this machine: "cuda" is "cuda:0" if there are several.

    Raises:
        ValueError: this machine has no such device; says which ones it has.
    """
    here = devices()
    kind, _, index = word.partition(":")
    first = f"{kind}:0" in here
    if word in here or (not index and first):
        return word if word in here else f"{word}:0"
    if index == "0" and kind in here and kind != "cpu":
        return kind
    raise ValueError(f"{word!r} is not here; this machine has {', '.join(here)}")


@cache
def why_no_dtype(device: str, dtype: str) -> str | None:
    """Why a device can't compute in a dtype, tried with a matrix product and attention; None where it can."""

    def attend() -> None:
        x = torch.ones(1, 1, 2, 8, device=device, dtype=getattr(torch, dtype))
        attended = F.scaled_dot_product_attention(x @ x.mT @ x, x, x)
        if not torch.isfinite(attended).all():
            raise ArithmeticError("attention over ones isn't finite")

    return _failure(attend)


def why_not_by_itself(device: str, dtype: str) -> str | None:
    """Why a dtype is not measured on a device unless it is asked for; None where it is."""
    return HALF if (device, dtype) == ("cpu", "float16") else why_no_dtype(device, dtype)


@cache
def why_no_mode(device: str, mode: str) -> str | None:
    """Why a mode does not work on a device, found by trying one line in it; None where it does."""
    if mode == "eager":
        return None
    if mode == "graph":
        x = torch.ones(8, device=device)
        return _failure(lambda: graph(x.cos, device)())

    def compiled() -> None:
        x = torch.ones(8, device=device)
        torch.compile(lambda x: x.cos() + x)(x)

    return _failure(compiled)


def missing(
    flag: str,
    devices: Iterable[str],
    asked: Sequence[str],
    preset: Sequence[str],
    why_not: Callable[[str, str], str | None],
) -> dict[tuple[str, str], str]:
    """(device, dtype or mode) -> why it is left out, for what the preset asks for and this machine can't do.

    Args:
        flag: the option that an error names.
        asked: dtypes or modes that the command line asks for; if there are any, the preset's do not count.
        preset: dtypes or modes that are measured where the command line asks for none.
        why_not: called with device and dtype or mode; returns the reason, or None where it works.

    Raises:
        pytest.UsageError: what the command line asks for does not work on one of the devices.
    """
    pairs = [(device, name) for device in devices for name in asked or preset]
    reasons = {pair: reason for pair in pairs if (reason := why_not(*pair))}
    for (device, name), reason in reasons.items() if asked else ():
        raise pytest.UsageError(f"{flag}: {device} can't do {name} ({reason}); leave out one or the other")
    return reasons


def _failure(attempt: Callable[[], object]) -> str | None:
    """Name and first line of the error that an attempt raises, without its warnings; None if it raises none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attempt()
    except Exception as error:  # whatever keeps it from working, it doesn't
        return described(error)
    return None
