"""Leave-one-out by replays against whole passes, on models that can be replayed and on models that can't; the race."""

import re
from collections import namedtuple

import pytest
import torch
from torch import nn

import mha
from mha.importance.running.racing import Standings
from mha.importance.running.record import NotReplayableError
from mha.importance.running.replay import Replay
from tests.mha.support.transformers_models import GROUPED, PRUNABLE, build, inputs_for
from tests.thorough import few

HEADS, WIDTH, LAYERS = 3, 11, 5


class Block(nn.Module):
    """Attention, then a perceptron; counts how often it really runs."""

    def __init__(self, attention=None, activation=None):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = attention or mha.MultiHeadAttention.square(WIDTH, HEADS, bias=True, head_dim=2)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 13), activation or nn.GELU(), nn.Linear(13, WIDTH))
        self.runs = 0

    def attend(self, x):
        normed = self.norm(x)
        return self.attention(normed, normed, normed)

    def forward(self, x):
        self.runs += 1
        x = x + self.attend(x)
        return x + self.mlp(x)


class Stack(nn.Module):
    """(b, n, 11) -> (b, 2)"""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.classify = nn.Linear(WIDTH, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.classify(x.mean(dim=1))


def drawn(model):
    """In float64, every parameter drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = model.double().eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.4)
    return model


@pytest.fixture
def stack():
    return drawn(Stack(Block() for _ in range(LAYERS)))


@pytest.fixture
def data():
    """Batches of 4, 4 and 2 examples of 7 tokens."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(10, 7, WIDTH, generator=generator, dtype=torch.float64)
    return list(zip(x.split(4), (torch.arange(10) % 2).split(4), strict=True))


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def logged(caplog):
    """() -> what the library has logged so far."""
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("mha.")]


def both(model, batches, loss, **options):
    """Scores by replays, which whole passes must give to the last bit."""
    scores, whole = (
        mha.score(model, batches, loss, "leave_one_out", reuse=reuse, **options) for reuse in (True, False)
    )
    assert scores == whole
    assert scores.examples == whole.examples
    assert any(row.any() for row in scores.scores.values())
    return scores, whole


def test_replays_make_the_passes_after_a_layer_only(stack, data):
    """By hand: block i of 5 runs for the heads of layers 0…i, in the recorded pass, in checks of those layers (on
    batches 0, 1, 2: all layers, layer 1, layer 2), and in one whole pass without a head."""
    mha.score(stack, data, cross_entropy, "leave_one_out")
    assert [block.runs for block in stack.blocks] == [
        3 * HEADS * (i + 1) + 3 + (i + 1) + (i >= 1) + (i >= 2) + 1 for i in range(LAYERS)
    ]


def test_replays_are_counted_as_the_share_of_the_pass(stack, data):
    scores, whole = both(stack, data, cross_entropy)
    assert whole.spent.forward == 3 * (1 + HEADS * LAYERS)
    # 9 modules without submodules in a block, 4 of them before W_o; one more behind all blocks
    shares = [1 - (8 * i + 4) / (8 * LAYERS + 1) for i in range(LAYERS)]
    expected = 3 * (1 + HEADS * sum(shares)) + sum(shares) + shares[1] + shares[2] + 1
    assert scores.spent.forward == pytest.approx(expected, rel=1e-12)


def test_the_attention_of_the_layer_itself_is_not_computed_again(stack, data, monkeypatch):
    calls = []
    real = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional, "scaled_dot_product_attention", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs)
    )
    mha.score(stack, data[:1], cross_entropy, "leave_one_out")
    after = sum(LAYERS - 1 - layer for layer in range(LAYERS))
    assert len(calls) == LAYERS + (HEADS + 1) * after + LAYERS


def test_the_record_holds_four_activations_of_a_block_at_most(stack, data):
    layers = mha.find_attention(stack)
    replay = Replay(stack, [layer.output for layer in layers.values()])
    with torch.no_grad(), replay.watching():
        with replay.recording():
            stack(data[0][0])
        held = sum(tensor.numel() for tensor in replay.record.held())
    assert 0 < held <= 4 * LAYERS * data[0][0].numel()


# Models that can be replayed


class Pair(nn.Module):
    """Calls one block twice, the first time around another."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return self.first(self.second(self.first(x)))


Named = namedtuple("Named", "left right")


class Inside(nn.Module):
    """A block whose output lies in the container that `wrap` makes, to which the caller adds."""

    def __init__(self, wrap):
        super().__init__()
        self.block, self.wrap = Block(), wrap

    def forward(self, x):
        return self.wrap(self.block(x))


class Opened(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        found = self.inside(x)
        found = found[0] if isinstance(found, tuple) and isinstance(found[0], list) else found
        if isinstance(found, list):
            found.append(found[0])
            return sum(found) / 2
        if isinstance(found, dict):
            return found.pop("left")
        return found.left if isinstance(found, Named) else found[0]


class Holder:
    """Nothing is known about what is in it."""

    def __init__(self, x):
        self.left = x

    def __getitem__(self, index):
        return self.left


class Returns(nn.Module):
    """Attention that hands on what its projection returns, with more."""

    def __init__(self, more):
        super().__init__()
        self.inner, self.more = mha.MultiHeadAttention.square(WIDTH, HEADS, head_dim=2), more

    def forward(self, *args):
        output = self.inner(*args)
        return output, *self.more(output)


class First(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, *args):
        output, *more = self.attention(*args)
        return output if more == [None] else output + more[0]


def stack_of(*middle):
    return Stack([Block(), *middle, Block()])


class Doubling(nn.Module):
    """Changes in place what the projection of its attention returned, and returns that."""

    def __init__(self):
        super().__init__()
        self.inner = mha.MultiHeadAttention.square(WIDTH, HEADS, head_dim=2)

    def forward(self, *args):
        return self.inner(*args).mul_(2)


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Bare(nn.Module):
    """Blocks that are not modules: an attention layer's output itself is what a replay returns."""

    def __init__(self):
        super().__init__()
        self.attentions = nn.ModuleList(mha.MultiHeadAttention.square(WIDTH, HEADS, head_dim=2) for _ in range(3))
        self.classify = nn.Linear(WIDTH, 2)

    def forward(self, x):
        for attention in self.attentions:
            x = x + attention(x, x, x)
        return self.classify(x.mean(dim=1))


GELU = nn.GELU()
REPLAYABLE = {
    "bare": Bare,
    "a layer called twice": lambda: stack_of(Pair(Block(), Block())),
    "an activation shared": lambda: stack_of(*(Block(activation=GELU) for _ in range(3))),
    "an activation in place": lambda: stack_of(*(Block(activation=nn.ReLU(inplace=True)) for _ in range(2))),
    "a named tuple": lambda: stack_of(Opened(Inside(lambda x: Named(x, None))), Block()),
    "a list that is added to": lambda: stack_of(Opened(Inside(lambda x: [x])), Block()),
    "a list in a tuple that is added to": lambda: stack_of(Opened(Inside(lambda x: ([x],))), Block()),
    "a dictionary that is emptied": lambda: stack_of(Opened(Inside(lambda x: {"left": x})), Block()),
    "an object": lambda: stack_of(Opened(Inside(Holder)), Block()),
    "with None": lambda: stack_of(Block(First(Returns(lambda _: [None])))),
    "with what depends on the output": lambda: stack_of(Block(First(Returns(lambda x: [x.square()])))),
    "doubled in place": lambda: stack_of(Block(Doubling())),
    "random numbers before and after": lambda: stack_of(Noisy(), Noisy()),
}


@pytest.mark.parametrize("name", REPLAYABLE)
def test_replays_give_what_whole_passes_give(name, data, logged):
    model = drawn(REPLAYABLE[name]())
    scores, whole = both(model, data, cross_entropy)
    assert scores.spent.forward < 0.95 * whole.spent.forward
    assert not logged()


def twice(model, batch):
    x, labels = batch
    return nn.functional.cross_entropy(model(x) - model(x.flip(2)), labels)


def in_parts(model, batch):
    x, labels = batch
    for block in model.blocks:
        x = block(x)
    return nn.functional.cross_entropy(model.classify(x[:, 0]), labels)


def in_tenths(model, batch):
    """A loss without gradients."""
    return cross_entropy(model, batch).detach().mul(10).round()


def noisy_afterwards(model, batch):
    output = model(batch[0])
    return nn.functional.cross_entropy(output + torch.randn_like(output), batch[1])


@pytest.mark.parametrize("loss", [twice, in_parts, in_tenths, noisy_afterwards])
def test_the_loss_calls_the_model_in_its_own_way(stack, data, loss, logged):
    scores, whole = both(stack, data, loss)
    assert scores.spent.forward < 0.95 * whole.spent.forward
    assert not logged()


def test_a_layer_that_the_loss_does_not_run_scores_zero(stack, data):
    def loss(model, batch):
        return nn.functional.cross_entropy(model.classify(model.blocks[1](batch[0])[:, 0]), batch[1])

    scores, _ = both(stack, data, loss)
    assert [bool(row.any()) for row in scores.scores.values()] == [False, True, False, False, False]


@pytest.mark.parametrize("batch_first", [True, False])
def test_torch_encoder(batch_first, logged):
    layer = nn.TransformerEncoderLayer(15, 5, 13, batch_first=batch_first)
    model = drawn(nn.TransformerEncoder(layer, 4, enable_nested_tensor=False))
    x = torch.randn(2, 3, 7, 15, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    scores, whole = both(model, list(x), lambda model, batch: (model(batch) - 1).square().mean())
    assert scores.spent.forward < 0.95 * whole.spent.forward
    assert not logged()


@pytest.mark.parametrize(
    "model_type", few(PRUNABLE, "bert", "vit", "gpt2", "llama", "t5", "modernbert", "deepseek_v3", "qwen3_next")
)
def test_transformers(model_type, logged):
    model = build(model_type, PRUNABLE[model_type])

    def loss(model, inputs):
        return model(**inputs)[0].square().mean()

    scores, whole = both(model, [inputs_for(model_type)] * 2, loss)
    assert scores.spent.forward < 0.9 * whole.spent.forward
    assert not logged()


def test_a_cache_that_a_replay_would_leave_empty(logged):
    model = build("llama", GROUPED)

    def loss(model, ids):
        cache = model(ids[:, :5], use_cache=True).past_key_values
        return model(ids[:, 5:], past_key_values=cache)[0].square().mean()

    both(model, [inputs_for("llama")["input_ids"]], loss)
    (message,) = logged()
    assert re.match(r"leave-one-out makes every pass as a whole: the loss is \S+, but \S+ replayed from", message)


def test_rounds(stack, data):
    both(stack, data, cross_entropy, rounds=4)


def test_a_pruned_model(stack, data):
    pruned = mha.prune(stack, mha.HeadPlan({"blocks.1.attention": (0, 2), "blocks.3.attention": ()}))
    both(pruned, data, cross_entropy)


# Models that can't


class InPlace(nn.Module):
    """The residual stream is added to in place."""

    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        x += self.block(x)
        return x


class Remembers(nn.Module):
    """Adds what an earlier module left behind."""

    def __init__(self, memory, writes):
        super().__init__()
        self.block, self.memory, self.writes = Block(), memory, writes

    def forward(self, x):
        x = self.block(x)
        if self.writes:
            self.memory["x"] = x
            return x
        return x + self.memory["x"]


def remembering():
    memory = {}
    return stack_of(Remembers(memory, True), Block(), Remembers(memory, False))


def in_inference_mode(model, batch):
    with torch.inference_mode():
        return cross_entropy(model, batch)


UNREPLAYABLE = {
    "in place": (lambda: stack_of(InPlace(), InPlace()), cross_entropy, "a Block returned was changed in place"),
    "what a module left behind": (remembering, cross_entropy, r"the loss is \S+, but \S+ replayed from 'blocks"),
    "random numbers on the way": (
        lambda: stack_of(Noisy(), Block(), Noisy()),
        cross_entropy,
        r"but \S+ replayed from 'blocks.2",
    ),
    "inference mode": (
        stack_of,
        in_inference_mode,
        "it, or something that the loss uses, was made in torch.inference_mode",
    ),
}


@pytest.mark.parametrize("name", UNREPLAYABLE)
def test_a_model_that_cannot_be_replayed_runs_as_a_whole(name, data, logged):
    make, loss, reason = UNREPLAYABLE[name]
    model = drawn(make())
    both(model, [(x.clone(), labels) for x, labels in data] if name != "in place" else Copies(data), loss)
    (message,) = logged()
    assert re.match(f"leave-one-out makes every pass as a whole: .*{reason}", message)


class Copies(list):
    """Batches that are new at each reading."""

    def __iter__(self):
        return ((x.clone(), labels) for x, labels in super().__iter__())


class FallsBack(Stack):
    """Classifies by the first block where the others fail, whatever the reason."""

    def forward(self, x):
        try:
            return super().forward(x)
        except Exception:
            return self.classify(x.mean(dim=1))


def test_a_deviation_is_noticed_though_the_model_catches_it(data):
    model = drawn(FallsBack([Block(), Block()]))
    outputs = [block.attention.W_o for block in model.blocks]
    replay = Replay(model, outputs)
    with torch.no_grad(), replay.watching():
        with replay.recording():
            model(data[0][0])
        with pytest.raises(NotReplayableError, match="pass ended before its FallsBack"), replay.starting_at(outputs[1]):
            pass
        model.blocks[0].attend = model.blocks[1].__call__
        problem = "a Block ran where a LayerNorm had run before"
        with pytest.raises(NotReplayableError, match=problem), replay.starting_at(outputs[0]):
            model(data[0][0])


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_the_modules_are_as_they_were_after_an_error(stack, data, error):
    own = stack.classify.forward = stack.classify.forward
    calls = []

    def loss(model, batch):
        calls.append(batch)
        if len(calls) > 20:
            raise error
        return cross_entropy(model, batch)

    before = [sorted(vars(module)) for module in stack.modules()]
    with pytest.raises(error):
        mha.score(stack, data, loss, "leave_one_out")
    assert [sorted(vars(module)) for module in stack.modules()] == before
    assert vars(stack.classify)["forward"] is own
    del calls[:]
    assert mha.score(stack, data, cross_entropy, "leave_one_out") is not None


def test_a_loss_that_fails_once_without_a_head_is_the_callers_error(stack, data):
    """The replay is given up first; the whole pass then says what is wrong."""

    def loss(model, batch):
        value = cross_entropy(model, batch)
        return value if value < 3 else value * float("nan")

    with pytest.raises(mha.MhaError, match=r"batch \d: the loss is nan; look for NaN"):
        mha.score(stack, data, loss, "leave_one_out")


# The race


def many(count=16):
    generator = torch.Generator().manual_seed(8)
    sizes = [3, 2] * (count // 2)
    x = torch.randn(sum(sizes), 7, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (sum(sizes),), generator=generator)
    return list(zip(x.split(sizes), labels.split(sizes), strict=True))


def flat(scores):
    return torch.cat([scores.scores[name] for name in scores.scores])


def test_the_race_keeps_its_budget_and_ranks_nearly_as_the_exact_scores(stack):
    batches = many(32)
    exact, raced, again = (
        mha.score(stack, batches, cross_entropy, "leave_one_out", racing=racing, budget=0.35)
        for racing in (False, True, True)
    )
    assert raced == again
    assert raced.spent.forward + 2 * raced.spent.backward <= 0.35 * 32 * (1 + HEADS * LAYERS)
    ranks = [flat(scores).argsort().argsort().double() for scores in (exact, raced)]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.9
    assert raced.examples == exact.examples
    off = (flat(raced) - flat(exact)).abs()
    errors = torch.cat(list(raced.errors.values()))
    assert (errors > 0).all()
    assert (off < 4 * errors).all()


def test_a_race_with_all_of_the_budget_is_exact(stack):
    batches = many()
    exact, raced = (
        mha.score(stack, batches, cross_entropy, "leave_one_out", **options)
        for options in ({}, {"racing": True, "budget": 1.0})
    )
    torch.testing.assert_close(flat(raced), flat(exact), rtol=1e-9, atol=1e-12)
    assert all((row == 0).all() for row in raced.errors.values())


def test_a_race_over_a_loss_without_gradients(stack):
    batches = many()
    exact, raced = (
        mha.score(stack, batches, in_tenths, "leave_one_out", **options)
        for options in ({}, {"racing": True, "budget": 1.0})
    )
    torch.testing.assert_close(flat(raced), flat(exact), rtol=1e-9, atol=1e-12)
    assert raced.spent.backward == 0


def test_estimates_of_the_race_by_hand():
    """Two heads, three batches of 1, 2 and 1 examples; batches 1 and 2 are seen without head 0."""
    slopes = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 3.0]], dtype=torch.float64)
    standings = Standings(slopes, torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64))
    assert standings.estimate.tolist() == [(1 + 2 * 2 + 4) / 4, 3 / 4]
    standings.update(1, [0, 1], torch.tensor([2.5, 0.0], dtype=torch.float64))  # 0.5 and 0 more than the slopes
    standings.update(2, [0], torch.tensor([5.5], dtype=torch.float64))  # 1.5 more
    mean = (2 * 0.5 + 1 * 1.5) / 3
    assert standings.estimate.tolist() == pytest.approx([9 / 4 + mean, 3 / 4], rel=1e-15)
    assert standings.error[0].item() == pytest.approx((0.5**0.5) * ((1 - 2 / 3) / 2) ** 0.5, rel=1e-15)
    standings.update(0, [0], torch.tensor([0.0], dtype=torch.float64))
    assert standings.estimate[0].item() == pytest.approx((0 + 2 * 2.5 + 5.5) / 4, rel=1e-15)
    assert standings.error[0].item() == 0


def test_heads_of_uncertain_rank_come_first():
    slopes = torch.zeros(4, 3, dtype=torch.float64)
    standings = Standings(slopes, torch.ones(4, dtype=torch.float64))
    for number, row in enumerate(([1.0, 0.9, 7.0], [2.0, 2.3, 7.1])):
        standings.update(number, [0, 1, 2], torch.tensor(row, dtype=torch.float64))
    assert standings.least_certain([0, 1, 2])[-1] == 2


def test_budgets_that_cannot_be_met(stack, data):
    with pytest.raises(mha.MhaError, match=r"budget is a share of the passes, above 0 and up to 1; got 1.5"):
        mha.score(stack, data, cross_entropy, "leave_one_out", racing=True, budget=1.5)
    with pytest.raises(mha.MhaError, match=r"above 0 and up to 1; got 'a quarter'"):
        mha.score(stack, data, cross_entropy, "leave_one_out", racing=True, budget="a quarter")
    with pytest.raises(mha.MhaError, match=r"racing takes at least 0\.\d\d of the passes .* above budget=0.25: raise"):
        mha.score(stack, data, cross_entropy, "leave_one_out", racing=True)
