"""Layers that hold the same weights: pruned alike and still one, or refused by name.

The reference is the model with a copy of each weight for each layer, which computes the same.
"""

import copy

import pytest
import torch
from torch import Tensor, nn

import mha
from mha import HeadPlan, MultiHeadAttention
from tests.mha.support.cases import make

LINEARS = ("W_q", "W_k", "W_v", "W_o")


class Pair(nn.Module):
    """Two layers of grouped attention: 5 groups of 2 heads of width 7."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            MultiHeadAttention.square(13, 10, bias=True, head_dim=7, num_kv_heads=5) for _ in range(2)
        )
        self.head = nn.Linear(13, 70)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x, x, x)
        return self.head(x + self.second(x, x, x))


def share_linears(model: Pair, *names: str) -> Pair:
    for name in names:
        setattr(model.second, name, getattr(model.first, name))
    return model


def share_tensors(model: Pair, *names: str) -> Pair:
    for name in names:
        linear, other = getattr(model.second, name), getattr(model.first, name)
        linear.weight, linear.bias = other.weight, other.bias
    return model


SHARING = {
    "one linear": lambda model: share_linears(model, "W_k"),
    "keys and values": lambda model: share_linears(model, "W_k", "W_v"),
    "outputs": lambda model: share_linears(model, "W_o"),
    "all linears": lambda model: share_linears(model, *LINEARS),
    "tensors": lambda model: share_tensors(model, "W_q", "W_v"),
    "all tensors": lambda model: share_tensors(model, *LINEARS),
    "keys are values": lambda model: setattr(model.first, "W_v", model.first.W_k) or model,
}
ALIKE = HeadPlan({"first": (1, 5), "second": (1, 5)})


@pytest.fixture(params=SHARING)
def shared(request) -> Pair:
    torch.manual_seed(2)
    return SHARING[request.param](Pair()).double().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 11, 13, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def apart(model: Pair) -> Pair:
    """A copy of the model that computes the same, and shares nothing."""
    fresh = Pair().double().eval()
    fresh.load_state_dict(model.state_dict())
    return fresh


def tied(model: nn.Module) -> set[frozenset[str]]:
    """The sets of names that one parameter has."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {frozenset(several) for several in names.values() if len(several) > 1}


def of_output_biases(ties: set[frozenset[str]]) -> set[frozenset[str]]:
    """The ties that are left where layers keep no head: those of output biases, by their new names."""
    names = [[name.replace("W_o", "W_o_without_heads") for name in tie if name.endswith("W_o.bias")] for tie in ties]
    return {frozenset(tie) for tie in names if tie}


@pytest.mark.parametrize("plan", [ALIKE, HeadPlan({"first": (), "second": ()}), HeadPlan({"first": range(10)})])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_plan_that_treats_them_alike(shared, x, plan, inplace):
    expected, ties = mha.prune(apart(shared), plan)(x), tied(shared)
    assert mha.check(shared, plan, (x,)) < 1e-12
    before = copy.deepcopy(shared.state_dict())
    pruned = mha.prune(shared, plan, inplace=inplace)
    torch.testing.assert_close(pruned(x), expected, rtol=0, atol=1e-12)
    assert tied(pruned) == (ties if any(plan.keep.values()) else of_output_biases(ties))
    assert (pruned is shared) == inplace
    if not inplace:
        assert all(torch.equal(value, before[name]) for name, value in shared.state_dict().items())


def test_pruning_goes_on_and_is_written_down(shared, x, tmp_path):
    ties, whole = tied(shared), apart(shared)
    once = mha.prune(shared, HeadPlan({"first": (0, 1, 4, 5, 8, 9), "second": (0, 1, 4, 5, 8, 9)}))
    twice = mha.prune(once, ALIKE)
    expected = mha.prune(whole, ALIKE)(x)
    torch.testing.assert_close(twice(x), expected, rtol=0, atol=1e-12)
    assert mha.plan_of(twice) == ALIKE
    mha.save_pruned(twice, tmp_path / "twice")
    loaded = mha.load_pruned(tmp_path / "twice", shared)
    torch.testing.assert_close(loaded(x), expected, rtol=0, atol=1e-12)
    assert tied(loaded) == tied(twice) == ties


def test_heads_are_scored_and_masked_layer_by_layer(shared, x):
    """This holds also where one projection reads the contexts of two layers."""
    whole = apart(shared)
    plan = HeadPlan({"first": (0, 3, 6), "second": (1, 2, 9)})
    with mha.masked(shared, plan), mha.masked(whole, plan):
        torch.testing.assert_close(shared(x), whole(x), rtol=0, atol=1e-12)

    def loss(model, batch):
        return model(batch).square().mean()

    for criterion in ("leave_one_out", "taylor", "least_squares"):
        found, expected = (mha.score(model, [x], loss, criterion).scores for model in (shared, whole))
        assert all(torch.allclose(found[name], expected[name], rtol=1e-9, atol=1e-12) for name in expected), criterion


@pytest.mark.parametrize("part", ["W_q", "W_o"])
@pytest.mark.parametrize("share", [share_linears, share_tensors])
def test_a_plan_that_leaves_them_different_heads_is_refused(share, part):
    model = share(Pair().double().eval(), part)
    before = copy.deepcopy(model.state_dict())
    for keep, message in (
        (
            {"first": (1, 4), "second": (1, 6)},
            r"heads \[1, 4\] .* for one and heads \[1, 6\] .* for the other; name",
        ),
        (
            {"second": (1, 4)},
            r"heads \[0, .*, 9\] .* for the other, which the plan does not name; name both",
        ),
    ):
        with pytest.raises(mha.MhaError, match=rf"layers '\w+' and '\w+' share {part}.weight, .*{message}"):
            mha.prune(model, HeadPlan(keep), inplace=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_the_groups_matter_to_keys_that_are_shared(x):
    model = share_linears(Pair().double().eval(), "W_k", "W_v")
    plan = HeadPlan({"first": (1, 4), "second": (0, 5)})
    assert mha.check(model, plan, (x,)) < 1e-12
    pruned = mha.prune(model, HeadPlan({"first": (0, 2, 4, 6, 8)}))  # every group stays, so nothing shared is cut
    assert pruned.second.W_k is pruned.first.W_k
    torch.testing.assert_close(pruned.second.W_q.weight, model.second.W_q.weight)
    with pytest.raises(
        mha.MhaError, match=r"heads \[1, 4\] \(key/value groups \[0, 2\]\) .* \(key/value groups \[0, 3\]"
    ):
        mha.prune(model, HeadPlan({"first": (1, 4), "second": (1, 6)}))


def test_what_is_used_outside_of_attention_is_refused_with_all_that_hangs_on_it():
    model = share_linears(Pair().double().eval(), "W_o")
    model.head.weight = model.first.W_q.weight
    unsupported = mha.find_attention(model).unsupported
    assert unsupported["first"].startswith("W_q.weight is shared with head.weight, of which it is not known")
    assert unsupported["second"].startswith("W_o.weight is shared with first.W_o.weight, of which it is not known")
    with pytest.raises(mha.UnsupportedModule, match=r"layer 'first': W_q.weight is shared with head.weight"):
        mha.prune(model, ALIKE)


def test_one_layer_under_two_names(x):
    model = nn.Sequential(*[layer := Alone()] * 2, Alone()).double().eval()
    assert list(mha.find_attention(model)) == ["0.attention", "2.attention"]
    plan = HeadPlan({"0.attention": (1, 3), "2.attention": (2,)})
    assert mha.check(model, plan, (x,)) < 1e-12
    pruned = mha.prune(model, plan)
    assert pruned[0] is pruned[1]
    by_hand = mha.prune(layer, HeadPlan({"attention": (1, 3)}))
    torch.testing.assert_close(pruned[:2](x), by_hand(by_hand(x)))


class Alone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = MultiHeadAttention.square(13, 5, head_dim=7)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x)


def test_repair_and_training_of_what_is_shared(shared, x):
    def loss(model, batch):
        return model(batch).square().mean()

    optimizer = torch.optim.SGD(shared.parameters(), lr=0.01, momentum=0.9)
    loss(shared, x).backward()
    optimizer.step()
    pruned = mha.prune(shared, ALIKE)
    sliced = mha.slice_optimizer(optimizer, shared, pruned)
    for model, steps in ((shared, optimizer), (pruned, sliced)):
        with mha.masked(model, ALIKE):
            steps.zero_grad()
            loss(model, x).backward()
            steps.step()
    assert mha.check(shared, ALIKE, (x,)) < 1e-12
    torch.testing.assert_close(mha.prune(shared, ALIKE)(x), pruned(x), rtol=0, atol=1e-12)
    repaired = mha.compensate(pruned, shared, [x], lambda model, batch: model(batch))
    assert tied(repaired) == tied(pruned)
    assert (repaired(x) - shared(x)).square().mean() <= (pruned(x) - shared(x)).square().mean() + 1e-9


@pytest.mark.parametrize("name", ["torch", "llama", "gpt2", "bert"])
def test_every_family_shares(name):
    case = make(name)
    case.replace(case.output, case.part(case.output, 0))
    first, second = case.layers
    case.model.get_submodule(second).load_state_dict(case.model.get_submodule(first).state_dict())
    shared = case.model.get_submodule(second)
    owner, _, attribute = case.output.rpartition(".")
    setattr(shared.get_submodule(owner), attribute, case.part(case.output, 0))
    assert mha.check(case.model, case.plan, (), case.inputs) < 1e-10
    with pytest.raises(mha.MhaError, match=r"share \S*weight, and it can't keep heads"):
        mha.prune(case.model, HeadPlan({first: (3, 4)}))
    scores = mha.score(case.model, None, None, "magnitude")
    plan = mha.choose(scores, model=case.model, keep=0.5)
    assert len({plan.keep[layer] for layer in case.layers}) == 1
    assert mha.check(case.model, plan, (), case.inputs) < 1e-10
