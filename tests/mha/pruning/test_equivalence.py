"""What `check` allows: differences of rounding, by the size of the outputs, and nothing else."""

import pytest
import torch
from torch import Tensor, nn

import mha
from mha import HeadPlan, MultiHeadAttention

PLAN = HeadPlan({"attention": (1, 4)})


class Off(nn.Module):
    """Outputs of about this size, off by a share of themselves once heads are gone; filled in at feature 3."""

    def __init__(self, size: float = 1.0, share: float = 0.0, fill: float = 0.0, fill_later: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.attention = MultiHeadAttention.square(13, 5, head_dim=7)
        self.size, self.share, self.fills = size, share, (fill, fill_later)

    def forward(self, x: Tensor) -> Tensor:
        pruned = self.attention.num_heads < 5
        y = self.size * (1 + self.share * pruned) * self.attention(x, x, x).sign()
        return y.index_fill(-1, torch.tensor([3]), self.fills[pruned])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 11, 13, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rounding_of_large_outputs_is_no_alarm(x, dtype):
    share = 2 * torch.finfo(dtype).eps
    difference = mha.check(Off(size=37.0, share=share).to(dtype), PLAN, (x.to(dtype),))
    assert difference == pytest.approx(37.0 * share, rel=0.5)
    assert difference > {torch.float64: 1e-15, torch.float32: 1e-6}.get(dtype, 1e-3)


@pytest.mark.parametrize(("dtype", "share"), [(torch.float64, 2e-10), (torch.float32, 2e-5), (torch.bfloat16, 0.1)])
def test_more_than_rounding_is_found_at_any_size(x, dtype, share):
    for size in (1.0, 37.0):
        model = Off(size=size, share=share).to(dtype)
        with pytest.raises(mha.EquivalenceError, match=rf"output: .* allowed is \S+ \(.* of values up to {size:.0f}\)"):
            mha.check(model, PLAN, (x.to(dtype),))


def test_outputs_below_one_are_compared_as_they_are(x):
    assert mha.check(Off(size=0.01, share=1e-4), PLAN, (x,)) == pytest.approx(1e-6, rel=0.01)
    with pytest.raises(mha.EquivalenceError, match=r"differs from masked by 1e-05, allowed is 1e-06$"):
        mha.check(Off(size=0.01, share=1e-3), PLAN, (x,), atol=1e-6)


def test_what_is_allowed_explicitly_does_not_grow_with_the_outputs(x):
    model = Off(size=1000.0, share=1e-6)
    assert mha.check(model, PLAN, (x,)) == pytest.approx(1e-3, rel=0.1)
    with pytest.raises(mha.EquivalenceError, match=r"by 0\.00\d+, allowed is 0\.0001$"):
        mha.check(model, PLAN, (x,), atol=1e-4)


@pytest.mark.parametrize("fill", [float("-inf"), float("inf"), torch.finfo(torch.float32).min])
def test_fill_values_are_equal_and_excuse_nothing(x, fill):
    assert mha.check(Off(fill=fill, fill_later=fill), PLAN, (x,)) == 0.0
    with pytest.raises(mha.EquivalenceError, match=r"by 0\.01, allowed is 1e-05 \(1e-05 of values up to 1\)"):
        mha.check(Off(share=0.01, fill=fill, fill_later=fill), PLAN, (x,))
    with pytest.raises(mha.EquivalenceError, match=r"by (inf|3\.4e\+38), allowed is"):
        mha.check(Off(fill=0.0, fill_later=fill), PLAN, (x,))


def test_infinite_on_one_side_only(x):
    with pytest.raises(mha.EquivalenceError, match=r"output: sliced differs from masked by inf, allowed is 1e-05"):
        mha.check(Off(fill=float("inf")), PLAN, (x,))
    with pytest.raises(mha.EquivalenceError, match=r"output: sliced differs from masked by nan"):
        mha.check(Off(fill=float("nan"), fill_later=float("nan")), PLAN, (x,))
