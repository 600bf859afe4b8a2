"""Passes side by side give the rows that passes from the start give, and where they can't, the latter are taken."""

import threading
from importlib import import_module

import pytest
import torch
from torch import nn

import mha
from mha.pruning.masking import at_rest
from mha.repair.fit_linear import fit
from mha.repair.layers_to_fit import parts_of
from mha.repair.observe import calling_outputs
from mha.repair.reading import Reading, read
from mha.repair.rows import FromTheStart, SideBySide
from tests.thorough import few

compensating = import_module("mha.repair.compensate")


class Block(nn.Module):
    """Attention to a memory and a feed-forward network in a residual stream of width 11, put together in some order."""

    def __init__(self, order: str, attention: nn.Module) -> None:
        super().__init__()
        self.order, self.attention = order, attention
        self.first, self.second = nn.LayerNorm(11), nn.LayerNorm(11)
        self.up, self.down = nn.Linear(11, 17), nn.Linear(17, 11)

    def feed(self, x):
        return self.down(torch.tanh(self.up(x)))

    def attend(self, x, memory):
        memory = x if memory is None else memory
        return self.attention(x, memory, memory)

    def forward(self, x, memory=None):
        if self.order == "post-norm":
            x = self.first(x + self.attend(x, memory))
            return self.second(x + self.feed(x))
        y = self.first(x)
        if self.order == "parallel":
            return x + self.attend(y, memory) + self.feed(y)
        if self.order == "copied":  # what reads the stream reads a copy
            x = x + self.attend(y, memory)
            return x + self.feed(self.second(x.clone()))
        x = x + self.attend(y, memory)
        return x + self.feed(self.second(x))


class Model(nn.Module):
    """Blocks, and a linear layer that reads the mean over positions."""

    def __init__(self, order="pre-norm", *, depth=3, shared=False, memory=None, **sizes) -> None:
        super().__init__()

        def block():
            layer = {"head_dim": 3, "bias": True, **sizes}
            heads = layer.pop("heads", 5)
            if memory:
                return Block(order, mha.MultiHeadAttention(memory, 11, memory, 11, heads, **layer))
            return Block(order, mha.MultiHeadAttention.square(11, heads, **layer))

        self.embed = nn.Linear(7, 11)
        self.blocks = nn.ModuleList([block()] if shared else [block() for _ in range(depth)])
        self.depth, self.last, self.head = depth, nn.LayerNorm(11), nn.Linear(11, 2)

    def forward(self, x, memory=None):
        x = self.embed(x)
        for number in range(self.depth):
            x = self.between(number, self.blocks[number % len(self.blocks)](x, memory))
        return self.head(self.last(x).mean(1))

    def between(self, _number, x):
        return x


class Stashing(Model):
    """Leaves the stream after the first block on itself, and adds it to that after the second."""

    def between(self, number, x):
        if number == 0:
            self.kept = x
        return x + self.kept if number == 1 else x


class Failing(Model):
    """Raises its `error`, if it has one, after the second block."""

    error = None

    def between(self, number, x):
        if number == 1 and self.error is not None:
            raise self.error("on purpose")
        return x


def made(kind=Model, *args, **sizes):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return kind(*args, **sizes).double().eval()


def drawn(*shape, seed=7):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def data():
    """Five batches of x (13, 5, 7); the last one is smaller."""
    return [drawn(13 if number < 4 else 3, 5, 7, seed=number) for number in range(5)]


def forward(model, batch):
    return model(batch)


def with_memory(model, batch):
    return model(batch, drawn(len(batch), 19, 17, seed=len(batch)))


def twice(model, batch):
    """Queries and documents."""
    return model(batch[:2]) @ model(batch[2:]).T


HALF = {0: (0, 2, 3), 1: (1, 4), 2: (0, 3, 4)}
KINDS = {
    "pre-norm": (made(), HALF, forward),
    "post-norm": (made(Model, "post-norm"), HALF, forward),
    "parallel": (made(Model, "parallel"), HALF, forward),
    "a copy is read": (made(Model, "copied"), HALF, forward),
    "parallel, a layer without heads": (made(Model, "parallel"), {0: (0, 3), 1: (), 2: (1, 4)}, forward),
    "a layer without heads": (made(), {0: (0, 3), 1: (), 2: (1, 4)}, forward),
    "no heads at all": (made(), {0: (), 1: (), 2: ()}, forward),
    "without a bias": (made(bias=False), {0: (0, 3), 1: (), 2: (1, 4)}, forward),
    "from the middle on": (made(), {1: (0, 3)}, forward),
    "grouped": (made(heads=6, num_kv_heads=3), {0: (0, 2, 4), 1: (2, 3), 2: (1, 5)}, forward),
    "cross-attention": (made(memory=17), HALF, with_memory),
    "two calls": (made(), HALF, twice),
}


def plan_of(keep):
    return mha.HeadPlan({f"blocks.{number}.attention": heads for number, heads in keep.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_side_by_side_gives_the_rows_that_passes_from_the_start_give(kind, data):
    """Layer by layer, each fitted before the next."""
    teacher, keep, run = KINDS[kind]
    student = mha.prune(teacher, plan_of(keep))
    layers = mha.find_attention(student), mha.find_attention(teacher)
    emptied = {
        module for number, heads in keep.items() if not heads for module in teacher.blocks[number].attention.modules()
    }
    fitted = []
    with at_rest(teacher, student), calling_outputs(layers[1]):
        reading = read(teacher, data, run, silent=emptied)
        parts = parts_of(student, teacher, reading.goals, "least_squares", "all")
        source = SideBySide(student, teacher, parts, reading.calls(parts, run))
        start = FromTheStart(student, teacher, parts, data, run)
        with torch.no_grad(), calling_outputs(layers[0]):
            for part in source:
                rows, expected = list(source.rows(part)), list(start.rows(part))
                for one, other in zip(rows, expected, strict=True):
                    assert one.batch == other.batch
                    for value, wanted in zip(one[1:], other[1:], strict=True):
                        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-9)
                fit(part, rows, "least_squares", len(data))
                fitted.append(part.name)
    assert sorted(fitted) == sorted(part.name for part in parts)
    assert fitted


def refused(*_args, **_kwargs):
    raise AssertionError("not this way")


def repaired(monkeypatch, way, student, teacher, data, run, **how):
    """The repaired model, and how often passes from the start were begun; "side by side" refuses them."""
    begun = []

    def start(*args):
        begun.append(1)
        return FromTheStart(*args)

    with monkeypatch.context() as patched:
        patched.setattr(compensating, "FromTheStart", refused if way == "side by side" else start)
        if way == "from the start":
            patched.setattr(Reading, "calls", lambda *_: None)
        return mha.compensate(student, teacher, data, run, **how), len(begun)


def assert_alike(one, other):
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-6, atol=1e-8, msg=name)


def error(model, teacher, data, run):
    with torch.no_grad():
        return sum((run(model, batch) - run(teacher, batch)).square().mean().item() for batch in data)


@pytest.mark.parametrize("method", few(["least_squares", "scale", "bias"], "least_squares"))
@pytest.mark.parametrize("kind", KINDS)
def test_the_repaired_model_is_the_same_either_way(kind, method, data, monkeypatch):
    teacher, keep, run = KINDS[kind]
    student = mha.prune(teacher, plan_of(keep))
    one, _ = repaired(monkeypatch, "side by side", student, teacher, data, run, method=method)
    other, _ = repaired(monkeypatch, "from the start", student, teacher, data, run, method=method)
    assert_alike(one, other)
    if method == "least_squares":
        assert error(one, teacher, data, run) < error(student, teacher, data, run)


def test_shared_layers_begin_at_the_start(data, monkeypatch):
    """As ALBERT's: a layer reads what it made itself."""
    teacher = made(shared=True)
    student = mha.prune(teacher, plan_of({0: (0, 2, 3)}))
    monkeypatch.setattr(compensating, "SideBySide", refused)
    found, begun = repaired(monkeypatch, "either", student, teacher, data, forward)
    assert begun == 1
    assert error(found, teacher, data, forward) < 0.5 * error(student, teacher, data, forward)


@pytest.mark.parametrize(
    "last", [pytest.param(13, id="it gives other values"), pytest.param(3, id="it does not fit another batch")]
)
def test_models_that_leave_something_on_themselves_begin_at_the_start(last, data, monkeypatch):
    data[-1] = drawn(last, 5, 7)
    teacher = made(Stashing)
    student = mha.prune(teacher, plan_of(HALF))
    found, begun = repaired(monkeypatch, "either", student, teacher, data, forward)
    assert begun == 1
    expected, _ = repaired(monkeypatch, "from the start", student, teacher, data, forward)
    assert_alike(found, expected)


@pytest.mark.parametrize("depth", [2, 5])
def test_how_often_the_models_run_does_not_depend_on_their_depth(depth, data):
    """Once with gradients, once each side by side, and once more to see that nothing strayed."""
    teacher, runs = made(depth=depth), []

    def counted(model, batch):
        runs.append(model is teacher)
        return model(batch)

    mha.compensate(mha.prune(teacher, plan_of({0: (0, 2), 1: (1, 4)})), teacher, data, counted)
    assert runs.count(True) == 2 * len(data)
    assert runs.count(False) == len(data) + 1


def test_a_forward_may_mask_heads(data):
    """The models are locked by the thread that repairs, and run in others."""
    teacher = made()
    student = mha.prune(teacher, plan_of(HALF))
    some = plan_of({0: (0, 2)})

    def masked(model, batch):
        with mha.masked(model, some):
            return model(batch)

    found = mha.compensate(student, teacher, data, masked)
    assert error(found, teacher, data, masked) < 0.5 * error(student, teacher, data, masked)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_of_passes_that_were_interrupted(kind, data):
    teacher = made(Failing)
    student = mha.prune(teacher, plan_of(HALF))
    student.error = kind
    with pytest.raises(kind, match="on purpose"):
        mha.compensate(student, teacher, data, forward)
    assert not [thread for thread in threading.enumerate() if thread.name == "mha-pass"]
    for module in (*teacher.modules(), *student.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
