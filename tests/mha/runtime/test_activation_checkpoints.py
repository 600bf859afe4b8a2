"""Models that checkpoint their activations, whichever way, against the same weights without checkpoints."""

import pytest
import torch
from torch import nn
from torch.utils import checkpoint

import mha
from mha.importance.registry import describe

GRADIENTS = {"gate": {"epochs": 2}, "hard_concrete": {"epochs": 2}, "subset": {"epochs": 2}}
CRITERIA = [
    *((name, GRADIENTS.get(name, {})) for name in mha.criteria() if describe(name).needs == "gradients"),
    ("taylor", {"unit": "token"}),
    ("leave_one_out", {"racing": True, "budget": 1.0}),
]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = mha.MultiHeadAttention.square(11, 3, bias=True, head_dim=2)
        self.mlp = nn.Sequential(nn.Linear(11, 13), nn.GELU(), nn.Linear(13, 11))

    def forward(self, x):
        x = x + self.attention(x, x, x)
        return x + self.mlp(x)


class Stack(nn.Module):
    """A model, (b, n, 11) -> (b, 2), whose first block runs twice; the input of that block needs no gradient."""

    def __init__(self, reentrant):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.classify = nn.Linear(11, 2)
        self.reentrant = reentrant

    def forward(self, x):
        for block in (self.blocks[0], *self.blocks):
            x = block(x) if self.reentrant is None else checkpoint.checkpoint(block, x, use_reentrant=self.reentrant)
        return self.classify(x.mean(dim=1))


def stack(reentrant, frozen):
    with torch.random.fork_rng():
        torch.manual_seed(8)
        return Stack(reentrant).double().requires_grad_(not frozen)


@pytest.fixture
def batches():
    x = torch.randn(10, 7, 11, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return list(zip(x.split(4), (torch.arange(10) % 2).split(4), strict=True))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def forward(model, batch):
    return model(batch[0])


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
@pytest.mark.parametrize(("criterion", "options"), CRITERIA, ids=lambda value: str(value or ""))
def test_scores_do_not_depend_on_checkpoints(batches, criterion, options, reentrant, frozen):
    scores, expected = (mha.score(stack(way, frozen), batches, loss, criterion, **options) for way in (reentrant, None))
    for name, row in expected.scores.items():
        torch.testing.assert_close(scores.scores[name], row, rtol=1e-10, atol=1e-12)
    assert any(row.any() for row in expected.scores.values())


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
def test_repair_does_not_depend_on_checkpoints(batches, reentrant, frozen):
    plan = mha.HeadPlan({"blocks.0.attention": (2,), "blocks.1.attention": ()})
    found = []
    for way in (reentrant, None):
        model = stack(way, frozen)
        found.append(mha.compensate(mha.prune(model, plan), model, batches, forward).state_dict())
    for name, expected in found[1].items():
        torch.testing.assert_close(found[0][name], expected, rtol=1e-8, atol=1e-10, msg=name)


def test_distillation_trains_what_a_reentrant_checkpoint_would_leave_out(batches):
    plan = mha.HeadPlan({"blocks.0.attention": (2,), "blocks.1.attention": (0,)})
    trained = []
    for way in (True, None):
        model = stack(way, frozen=False)
        trained.append(mha.distill(mha.prune(model, plan), model, batches, forward, steps=3).state_dict())
    assert not torch.equal(trained[1]["blocks.0.mlp.0.weight"], stack(None, False).blocks[0].mlp[0].weight)
    for name, expected in trained[1].items():
        torch.testing.assert_close(trained[0][name], expected, rtol=1e-8, atol=1e-10, msg=name)


def test_checkpoints_are_reentrant_again_afterwards(batches):
    before = checkpoint.CheckpointFunction
    mha.score(stack(True, frozen=False), batches, loss, "taylor")
    assert checkpoint.CheckpointFunction is before
