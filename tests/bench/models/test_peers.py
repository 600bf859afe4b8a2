"""Peers: they compute what our layer computes, for every mask, whole and with the same heads kept."""

import pytest
import torch

import mha
from bench.models.peers import PEERS, Inputs, Nested, NoPeerError, ours, products

B, S, H, D = 3, 7, 5, 11
WIDTH = H * D
KEPT = (0, 3, 4)
X = torch.randn(B, S, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
INPUTS = {
    "none": Inputs(X),
    "padded": Inputs(X, torch.tensor([7, 2, 5])),
    "causal": Inputs(X, causal=True),
}
ALL = {**PEERS, "ours": ours, "products": products}
del ALL["nested"]  # refuses the CPU; see below


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    return mha.MultiHeadAttention.square(WIDTH, H, bias=True, head_dim=D).double().eval()


def by_masking(layer, kept, inputs):
    """Our layer with the other heads switched off, which shares nothing with slicing or packing."""
    with mha.masked(layer, mha.HeadPlan({"": kept})), torch.no_grad():
        return layer(inputs.x, inputs.x, inputs.x, inputs.lengths, is_causal=inputs.causal)


@pytest.mark.parametrize("mask", INPUTS)
@pytest.mark.parametrize("kept", [tuple(range(H)), KEPT], ids=["whole", "sliced"])
@pytest.mark.parametrize("name", ALL)
def test_a_peer_computes_what_our_layer_computes(layer, name, kept, mask):
    inputs = INPUTS[mask]
    try:
        attend = ALL[name](layer, kept)
    except NoPeerError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        assert name in ("torch", "transformers")
        assert len(kept) < H
        return
    with torch.no_grad():
        found = attend(inputs)
    real = inputs.real()
    torch.testing.assert_close(found[real], by_masking(layer, kept, inputs)[real], rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_nested_tensors_compute_what_our_layer_computes_and_are_for_a_gpu(layer):
    inputs = INPUTS["padded"]
    with torch.no_grad():
        found = Nested(mha.prune(layer, mha.HeadPlan({"": KEPT})))(inputs)
    real = inputs.real()
    torch.testing.assert_close(found[real], by_masking(layer, KEPT, inputs)[real], rtol=0, atol=1e-12)
    assert found[~real].eq(0).all()
    with pytest.raises(NoPeerError, match="a fused kernel on a GPU only"):
        PEERS["nested"](layer, KEPT)


def test_making_a_peer_leaves_our_layer_as_it_was(layer):
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    for make in ALL.values():
        try:
            make(layer, KEPT)
        except NoPeerError:
            continue
    after = layer.state_dict()
    assert before.keys() == after.keys()
    assert all(after[name].equal(value) for name, value in before.items())


def test_masking_saves_no_parameter_and_slicing_does(layer):
    count = {
        name: sum(p.numel() for p in ALL[name](layer, KEPT).parameters()) for name in ("masked", "linears", "ours")
    }
    whole = 4 * WIDTH * WIDTH + 4 * WIDTH
    sliced = 4 * WIDTH * len(KEPT) * D + 3 * len(KEPT) * D + WIDTH
    assert count == {"masked": whole, "linears": sliced, "ours": sliced}


def test_real_positions():
    assert INPUTS["none"].real().all()
    assert INPUTS["padded"].real().sum(1).tolist() == [7, 2, 5]
    assert INPUTS["none"].seen() is None
    assert INPUTS["padded"].seen().shape == (B, 1, 1, S)
