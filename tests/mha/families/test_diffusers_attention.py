"""diffusers' attention: found without importing diffusers; tested wherever it can be imported."""

import pytest
import torch

import mha
from tests.mha.families.proof import prove

pytest.importorskip("diffusers", reason="diffusers is not installed: the tests' environment is that of torch alone")

from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor2_0,
    AttnProcessor,
    CogVideoXAttnProcessor2_0,
    FusedAttnProcessor2_0,
    IPAdapterAttnProcessor2_0,
    JointAttnProcessor2_0,
    SlicedAttnProcessor,
)

IMAGE = {"norm_num_groups": 3, "residual_connection": True, "rescale_output_factor": 1.7, "bias": True}
CROSS = {"cross_attention_dim": 22, "cross_attention_norm": "layer_norm", "qk_norm": "layer_norm"}


def attention(**options) -> Attention:
    return Attention(30, heads=5, dim_head=6, **options)


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("processor", [None, AttnProcessor])
def test_tokens_and_another_sequence(processor, tmp_path):
    made = None if processor is None else processor()
    mask = torch.zeros(2, 1, 4, dtype=torch.float64)
    mask[1, 0, 2:] = -1e4
    prove(attention(processor=made), (numbers(2, 7, 30),), directory=tmp_path / "self")
    cross = attention(**(CROSS if made is None else {"cross_attention_dim": 22}), processor=made)
    prove(cross, (numbers(2, 7, 30), numbers(2, 4, 22), mask), directory=tmp_path / "cross")


@pytest.mark.parametrize("processor", [None, SlicedAttnProcessor])
def test_images(processor, tmp_path):
    made = None if processor is None else processor(2)
    prove(attention(**IMAGE, processor=made), (numbers(2, 30, 3, 4),), directory=tmp_path)


@pytest.mark.parametrize("other", [None, 22])
def test_fused_projections(other, tmp_path):
    fused = attention(cross_attention_dim=other)
    fused.fuse_projections()
    fused.set_processor(FusedAttnProcessor2_0())
    inputs = (numbers(2, 7, 30),) if other is None else (numbers(2, 7, 30), numbers(2, 4, 22))
    prove(fused, inputs, directory=tmp_path)


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (JointAttnProcessor2_0(), "to_add_out, which is not understood"),
        (CogVideoXAttnProcessor2_0(), "something of its own after the output projection"),
        (AttnAddedKVProcessor2_0(), "reads add_k_proj"),
        (IPAdapterAttnProcessor2_0(30, 22), "holds parameters of its own"),
    ],
)
def test_processors_that_do_more_are_refused(processor, reason):
    assert reason in mha.find_attention(attention(processor=processor)).unsupported[""]
