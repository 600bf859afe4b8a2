"""Ceilings: what the calls do is what they are said to do."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.measure import ceilings
from mha.timing.cache_flush import cache_bytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_amounts_are_those_of_the_calls(monkeypatch, dtype):
    monkeypatch.setattr(ceilings, "SIDES", {"cpu": 67})
    monkeypatch.setattr(ceilings, "cache_bytes", lambda _device: 40_000)
    work = ceilings.ceilings("cpu", dtype)
    assert set(work) == {"matmul", "copy", "cached copy"}
    call, flops = work["matmul"]
    with FlopCounterMode(display=False) as counter:
        product = call()
    assert flops == counter.get_total_flops() == 2 * 67**3
    assert product.dtype == getattr(torch, dtype)
    for name, buffers in (("copy", 8 * 40_000), ("cached copy", 5_000)):
        call, moved = work[name]
        copied = call()
        assert copied.eq(1).all()
        assert moved == 2 * copied.numel() * copied.element_size() == pytest.approx(buffers, rel=0.01)


def test_a_copy_is_made_beyond_the_caches_and_another_within():
    assert ceilings.OUTSIDE * cache_bytes() > 2 * cache_bytes() > 2 * ceilings.INSIDE * cache_bytes()
