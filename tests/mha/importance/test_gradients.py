"""Criteria from gradients, per token, example and batch, against derivatives taken one by one."""

import copy

import pytest
import torch
from torch import nn

import mha
from tests.mha.support.losses import examples, output_error
from tests.mha.support.models import LAYERS, Windows

GRADIENTS = ("taylor", "taylor_signed", "taylor_second_order", "fisher")


def slopes(model, batches, loss):
    """Layer name -> (batches, h): ∂L/∂ξ_h = ⟨W_o[:,h], ∂L/∂W_o[:,h]⟩, the output being linear in those columns."""
    found = {name: [] for name in LAYERS}
    model = copy.deepcopy(model)
    for batch in batches:
        weights = {name: model.get_submodule(name).W_o.weight for name in LAYERS}
        gradients = torch.autograd.grad(loss(model, batch), list(weights.values()))
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            found[name].append((weight * gradient).sum(dim=0).unflatten(0, LAYERS[name]).sum(dim=1).detach())
    return {name: torch.stack(rows) for name, rows in found.items()}


def token_slopes(model, batches, loss):
    """Layer name -> (example, position, h): ⟨c_h, ∂L(x)/∂c_h⟩ at each position, one example at a time."""
    found = {name: [] for name in LAYERS}
    for one in examples(batches):
        seen = {}

        def hook(_, args, name, seen=seen):
            seen[name] = args[0]

        handles = [
            model.get_submodule(name).W_o.register_forward_pre_hook(lambda m, a, name=name: hook(m, a, name))
            for name in LAYERS
        ]
        gradients = torch.autograd.grad(loss(model, one), [seen[name] for name in LAYERS])
        for handle in handles:
            handle.remove()
        for name, gradient in zip(LAYERS, gradients, strict=True):
            found[name].append((seen[name] * gradient).unflatten(-1, LAYERS[name]).sum(-1)[0].detach())
    return {name: torch.stack(rows) for name, rows in found.items()}


def weighted(batches, rows):
    """The mean over batches, each weighted by its examples."""
    counts = torch.tensor([len(batch[2]) for batch in batches], dtype=torch.float64)
    return (rows * counts.view(-1, *[1] * (rows.dim() - 1))).sum(dim=0) / counts.sum()


def expected(criterion, unit, model, batches, loss):
    """Layer name -> (h,), by definition."""
    if unit == "example":
        own = slopes(model, examples(batches), loss)
        return {
            name: {
                "taylor": g.abs().mean(0),
                "taylor_signed": -g.mean(0),
                "taylor_second_order": -g.mean(0) + g.square().mean(0) / 2,
                "fisher": g.square().mean(0),
            }[criterion]
            for name, g in own.items()
        }
    if unit == "batch":
        counts = torch.tensor([[len(batch[2])] for batch in batches])
        own = slopes(model, batches, loss)
        return {
            name: {
                "taylor": weighted(batches, g.abs()),
                "taylor_signed": -weighted(batches, g),
                "taylor_second_order": weighted(batches, -g + counts * g.square() / 2),
                "fisher": weighted(batches, g.square()),
            }[criterion]
            for name, g in own.items()
        }
    own = token_slopes(model, batches, loss)
    return {
        name: {
            "taylor": g.abs().sum(1).mean(0),
            "taylor_signed": -g.sum(1).mean(0),
            "taylor_second_order": (-g + g.square() / 2).sum(1).mean(0),
            "fisher": g.square().sum(1).mean(0),
        }[criterion]
        for name, g in own.items()
    }


@pytest.mark.parametrize("unit", ["token", "example", "batch"])
@pytest.mark.parametrize("criterion", GRADIENTS)
def test_scores_by_definition(model, batches, loss, criterion, unit):
    """Batches of 7, 7 and 5 examples; the loss is their mean."""
    scores = mha.score(model, batches, loss, criterion, unit=unit)
    assert scores.examples == 19
    for name, row in expected(criterion, unit, model, batches, loss).items():
        torch.testing.assert_close(scores.scores[name], row, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("unit", ["token", "example"])
@pytest.mark.parametrize("criterion", GRADIENTS)
def test_scores_do_not_depend_on_how_examples_are_batched(model, batches, loss, criterion, unit):
    whole = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))]
    one, several = (mha.score(model, data, loss, criterion, unit=unit) for data in (whole, batches))
    for name in LAYERS:
        torch.testing.assert_close(one.scores[name], several.scores[name], rtol=1e-10, atol=1e-14)


def test_fisher_comes_with_the_blocks_of_its_layers(model, batches, loss):
    scores = mha.score(model, batches, loss, "fisher")
    for name, own in slopes(model, examples(batches), loss).items():
        block = scores.interactions[name]
        torch.testing.assert_close(block, own.T @ own / 19, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(block.diagonal(), scores.scores[name])


def test_signed_taylor_predicts_what_leaving_a_head_out_does_when_heads_are_small(model, batches, loss):
    """Heads scaled down to a hundredth: the first order tells the change, the second order tells it better."""
    for name in LAYERS:
        model.get_submodule(name).W_o.weight.data *= 0.01
    truth, first = (
        mha.score(model, batches, loss, criterion).scores for criterion in ("leave_one_out", "taylor_signed")
    )
    for name in LAYERS:
        torch.testing.assert_close(first[name], truth[name], rtol=0.1, atol=1e-4)
        assert (first[name] < 0).any()
        assert (first[name] > 0).any()


def test_second_order_taylor_is_exact_up_to_third_order_where_fisher_is_the_hessian():
    """A logistic model at its truth: labels are drawn by its own probabilities, many of them."""
    layer = mha.MultiHeadAttention.square(1, 3, head_dim=1).double()
    for linear in (layer.W_q, layer.W_k):
        nn.init.zeros_(linear.weight)
    layer.W_v.weight.data[:] = 1.0
    layer.W_o.weight.data = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 1, 1, generator=generator, dtype=torch.float64)
    labels = (torch.rand(len(x), generator=generator) < torch.sigmoid(0.2 * x.flatten())).double()

    def loss(model, batch):
        return nn.functional.binary_cross_entropy_with_logits(model(*[batch[0]] * 3).flatten(), batch[1])

    batches = list(zip(x.split(100), labels.split(100), strict=True))
    truth = mha.score(layer, batches, loss, "leave_one_out").scores[""]
    for unit, tolerance in (("example", 3e-4), ("token", 3e-4), ("batch", 3e-3)):
        second = mha.score(layer, batches, loss, "taylor_second_order", unit=unit).scores[""]
        torch.testing.assert_close(second, truth, rtol=0, atol=tolerance)
    assert truth.abs().max() > 5e-3


def contrastive(model, batch):
    """Each example is told from the others of its batch."""
    x = model(*batch[:2])
    similar = nn.functional.normalize(x, dim=1) @ nn.functional.normalize(batch[0].mean(1)[:, :2], dim=1).T
    return nn.functional.cross_entropy(similar * 5, torch.arange(len(x)))


@pytest.mark.parametrize("criterion", [name for name in GRADIENTS if name != "taylor_signed"])
def test_a_loss_that_does_not_decompose_is_refused_per_example(model, batches, criterion):
    with pytest.raises(mha.MhaError, match=r'depends on which others are in its batch .* use unit="batch"'):
        mha.score(model, batches, contrastive, criterion)
    for unit in ("batch", "token"):
        assert mha.score(model, batches, contrastive, criterion, unit=unit).examples == 19


def test_a_loss_that_fails_on_half_a_batch_is_refused_per_example(model, batches):
    def loss(model, batch):
        return nn.functional.cross_entropy(model(*batch[:2]), torch.zeros(7, dtype=torch.long))

    with pytest.raises(mha.MhaError, match=r'fails on the first half of batch 0 \(.*batch_size.*use unit="batch"'):
        mha.score(model, batches[:2], loss, "taylor")
    assert mha.score(model, batches[:2], loss, "taylor", unit="batch").examples == 14


def test_a_mean_over_tokens_is_no_reason_to_refuse(model, batches):
    """Examples of different lengths weigh differently, but none changes another's gradient."""
    lengths = torch.arange(7) % 3 + 1

    def loss(model, batch):
        losses = nn.functional.cross_entropy(model(*batch[:2]), batch[2], reduction="none")
        weights = lengths[: len(losses)]
        return (losses * weights).sum() / weights.sum()

    assert mha.score(model, batches, loss, "taylor").examples == 19


@pytest.mark.parametrize("criterion", GRADIENTS)
def test_a_context_without_the_examples_first_is_refused_per_example(criterion):
    torch.manual_seed(0)
    model, x = Windows().double(), torch.randn(5, 12, 6, dtype=torch.float64)
    message = r"layer 'attention': .* \[20\], but batch 0 has 5 examples .*use unit=\"batch\" or unit=\"token\""
    with pytest.raises(mha.MhaError, match=message):
        mha.score(model, [x], output_error, criterion, unit="example")
    parts = [x[:2], x[2:]]
    whole, split = (mha.score(model, data, output_error, criterion, unit="token") for data in ([x], parts))
    torch.testing.assert_close(whole.scores["attention"], split.scores["attention"])
    assert whole.examples == split.examples == 5
    assert mha.score(model, parts, output_error, criterion, unit="batch").examples == 5


def test_sequence_first_attention_of_torch_has_its_examples_first_inside():
    torch.manual_seed(0)
    second = nn.MultiheadAttention(21, 7).double().eval()
    first = nn.MultiheadAttention(21, 7, batch_first=True).double().eval()
    first.load_state_dict(second.state_dict())
    x, labels = torch.randn(5, 11, 21, dtype=torch.float64), torch.arange(5)

    def loss(model, batch):
        x = batch[0] if model.batch_first else batch[0].transpose(0, 1)
        return (
            (model(x, x, x)[0].transpose(0, 1)[:, 0] if not model.batch_first else model(x, x, x)[0][:, 0])
            .sum(dim=1)
            .square()
            .mul(batch[1])
            .mean()
        )

    scores = [mha.score(model, [(x, labels)], loss, "taylor").scores[""] for model in (first, second)]
    torch.testing.assert_close(*scores)


def test_an_unknown_unit_says_which_there_are(model, batches, loss):
    with pytest.raises(mha.MhaError, match="unit is one of token, example, batch; got 'word'"):
        mha.score(model, batches, loss, "fisher", unit="word")


def test_a_head_that_the_loss_does_not_see_scores_exactly_zero(model, batches):
    """Its gradient is None."""

    def early(model, batch):
        x = model.embed(batch[0])
        model.cross(x, batch[1], batch[1])
        return (x + model.plain(x, x, x)).square().mean()

    for criterion in GRADIENTS:
        scores = mha.score(model, batches, early, criterion).scores
        assert (scores["cross"] == 0).all()
        assert (scores["grouped"] == 0).all()
        assert (scores["plain"] != 0).all()


def test_a_gradient_that_is_nan_where_the_loss_is_not(model, batches):
    def loss(model, batch):
        return (model(*batch[:2]) * 0).sum().sqrt() + 1

    for criterion in (*GRADIENTS, "gate", "hard_concrete", "subset"):
        with pytest.raises(
            mha.MhaError, match=r"batch 0: the loss is finite but its gradient .* is not; look for a sq"
        ):
            mha.score(model, batches, loss, criterion)


def test_frozen_weights_need_no_gradients(model, batches, loss):
    before = mha.score(model, batches, loss, "taylor")
    model.requires_grad_(False)
    assert mha.score(model, batches, loss, "taylor") == before
    with torch.inference_mode():
        assert mha.score(model, batches, loss, "taylor") == before


def test_a_layer_that_runs_twice_has_one_gate(batches):
    """Weights shared between layers, as in ALBERT: leaving a head out leaves it out of both runs."""
    torch.manual_seed(0)
    layer = mha.MultiHeadAttention.square(5, 3, head_dim=2).double()
    x = batches[0][0]

    def loss(model, x):
        once = model(x, x, x)
        return model(once, once, once).square().mean()

    found = mha.score(layer, [x], loss, "taylor_signed").scores[""]
    gate = torch.ones(3, dtype=torch.float64, requires_grad=True)

    def by_hand(gate):
        weight = layer.W_o.weight * gate.repeat_interleave(2)
        changed = {"W_o.weight": weight}
        once = torch.func.functional_call(layer, changed, (x, x, x))
        return torch.func.functional_call(layer, changed, (once, once, once)).square().mean()

    torch.testing.assert_close(found, -torch.autograd.grad(by_hand(gate), gate)[0])
