"""What every public call leaves as it was: all of the model, to the versions of its tensors; also when interrupted."""

import gc
import linecache
import sys
from collections import Counter
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import nn

import mha
from mha import HeadPlan
from mha.runtime import locking
from tests.mha.support.losses import loss_of
from tests.mha.support.untouched import state_of

PLAN = HeadPlan({"plain": (1, 4), "grouped": (), "cross": (0, 2)})
COSTS_ENOUGH = 1e-3


def forward(model, batch):
    return model(*batch[:2])


def masked(model, batches):
    with mha.masked(model, PLAN), torch.random.fork_rng():  # the model draws, in training mode
        forward(model, batches[0])


def saved(model, _batches):
    with TemporaryDirectory() as directory:
        mha.save_pruned(mha.prune(model, PLAN), directory)


CALLS = {
    **{
        f"score {name}": lambda model, batches, name=name: mha.score(model, batches, loss_of, name)
        for name in mha.criteria()
        if name not in ("shapley", "gate", "hard_concrete", "subset")
    },
    "score shapley": lambda model, batches: mha.score(
        model, batches, loss_of, "shapley", max_permutations=2, min_permutations=2
    ),
    "score gate": lambda model, batches: mha.score(model, batches, loss_of, "gate", epochs=1),
    "score hard_concrete": lambda model, batches: mha.score(model, batches, loss_of, "hard_concrete", epochs=1),
    "score subset": lambda model, batches: mha.score(model, batches, loss_of, "subset", epochs=1),
    "score in a race": lambda model, batches: mha.score(
        model, batches, loss_of, "leave_one_out", racing=True, budget=1.0
    ),
    "score in rounds": lambda model, batches: mha.score(model, batches, loss_of, "taylor", rounds=2),
    "masked": masked,
    "check": lambda model, batches: mha.check(model, PLAN, batches[0][:2]),
    "prune": lambda model, _: mha.prune(model, PLAN),
    "plan_of": lambda model, _: mha.plan_of(model),
    "compensate": lambda model, batches: mha.compensate(mha.prune(model, PLAN), model, batches, forward),
    "compensate itself": lambda model, batches: mha.compensate(model, model, batches, forward),
    "shrink": lambda model, batches: mha.shrink(model, batches, loss_of, forward, keep=0.5, rounds=2),
    "shrink by a criterion": lambda model, batches: mha.shrink(
        model, batches, loss_of, forward, criterion="taylor", keep=0.5
    ),
    "distill": lambda model, batches: mha.distill(mha.prune(model, PLAN), model, batches, forward, steps=2),
    "measure_costs": lambda model, batches: mha.measure_costs(model, batches[0][:2], seconds=COSTS_ENOUGH),
    "slice_optimizer": lambda model, _: mha.slice_optimizer(
        torch.optim.AdamW(model.parameters()), model, mha.prune(model, PLAN)
    ),
    "choose": lambda model, _: mha.choose(mha.score(model, None, None, "random"), model=model, parameters=0.9),
    "save_pruned": saved,
}


@pytest.fixture
def used(model):
    """The model in the middle of its training: with gradients, in two modes, a graph not yet differentiated."""
    model.train()
    model.plain.eval()
    model.classify.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    return model


@pytest.mark.parametrize("call", CALLS)
def test_a_call_leaves_the_model_as_it_was(used, batches, call):
    value = forward(used, batches[2]).sum()
    before = state_of(used)
    CALLS[call](used, [tuple(part[:3, :7] if part.dim() > 1 else part[:3] for part in one) for one in batches])
    assert state_of(used) == before
    value.backward()  # fails where a tensor of the graph was written to, and be it with the same values


def test_shrink_computes_with_weights_of_its_own(model, batches):
    """Another thread, or a `forward` that knows the model itself, never sees other values in it."""
    before, seen = [parameter.clone() for parameter in model.parameters()], []

    def watching(ran, batch):
        seen.append(all(torch.equal(*pair) for pair in zip(model.parameters(), before, strict=True)))
        return forward(ran, batch)

    mha.shrink(model, batches[:1], None, watching, keep=0.5, rounds=1)
    assert all(seen)
    assert len(seen) > 10  # with gradients, with fewer heads in each layer, and for the repair


# Interrupts


class One(nn.Module):
    """Two heads that return their weights, in a block that a checkpoint runs."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.classify = nn.Linear(4, 2)

    def forward(self, x):
        return self.classify(x + self.attention(x, x, x)[0])


def one():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return One().double()


BATCHES = [torch.linspace(-1, 2, 24, dtype=torch.float64).sin().reshape(2, 3, 4)]
POSITIONS = 25  # of all lines, so many are tried, evenly spaced. By hand every line was
# tried once, of masked, leave-one-out, entropy, rounds and compensate; of shrink, distill and check it was not.


def square(model, batch):
    return model(batch).square().mean()


def run_masked(model):
    with mha.masked(model, HeadPlan({"attention": (1,)})):
        model(BATCHES[0])


INTERRUPTED = {
    "masked": run_masked,
    "leave_one_out": lambda model: mha.score(model, BATCHES, square, "leave_one_out"),
    "entropy": lambda model: mha.score(model, BATCHES, square, "entropy"),
    "taylor in rounds": lambda model: mha.score(model, BATCHES, square, "taylor_signed", rounds=2),
    "compensate": lambda model: mha.compensate(
        mha.prune(model, HeadPlan({"attention": (1,)})), model, BATCHES, lambda model, batch: model(batch)
    ),
    "shrink": lambda model: mha.shrink(model, BATCHES, None, lambda model, batch: model(batch), keep=0.5, rounds=1),
    "distill": lambda model: mha.distill(
        mha.prune(model, HeadPlan({"attention": (1,)})), model, BATCHES, lambda model, batch: model(batch), steps=1
    ),
    "check": lambda model: mha.check(model, HeadPlan({"attention": (1,)}), BATCHES),
}
WHERE = tuple(
    f"mha/{name}"
    for name in (
        "masking",
        "undoing",
        "locking",
        "recomputation",
        "streams",
        "compensation",
        "resolving",
        "distillation",
        "equivalence",
        "importance/replay",
        "importance/ablation",
        "importance/calibration",
        "importance/registry",
        "importance/attention_weights",
        "importance/rounds",
    )
)
LOCKING = ("with _GUARD", "with self._guard")  # Python looks for interrupts after calls, not before a lock's release
TORCHS = ("register_forward_hook", "register_forward_pre_hook", "__setattr__")


class Interrupts:
    """Raises KeyboardInterrupt at one of the lines that a call comes by, counted from 0; None notes the lines down."""

    def __init__(self, at=None):
        self.at, self.lines = at, []

    def during(self, call, *args):
        sys.settrace(self._enter)
        try:
            call(*args)
        finally:
            sys.settrace(None)

    def _enter(self, frame, _event, _arg):
        path, code = frame.f_code.co_filename, frame.f_code
        ours = path.removesuffix(".py").endswith(WHERE)
        return self._line if ours or (code.co_name in TORCHS and path.endswith("module.py")) else None

    def _line(self, frame, event, _arg):
        source = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not source.lstrip().startswith(LOCKING):
            if len(self.lines) == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
            self.lines.append((frame.f_code, frame.f_lineno))
        return self._line


def first_and_last(lines):
    """Where each line is come by for the first and for the last time."""
    seen = Counter()
    first = [number for number, line in enumerate(lines) if not seen[line] and not seen.update([line])]
    last = {line: number for number, line in enumerate(lines)}
    found = sorted({*first, *last.values()})
    return found[:: max(1, len(found) // POSITIONS)]


@pytest.mark.parametrize("call", INTERRUPTED)
def test_an_interrupt_at_any_line_leaves_nothing_behind(call):
    model = one()
    INTERRUPTED[call](model)  # warms up what is cached
    before = state_of(model)
    noted = Interrupts()
    noted.during(INTERRUPTED[call], model)
    left = []
    for at in first_and_last(noted.lines):
        with pytest.raises(KeyboardInterrupt):
            Interrupts(at).during(INTERRUPTED[call], model)
        if state_of(model) != before or locking._line():
            code, line = noted.lines[at]
            left.append(f"{code.co_filename}:{line} in {code.co_name}")
            gc.collect()
            model = one()
            before = state_of(model)
    assert left == []
