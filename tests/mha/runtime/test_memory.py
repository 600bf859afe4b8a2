"""The memory of the process is known, and free memory goes back to the system, where the C library can give it."""

import ctypes
import sys
from pathlib import Path

import pytest
import torch

from mha.runtime import memory
from mha.runtime.memory import Trimmed, give_back, resident_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and asks glibc")
def test_what_was_freed_in_many_small_blocks_leaves_the_process():
    memory._malloc_trim.cache_clear()
    if memory._malloc_trim() is None:
        pytest.skip("this C library can't give memory back")
    blocks = [torch.ones(2_000) for _ in range(30_000)]  # 8 kB each, below what the system is asked for singly
    full = resident_bytes()
    keep = blocks[-1]
    del blocks
    give_back()
    assert resident_bytes() < full - 150e6
    assert keep.sum() == 2_000


def test_a_library_that_can_not_is_left_alone(monkeypatch):
    memory._malloc_trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert give_back() is None
    memory._malloc_trim.cache_clear()


@pytest.mark.skipif(not memory.STATUS.exists(), reason="the system does not say in /proc")
def test_the_memory_of_the_process_is_that_of_statm():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert resident_bytes() == pytest.approx(pages * 4096, rel=0.05)


def test_a_system_that_does_not_say_is_asked_in_vain(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    assert resident_bytes() is None
    memory.STATUS.write_text("Name: x")
    assert resident_bytes() is None


def test_memory_is_given_back_once_enough_has_come_together(monkeypatch):
    """The process grows by 200 MiB at each look; half of what it has beyond the first 1,000 MiB is free."""
    size, given = [1000 << 20], []

    def trim():
        given.append(size[0] >> 20)
        size[0] = (1000 << 20) + (size[0] - (1000 << 20)) // 2

    monkeypatch.setattr(memory, "resident_bytes", lambda: size[0])
    monkeypatch.setattr(memory, "give_back", trim)
    trimmed = Trimmed()
    for _ in range(6):
        size[0] += 200 << 20
        trimmed.look()
    assert given == [1400, 1600, 1700]


def test_nothing_is_given_back_where_the_size_is_not_known(monkeypatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda: None)
    monkeypatch.setattr(memory, "give_back", lambda: pytest.fail("it was"))
    Trimmed().look()
