"""What every criterion promises, whatever it measures: parametrized over the registry, so that a new file is tested."""

import pkgutil
import weakref

import pytest
import torch
from torch import nn

import mha
from mha.importance import criteria
from mha.importance.registry import describe
from tests.mha.support.criteria import QUICK
from tests.mha.support.transformers_models import GROUPED, PRUNABLE, build
from tests.thorough import few

pytest.importorskip("transformers", reason="transformers is not installed")

WITH_DATA = [name for name in mha.criteria() if describe(name).needs != "nothing"]
WITH_LOSS = [name for name in mha.criteria() if describe(name).needs in ("outputs", "gradients")]


def score(model, batches, loss, criterion, **options):
    return mha.score(model, batches, loss, criterion, **{**QUICK.get(criterion, {}), **options})


def test_every_file_of_the_package_is_a_criterion_of_that_name():
    assert mha.criteria() == tuple(sorted(module.name for module in pkgutil.iter_modules(criteria.__path__)))


class World:
    """Everything that scoring must leave as it was."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        self.gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        self.flags = [p.requires_grad for p in model.parameters()]
        self.modules = [(type(module), module.training, sorted(vars(module))) for module in model.modules()]
        self.random = torch.random.get_rng_state()

    def assert_same(self) -> None:
        now = World(self.model)
        assert all(torch.equal(value, now.weights[name]) for name, value in self.weights.items())
        for before, after in zip(self.gradients, now.gradients, strict=True):
            assert (before is None) == (after is None)
            assert before is None or torch.equal(before, after)
        assert (now.flags, now.modules) == (self.flags, self.modules)
        assert torch.equal(now.random, self.random)
        for module in self.model.modules():
            assert not module._forward_pre_hooks
            assert not module._forward_hooks
            assert not module._backward_hooks


@pytest.fixture
def unsettled(model):
    """The model in both modes, with a gradient, and with weights that need none."""
    model.train()
    model.plain.eval()
    model.plain.W_q.weight.grad = torch.full_like(model.plain.W_q.weight, 7.0)
    model.cross.W_v.weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("criterion", mha.criteria())
def test_every_criterion_leaves_the_model_and_the_world_as_they_were(unsettled, batches, loss, criterion):
    before = World(unsettled)
    with torch.no_grad():
        scores = score(unsettled, batches, loss, criterion)
    before.assert_same()
    assert {name: len(row) for name, row in scores.scores.items()} == {"plain": 7, "grouped": 10, "cross": 3}
    assert scores.groups == {"plain": 7, "grouped": 5, "cross": 3}
    assert all(row.isfinite().all() for row in scores.scores.values())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("criterion", WITH_DATA)
def test_an_exception_in_the_middle_leaves_them_so_too(unsettled, batches, loss, criterion, error):
    calls = []

    def fails(model, batch):
        calls.append(1)
        value = loss(model, batch)
        if len(calls) >= 3:
            raise error("in the middle")
        return value

    before = World(unsettled)
    with pytest.raises(error, match="in the middle"):
        score(unsettled, batches, fails, criterion)
    before.assert_same()
    calls.clear()
    with pytest.raises(error, match="in the middle"):
        score(unsettled, batches, fails, criterion, rounds=3)
    before.assert_same()


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_an_exception_within_a_layer_leaves_them_so_too(unsettled, batches, loss, criterion):
    before = World(unsettled)
    with pytest.raises(mha.MhaError, match="expected queries"):
        score(unsettled, [batches[0], (batches[0][0], batches[0][1][..., :5], batches[0][2])], loss, criterion)
    before.assert_same()


@pytest.mark.parametrize("criterion", mha.criteria())
def test_every_criterion_is_deterministic(model, batches, loss, criterion):
    first = score(model, batches, loss, criterion, seed=3)
    torch.rand(1)
    assert first == score(model, batches, loss, criterion, seed=3)


@pytest.mark.parametrize("criterion", mha.criteria())
def test_every_criterion_scores_a_pruned_model_by_original_numbers(model, batches, loss, criterion):
    pruned = mha.prune(model, mha.HeadPlan({"plain": (1, 4, 6), "cross": ()}))
    scores = score(pruned, batches, loss, criterion)
    assert scores.heads["plain"] == (1, 4, 6)
    assert len(scores.scores["cross"]) == 0
    assert scores.to_frame()["head"].tolist() == [1, 4, 6, *range(10)]
    none = mha.prune(model, mha.HeadPlan({"plain": (), "grouped": (), "cross": ()}))
    if describe(criterion).needs != "gradients":
        assert score(none, batches, loss, criterion).num_heads == 0


@pytest.mark.parametrize("criterion", mha.criteria())
def test_every_criterion_says_what_it_spent(model, batches, loss, criterion):
    runs = []

    def counting(model, batch):
        runs.append(1)
        return loss(model, batch)

    whole = {"reuse": False} if criterion == "leave_one_out" else {}  # or a pass counts as the share that it computes
    spent = score(model, batches, counting, criterion, **whole).spent
    assert spent.seconds > 0
    assert spent.forward == len(runs)
    assert (spent.forward == 0) == (describe(criterion).needs == "nothing")
    assert (spent.backward == 0) == (describe(criterion).needs != "gradients")
    assert spent.backward <= spent.forward


class Streamed:
    """Batches made when they are asked for; remembers how many were alive at once."""

    def __init__(self, batches):
        self.batches, self.alive, self.most = batches, weakref.WeakSet(), 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            made = tuple(part.clone() for part in batch)
            self.alive.add(made[0])
            self.most = max(self.most, len(self.alive))
            yield made
            del made


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_every_criterion_streams_its_batches(model, batches, loss, criterion):
    """The one at work, and the next one."""
    streamed = Streamed([tuple(part[:2] for part in batches[i % 3]) for i in range(7)])
    scores = score(model, streamed, loss, criterion)
    assert streamed.most <= 2
    assert scores.num_heads


def encoder():
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(21, nhead=7, dim_feedforward=13, batch_first=True)
    x = torch.randn(7, 11, 21, dtype=torch.float64)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()
    return model, [x[:4], x[4:]], lambda model, x: (model(x).mean(1) - x.mean(1)).square().mean()


def llama():
    ids = torch.randint(3, 97, (8, 17), generator=torch.Generator().manual_seed(2))
    model = build("llama", GROUPED, "AutoModelForCausalLM")
    return model, [{"input_ids": ids[:5]}, {"input_ids": ids[5:]}], lambda m, b: m(**b, labels=b["input_ids"]).loss


def t5():
    ids = torch.randint(3, 97, (8, 17), generator=torch.Generator().manual_seed(2))
    model = build("t5", {**PRUNABLE["t5"], "num_layers": 1}, "AutoModelForSeq2SeqLM")
    batches = [{"input_ids": part, "decoder_input_ids": part, "labels": part.flip(1)} for part in ids.split([5, 3])]
    return model, batches, lambda m, b: m(**b).loss


# one that reads weights, attention weights, gradients, outputs with heads left out, gates, and contexts
EACH_WAY = ("magnitude", "confidence", "taylor", "leave_one_out", "gate", "least_squares")
MODELS = {"nn.TransformerEncoder": encoder, "grouped llama": llama, "T5": t5}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("criterion", few(mha.criteria(), *EACH_WAY))
def test_every_criterion_scores_every_kind_of_model(kind, criterion):
    model, batches, loss = MODELS[kind]()
    layers = mha.find_attention(model)
    before = World(model)
    scores = score(model, batches, loss, criterion)
    before.assert_same()
    assert list(scores.scores) == list(layers)
    for name, layer in layers.items():
        assert len(scores.scores[name]) == layer.num_heads
        assert scores.scores[name].std() > 0
        assert scores.groups[name] == layer.num_kv_heads
    mha.prune(model, mha.choose(scores, model=model, keep=0.5))


def broken(kind):
    """A loss that is wrong in one way."""

    def loss(model, batch):
        output = model(*batch[:2])
        return {
            "nan": lambda: output.sum() * float("nan"),
            "vector": lambda: output.sum(dim=1),
            "number": lambda: output.sum().item(),
        }[kind]()

    return loss


@pytest.mark.parametrize("criterion", WITH_DATA)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", r"batch 0: the loss is nan; look for NaN"),
        ("vector", r"batch 0: expected loss\(model, batch\) to be a scalar tensor.*got shape \(7,\)"),
        ("number", r"to be a scalar tensor, the mean over the batch's examples, got -?\d"),
    ],
)
def test_losses_that_are_wrong(model, batches, criterion, kind, message):
    with pytest.raises(mha.MhaError, match=message):
        score(model, batches, broken(kind), criterion)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_calibration_data_that_is_wrong(model, batches, loss, criterion):
    with pytest.raises(mha.MhaError, match=r"the calibration set is empty"):
        mha.score(model, [], loss, criterion)
    with pytest.raises(mha.MhaError, match=r"needs calibration batches, got None"):
        mha.score(model, None, loss, criterion)
    with pytest.raises(mha.MhaError, match=r"batches is an iterator, which can be read only once"):
        mha.score(model, iter(batches), loss, criterion)
    with pytest.raises(mha.MhaError, match=r"expected loss\(model, batch\) -> scalar, got None"):
        mha.score(model, batches, None, criterion)
    nothing = [tuple(part[:0] for part in batches[0])]
    with pytest.raises(mha.MhaError, match=r"batch 0: (computing the loss ran none|the loss is nan)"):
        mha.score(model, nothing, loss, criterion)


@pytest.mark.parametrize("criterion", WITH_LOSS)
def test_a_loss_that_does_not_depend_on_the_model(model, batches, criterion):
    with pytest.raises(mha.MhaError, match=r"computing the loss ran none of the model's attention layers"):
        mha.score(model, batches, lambda *_: torch.tensor(1.0, requires_grad=True), criterion)

    def ignores_output(model, batch):
        model(*batch[:2])
        return torch.tensor(1.0, requires_grad=True)

    with pytest.raises(mha.MhaError, match=r"no gradient with respect to any attention head|does not depend on"):
        mha.score(model, batches, ignores_output, criterion)


def test_a_loss_need_not_be_differentiable_to_leave_heads_out(model, batches):
    middle = torch.cat([model(*batch[:2])[:, 0] for batch in batches]).median().item()

    def mistakes(model, batch):
        return ((model(*batch[:2])[:, 0] > middle) != (batch[2] == 1)).double().mean()

    scores = mha.score(model, batches, mistakes, "leave_one_out")
    total = sum(len(batch[2]) for batch in batches)
    counts = torch.cat(list(scores.scores.values())) * total
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)
    with pytest.raises(
        mha.MhaError, match=r"no gradient with respect to any attention head; it must be differentiable"
    ):
        mha.score(model, batches, mistakes, "taylor")
