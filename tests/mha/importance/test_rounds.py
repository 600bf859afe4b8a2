"""Iterative and greedy scoring, progress, and how batches are counted."""

import re
from collections import OrderedDict, UserDict
from typing import NamedTuple

import pytest
import torch
from torch import nn

import mha
from mha.importance.registry import describe
from mha.importance.running.examples import count_examples, first_half
from tests.mha.support.criteria import QUICK
from tests.mha.support.losses import attention_error, mean_loss
from tests.mha.support.models import BATCHES, LAYERS, additive


class NamedPair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


PLACES = [(name, head) for name, (heads, _) in LAYERS.items() for head in range(heads)]


def order_of(scores):
    """Layer and head, the first removed first."""
    ranks = {(name, head): rank for name, row in scores.scores.items() for head, rank in enumerate(row.tolist())}
    return sorted(ranks, key=ranks.get)


def without(gone):
    return mha.HeadPlan(
        {name: [head for head in range(heads) if (name, head) not in gone] for name, (heads, _) in LAYERS.items()}
    )


def test_as_many_rounds_as_heads_is_the_greedy_order(model, batches, loss):
    """Each time the head goes whose leaving costs least, by masking and trying."""
    batches = [tuple(part[:3] for part in batches[0])]
    scores = mha.score(model, batches, loss, "leave_one_out", rounds=20)
    gone = []
    for place in order_of(scores):
        costs = {}
        for other in PLACES:
            if other not in gone:
                with mha.masked(model, without([*gone, other])):
                    costs[other] = mean_loss(model, batches, loss)
        assert costs[place] <= min(costs.values()) + 1e-12
        gone.append(place)
    assert sorted(float(x) for row in scores.scores.values() for x in row) == list(range(20))


def test_one_round_is_the_plain_ranking(model, batches, loss):
    ranked = order_of(mha.score(model, batches, loss, "taylor_signed", rounds=1))
    assert ranked == order_of(mha.score(model, batches, loss, "taylor_signed"))


def test_heads_of_one_round_leave_in_the_order_of_their_scores(model, batches, loss):
    plain = order_of(mha.score(model, batches, loss, "taylor"))
    several = order_of(mha.score(model, batches, loss, "taylor", rounds=3))
    assert several[:6] == plain[:6]  # 20 heads leave as 6, 7 and 7
    with mha.masked(model, without(plain[:6])):
        left = [place for place in order_of(mha.score(model, batches, loss, "taylor")) if place not in plain[:6]]
    assert several[6:13] == left[:7]


def test_without_scores_that_compare_layers_every_layer_gives_its_share_in_each_round(model):
    """Weights of one layer are a tenth of the others', and it is not emptied first, as it would be across layers."""
    with torch.no_grad():
        for weight in mha.find_attention(model)["grouped"].module.parameters():
            weight.mul_(0.1)
    plain = mha.score(model, None, None, "magnitude")
    for rounds in (1, 5):
        gone = order_of(mha.score(model, None, None, "magnitude", rounds=rounds))
        for number in range(1, 21):
            lost = {name: [head for layer, head in gone[:number] if layer == name] for name in LAYERS}
            shares = [len(lost[name]) / heads for name, (heads, _) in LAYERS.items()]
            assert max(shares) - min(shares) <= 1 / 3 + 1e-12, "no more than a head of the smallest layer"
            for name, heads in lost.items():
                assert heads == plain[name].argsort().tolist()[: len(heads)], "within a layer, the smallest first"


@pytest.mark.parametrize("criterion", mha.criteria())
def test_every_criterion_can_score_in_rounds(model, batches, loss, criterion):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = mha.score(model, batches, loss, criterion, rounds=4, **QUICK.get(criterion, {}))
    assert sorted(float(x) for row in scores.scores.values() for x in row) == list(range(20))
    assert scores.groups == {"plain": 7, "grouped": 5, "cross": 3}
    assert scores.examples is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if describe(criterion).needs != "nothing":
        assert scores.spent.forward >= 4 * 3
    mha.prune(model, mha.choose(scores, model=model, heads=9))


@pytest.mark.parametrize("rounds", [0, 21, 2.0, True])
def test_a_number_of_rounds_that_cannot_be(model, rounds):
    with pytest.raises(mha.MhaError, match=rf"rounds is a number from 1 to 20, that of the heads; got {rounds}"):
        mha.score(model, None, None, "magnitude", rounds=rounds)


@pytest.mark.parametrize("criterion", [name for name in mha.criteria() if describe(name).needs == "outputs"])
def test_when_only_dead_heads_are_left_that_is_no_error(criterion):
    """Head 1 hurts and goes first; then the loss does not depend on the attention."""
    model = additive([0.0, -0.5, 0.0])
    scores = mha.score(model, BATCHES, attention_error, criterion, rounds=3)
    assert order_of(scores)[0] == ("", 1)


def test_progress_is_shown_on_stderr_when_asked_for(model, batches, loss, capfd):
    for progress in (None, False):  # stderr is no terminal here
        mha.score(model, batches, loss, "taylor", progress=progress)
        assert capfd.readouterr() == ("", "")
    mha.score(model, batches, loss, "gate", epochs=2, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert re.search(r"gate:", err)
    assert re.search(r"/6 ", err)  # two epochs of three batches


def test_a_bar_that_nobody_asked_for_waits(model, batches, loss, capfd, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    mha.score(model, batches, loss, "taylor")
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("mha.runtime.progress.SILENT_SECONDS", 0.0)
    mha.score(model, batches, loss, "taylor")
    assert "taylor" in capfd.readouterr().err


def test_batches_that_cannot_be_read_again_are_found_out(model, batches, loss):
    class Once:
        """No iterator itself, but there is only one."""

        def __init__(self):
            self.left = iter(batches)

        def __iter__(self):
            return self.left

    assert mha.score(model, Once(), loss, "taylor") == mha.score(model, batches, loss, "taylor")
    with pytest.raises(mha.MhaError, match="batches gave 3 batches when read first, and 0 when read again"):
        mha.score(model, Once(), loss, "gate")


@pytest.mark.parametrize("batches", [{"input_ids": torch.ones(2, 3)}, "text", 7])
def test_batches_that_are_none(model, batches, loss):
    with pytest.raises(mha.MhaError, match=r"expected batches to be a list or a DataLoader, got .*: \[batch\]"):
        mha.score(model, batches, loss, "taylor")


def test_a_data_loader_will_do(model, batches, loss):
    data = torch.utils.data.TensorDataset(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    loader = torch.utils.data.DataLoader(data, batch_size=7)
    for criterion in ("taylor", "gate"):
        found, expected = (mha.score(model, given, loss, criterion) for given in (loader, batches))
        for name, row in expected.scores.items():
            torch.testing.assert_close(found.scores[name], row)


@pytest.mark.parametrize(
    ("batch", "contexts", "expected"),
    [
        (torch.ones(7, 3), {7}, 7),
        ((torch.ones(3, 7), torch.ones(7)), {7}, 7),  # the sequence first, and labels
        ({"ids": torch.ones(7, 3), "mask": torch.ones(7, 3)}, {7}, 7),
        (["a", "b"], {2}, 2),
        (torch.ones(7, 3), {28}, 7),  # four windows each
        ((torch.ones(7, 3), torch.ones(7)), {28, 7}, 7),  # windows in one layer only
        ((torch.ones(7, 3), torch.ones(5)), {7, 5}, None),
        (object(), {28, 7}, None),
        (torch.tensor(3.0), {7}, 7),
    ],
)
def test_examples_are_counted_by_what_the_batch_and_the_layers_agree_on(batch, contexts, expected):
    assert count_examples(batch, contexts) == expected


def test_the_first_half_of_a_batch():
    x, y = torch.arange(10).reshape(5, 2), torch.arange(5)
    half = first_half({"x": x, "rest": [y, "name", None, 3]}, 5)
    assert torch.equal(half["x"], x[:2])
    assert torch.equal(half["rest"][0], y[:2])
    assert half["rest"][1:] == ["name", None, 3]
    assert first_half((x, ["a", "b", "c", "d", "e"]), 5)[1] == ["a", "b"]
    pair = NamedPair(x, y)
    assert type(first_half(pair, 5)) is NamedPair
    assert torch.equal(first_half(pair, 5).second, y[:2])
    user = UserDict(x=x)
    assert type(first_half(user, 5)) is UserDict
    assert torch.equal(first_half(user, 5)["x"], x[:2])
    assert len(user["x"]) == 5
    assert first_half(OrderedDict(x=x), 5) is None
    assert first_half((x, torch.ones(3)), 5) is None
    assert first_half((x, object()), 5) is None
    assert first_half((x[:1], y[:1]), 1) is None
    assert first_half("text", 5) is None


class Two(nn.Module):
    """Two encoders of different numbers of rows."""

    def __init__(self):
        super().__init__()
        self.images = mha.MultiHeadAttention.square(6, 3, head_dim=5)
        self.text = mha.MultiHeadAttention.square(6, 3, head_dim=5)

    def forward(self, images, text):
        seen = self.images(images, images, images).mean((0, 1))
        return self.text(text, text, text) + seen


def test_a_number_of_examples_that_cannot_be_told_is_asked_for():
    torch.manual_seed(0)
    batch = torch.randn(5, 7, 6), torch.randn(2, 11, 6)

    def loss(model, batch):
        return model(*batch).square().mean()

    with pytest.raises(
        mha.MhaError, match=r"batch 0: .*'images': \[5\], 'text': \[2\].*say it: .*examples=lambda batch"
    ):
        mha.score(Two(), [batch], loss, "taylor", unit="batch")
    scores = mha.score(Two(), [batch], loss, "taylor", unit="batch", examples=lambda batch: len(batch[1]))
    assert scores.examples == 2
    with pytest.raises(mha.MhaError, match=r"examples\(batch\) must give a number above 0, got 0"):
        mha.score(Two(), [batch], loss, "taylor", examples=lambda _: 0)
