"""What a module's code is read to say, on small modules written for it."""

import torch
from torch import Tensor, nn

from mha.families.reading.rewrite_width import with_free_width
from mha.families.reading.source import reading, text


class Layouts(nn.Module):
    """Holds two layouts, and picks one by a flag."""

    def __init__(self, *, merged: bool, kind: str, gate: None = None) -> None:
        super().__init__()
        self.merged, self.kind, self.gate = merged, kind, gate
        self.num_heads, self.hidden_size = 3, 6

    def forward(self, x: Tensor, extra: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if self.merged and self.training:
            x = x.view(1, self.num_heads)
        elif not self.merged:
            x = x + self.hidden_size
        if self.kind != "plain":
            x = x + extra
        x = x if self.gate is None else x * self.gate
        return x, None


def test_branches_that_flags_decide_are_left_away():
    merged, apart = text(Layouts(merged=True, kind="plain")), text(Layouts(merged=False, kind="other"))
    assert "self.num_heads" in merged  # whether it is in training is not decided
    assert "self.hidden_size" not in merged
    assert "self.num_heads" not in apart
    assert "self.hidden_size" in apart
    assert "self.gate" not in merged


def test_an_input_that_is_not_read_is_no_variable():
    assert "extra" not in reading(Layouts(merged=True, kind="plain")).variables
    assert "extra" in reading(Layouts(merged=True, kind="other")).variables


class Narrow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        b, n, e = x.shape
        context = x[..., : e // 2].unflatten(-1, (1, e // 2))
        return context.reshape(b, n, e)


def test_a_width_that_comes_last_is_freed_and_all_else_is_left():
    code = reading(Narrow())
    assert code.freed
    assert "reshape(b, n, -1)" in text(Narrow())
    x = torch.randn(2, 3, 4)
    module = Narrow()
    module.__class__ = with_free_width(Narrow)
    assert torch.equal(module(x), x[..., :2])  # the original would look for twice the numbers
    assert text(module) == text(Narrow())


class Shifted(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        b, _n, e = x.shape
        outputs = [x.view(b, -1, e)]
        return outputs + [x]  # noqa: RUF005


def test_a_width_beside_another_minus_one_is_not_freed():
    code = reading(Shifted())
    assert not code.freed
    assert code.input_width
    assert (code.returned, code.as_list) == (1, True)
