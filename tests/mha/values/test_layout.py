"""The index tables, against positions written out by hand."""

import pytest
import torch

from mha.values.layout import kept_indices, owners, take, width

PLAIN = {"h": 3, "g": 1, "d": 2}
GROUPED = {"h": 2, "g": 3, "d": 2}


@pytest.mark.parametrize(
    ("axis", "sizes", "heads", "groups", "expected"),
    [
        (("(h g d)",), PLAIN, (0, 2), (0, 2), [0, 1, 4, 5]),
        (("(h d)",), PLAIN, (1,), (1,), [2, 3]),
        (("(h g d)",), GROUPED, (1, 5), (0, 1), [2, 3, 10, 11]),
        (("(h d)",), GROUPED, (4, 5), (1,), [2, 3]),
        (("(h g d)", "(h d)", "(h d)"), GROUPED, (3, 4), (1,), [6, 7, 8, 9, 14, 15, 18, 19]),
        (("(h s d)",), {"h": 2, "g": 1, "s": 3, "d": 2}, (1,), (1,), [6, 7, 8, 9, 10, 11]),
        (("(s h d)",), {"h": 2, "g": 1, "s": 3, "d": 2}, (1,), (1,), [2, 3, 6, 7, 10, 11]),
        (("(h (g+2) d)",), GROUPED, (1, 5), (0, 1), [2, 3, 6, 7, 8, 9, 14, 15, 16, 17, 18, 19]),
        (("(h (g+2) d)",), GROUPED, (3, 4), (1,), [10, 11, 12, 13, 16, 17, 18, 19]),
        (("(h d)", "(h (g+1) d)"), GROUPED, (2,), (0,), [0, 1, 8, 9, 10, 11]),
        (("(h g d)",), PLAIN, (), (), []),
        (("(h g d)",), {"h": 0, "g": 1, "d": 2}, (), (), []),
    ],
)
def test_kept_indices(axis, sizes, heads, groups, expected):
    assert kept_indices(axis, sizes, heads, groups).tolist() == expected


def test_positions_come_in_ascending_order_whatever_the_order_of_heads():
    assert kept_indices(("(h g d)",), PLAIN, (2, 0), (2, 0)).tolist() == [0, 1, 4, 5]


def test_width_sums_the_segments():
    assert width(("(h g d)", "(h d)", "(h d)"), GROUPED) == 2 * 3 * 2 + 2 * 2 + 2 * 2
    assert width(("(h (g+2) d)", "(h d)"), GROUPED) == 2 * 5 * 2 + 2 * 2


def test_owners_name_the_query_head_of_each_position():
    assert owners(("(h g d)",), GROUPED).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert owners(("(d h g)",), {"h": 3, "g": 1, "d": 2}).tolist() == [0, 1, 2, 0, 1, 2]


def test_take_copies():
    weight = torch.arange(6.0).reshape(2, 3)
    part = take(weight, 1, torch.tensor([0, 2]))
    part += 100
    assert part.tolist() == [[100, 102], [103, 105]]
    assert weight.tolist() == [[0, 1, 2], [3, 4, 5]]
