"""What a pass is watched with: finite numbers, random signs, sizes."""

import pytest
import torch

from mha.repair.observe import all_finite, random_signs, root_mean_square


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 50, -1])
def test_a_number_that_is_none_is_seen_wherever_it_is(dtype, bad, place):
    good = torch.randn(3, 41).to(dtype)
    spoilt = good.clone()
    spoilt.view(-1)[place] = bad
    assert all_finite(good, good.new_zeros(0))
    assert not all_finite(good, spoilt)


def test_signs_are_as_often_up_as_down():
    signs = random_signs(torch.zeros(101, 103, dtype=torch.float64), torch.Generator().manual_seed(1))
    assert signs.dtype == torch.float64
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.05


def test_the_root_mean_square_is_that_of_all_entries():
    assert root_mean_square(torch.tensor([[3.0, -4.0], [0.0, 0.0]])) == pytest.approx(2.5)
    assert root_mean_square(torch.zeros(0)) == 0
