"""Free memory goes back to the system, where the C library can give it."""

import ctypes
import sys
from pathlib import Path

import pytest
import torch

from mha.runtime import free_memory
from mha.runtime.free_memory import give_back


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and asks glibc")
def test_what_was_freed_in_many_small_blocks_leaves_the_process():
    free_memory._malloc_trim.cache_clear()
    if free_memory._malloc_trim() is None:
        pytest.skip("this C library can't give memory back")
    blocks = [torch.ones(2_000) for _ in range(30_000)]  # 8 kB each, below what the system is asked for singly
    full = resident()
    keep = blocks[-1]
    del blocks
    give_back()
    assert resident() < full - 150e6
    assert keep.sum() == 2_000


def test_a_library_that_can_not_is_left_alone(monkeypatch):
    free_memory._malloc_trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert give_back() is None
    free_memory._malloc_trim.cache_clear()
