"""Modules that read like those of libraries which are not installed here, loaded under the libraries' names."""

from functools import partial

import pytest
import torch
from torch import nn

import mha
from mha import HeadPlan
from tests.mha.families.proof import load_like, prove


@pytest.fixture
def like(monkeypatch):
    """Loads a file of `like` under a name, for as long as the test runs."""
    return partial(load_like, monkeypatch)


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("name", ["ShiftedWindowAttention", "ShiftedWindowAttentionV2"])
def test_torchvisions_shifted_windows(like, name, tmp_path):
    swin = like("torchvision.py", "torchvision.models.swin_transformer")
    prove(getattr(swin, name)(15, [2, 3], 5), (numbers(2, 4, 6, 15),), directory=tmp_path)


def test_torchvisions_grid_attention(like, tmp_path):
    maxvit = like("torchvision.py", "torchvision.models.maxvit")
    attention = maxvit.RelativePositionalMultiHeadAttention(15, 3, 7)
    prove(attention, (numbers(2, 3, 7, 15),), directory=tmp_path)


def test_another_release_that_says_something_else_is_refused(like, monkeypatch):
    swin = like("torchvision.py", "torchvision.models.swin_transformer")
    attention = swin.ShiftedWindowAttention(15, [2, 3], 5)

    def shifted_window_attention(*args, **kwargs):
        return args[0], kwargs

    monkeypatch.setattr(swin, "shifted_window_attention", shifted_window_attention)
    with pytest.raises(mha.UnsupportedModule, match=r"code of ShiftedWindowAttention says .* 0 times, not once"):
        mha.prune(attention, HeadPlan({"": (0,)}))


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ({}, [(2, 7, 15)]),
        ({"norm": True, "other": 11}, [(2, 7, 15), (2, 4, 11)]),
        ({"residual": True, "factor": 1.7}, [(2, 15, 3, 4)]),
    ],
)
def test_diffusers_attention(like, options, inputs, tmp_path):
    library = like("diffusers.py", "diffusers.models.attention_processor")
    attention = library.Attention(15, 5, library.Processor(), **options)
    prove(attention, [numbers(*shape) for shape in inputs], directory=tmp_path)
    pruned = mha.prune(attention, HeadPlan({"": (1, 4)}))
    assert (pruned.heads, pruned.inner_dim, pruned.inner_kv_dim) == (2, 6, 6)


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        ("MixingProcessor", "its processor MixingProcessor reads mix_heads, which is not understood"),
        ("HandingOn", "its processor HandingOn hands the module on to other code"),
        ("Unfinished", "its processor Unfinished does something of its own after the output projection"),
        ("WithParameters", "its processor WithParameters holds parameters of its own"),
    ],
)
def test_a_processor_that_is_not_understood_is_refused(like, processor, reason):
    library = like("diffusers.py", "diffusers.models.attention_processor")
    attention = library.Attention(15, 5, getattr(library, processor)())
    assert reason in mha.find_attention(attention).unsupported[""]


def test_a_processor_of_the_users_own_is_refused(like):
    library = like("diffusers.py", "diffusers.models.attention_processor")

    class Own(library.Processor):
        pass

    with pytest.raises(mha.UnsupportedModule, match="its processor Own is not diffusers' own"):
        mha.prune(library.Attention(15, 5, Own()), HeadPlan({"": (0,)}))


def test_heads_that_share_keys_need_a_processor_that_says_how(like):
    library = like("diffusers.py", "diffusers.models.attention_processor")
    with pytest.raises(mha.UnsupportedModule, match="does not say how 4 heads share 2 keys"):
        mha.prune(library.Attention(12, 4, library.Processor(), kv_heads=2), HeadPlan({"": (0,)}))


TIMM = {
    "channels": lambda timm: (timm.XCA(15, 5), (numbers(2, 7, 15),)),
    "class token": lambda timm: (timm.ClassAttn(15, 5), (numbers(2, 7, 15),)),
    "smaller image": lambda timm: (timm.GlobalSubSampleAttn(15, 5), (numbers(2, 24, 15), (4, 6))),
    "pooled queries": lambda timm: (timm.MaskUnitAttention(11, 15, 5, q_stride=3), (numbers(2, 6, 11),)),
    "all queries": lambda timm: (timm.MaskUnitAttention(11, 15, 5, q_stride=1), (numbers(2, 6, 11),)),
    "narrow keys": lambda timm: (timm.LevitAttention(13, 2, 3, 5, tokens=7), (numbers(2, 7, 13),)),
    "narrow keys, fewer queries": lambda timm: (timm.AttentionDownsample(13, 2, 3, 5, tokens=7), (numbers(2, 7, 13),)),
}


@pytest.mark.parametrize("name", TIMM)
def test_timms_ways_of_attention(like, name, tmp_path):
    module, args = TIMM[name](like("timm.py", "timm.models.levit"))
    prove(module, args, directory=tmp_path)


def test_biases_that_were_remembered_for_all_heads_are_not_used_again(like):
    timm = like("timm.py", "timm.models.levit")
    attention, x = timm.LevitAttention(13, 2, 3, 5, tokens=7).double().eval(), numbers(2, 7, 13)
    nn.init.normal_(attention.attention_biases)
    attention(x)
    assert mha.check(attention, HeadPlan({"": (3,)}), (x,)) < 1e-10  # one head would take the bias of any number


def test_keys_made_of_what_heads_computed_are_refused(like):
    timm = like("timm.py", "timm.models.twins")
    with pytest.raises(mha.UnsupportedModule, match=r"says 'x = q.transpose\(1, 2\).flatten\(2\)', which is not under"):
        mha.prune(timm.MixedKeys(15, 5), HeadPlan({"": (0,)}))


class Attention2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4, 4, 1)


class Pooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))

    def forward(self, x):
        return torch.nn.functional.scaled_dot_product_attention(self.token.expand(len(x), -1, -1), x, x)


@pytest.mark.parametrize("kind", [Attention2d, Pooling])
def test_what_computes_attention_is_listed_whatever_it_is_called(kind):
    model = nn.ModuleDict({"a": kind(), "b": nn.Linear(3, 3)})
    assert mha.find_attention(model).unsupported.keys() == {"a"}
    assert f"{kind.__name__} is of no known family" in mha.find_attention(model).unsupported["a"]
