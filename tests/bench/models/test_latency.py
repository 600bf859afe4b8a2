"""What is timed of a plan: each shape once, in the dtype and mode that are asked for, on inputs that rotate."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import mha
from bench.measure.sampling import Sampled
from bench.models import latency
from bench.models.experiment import Experiment
from bench.models.latency import INPUTS, Latencies, Place, cast, compiled, rotation, sequence_length
from tests.bench.tiny_task import LENGTH, TinyTask

LIMITS = {"seconds": 1e-6, "rounds": (4, 4)}
REQUEST = object()


class UntrainedTask(TinyTask):
    """The tiny task, without the time to train."""

    steps = 0


@pytest.fixture
def experiment():
    return Experiment(UntrainedTask())


@pytest.fixture
def asked(monkeypatch):
    """What sampling is asked for; every call is made once, and gives a sample."""
    asked = []

    def sampled(request, arms, **options):
        assert request is REQUEST
        outputs = {name: [prepare()() for _ in range(INPUTS)] for name, prepare in arms.items()}
        asked.append({**options, "outputs": outputs})
        return Sampled([{"arm": name, "round": 0, "seconds": 1.0} for name in arms], "steady", 5)

    monkeypatch.setattr(latency, "sampled", sampled)
    return asked


def plan(*kept):
    return mha.HeadPlan({f"layers.{index}": heads for index, heads in enumerate(kept)})


def test_a_shape_is_timed_once(experiment, asked):
    """Heads 0 and 2 of a layer take as long as 1 and 2, whoever chose them, but not so under other conditions."""
    latencies = Latencies(LIMITS)
    first, same, other = plan((0, 2), ()), plan((1, 2), ()), plan((1,), ())
    usual, double = Place(3, "cpu"), Place(3, "cpu", "float64")
    cases = [
        *(("a", first, usual), ("b", same, usual), ("c", other, usual)),
        *(("d", first, Place(2, "cpu")), ("e", same, Place(2, "cpu")), ("f", first, double), ("g", same, double)),
        *(("h", same, replace(usual, cache="cold")), ("i", same, replace(usual, mode="eager"))),
    ]
    timings = [latencies.of(case, experiment, plan, place, REQUEST) for case, plan, place in cases]
    assert [timing.case for timing in timings] == list("aacddffha")
    assert len(asked) == 5
    assert timings[1].samples is timings[0].samples
    assert timings[0][2:5] == (LENGTH, "steady", 5)
    assert set(timings[0].counts) == {"pruned", "dense"}
    assert timings[2].counts["dense"] == timings[0].counts["dense"]
    assert timings[0].counts["pruned"]["flops"] < timings[0].counts["dense"]["flops"]
    assert [sample["arm"] for sample in timings[0].samples] == ["pruned", "dense"]


def test_a_shape_that_an_earlier_part_of_the_run_timed_is_not_timed_again(experiment, asked):
    wanted, known = [], {"case": "z", "samples": [1], "seq_len": 5, "ended": "steady", "warm_up": 4, "counts": {}}

    def earlier(**fields):
        wanted.append(fields)
        return known

    timing = Latencies(LIMITS, earlier).of("a", experiment, plan((0, 2), ()), Place(3, "cpu", length=17), REQUEST)
    assert timing == ("z", [1], 5, "steady", 4, {})
    assert asked == []
    where = {"batch": 3, "device": "cpu", "dtype": "float32", "mode": "eager", "cache": "warm", "length": 17}
    assert wanted == [{"kind": "pruning", "task": experiment.task.name, "shape": [2, 0], **where}]


def test_sequences_are_as_long_as_asked_for(experiment, asked):
    timing = Latencies(LIMITS).of("a", experiment, plan((0, 2), ()), Place(3, "cpu", length=LENGTH + 4), REQUEST)
    assert timing.seq_len == asked[0]["facts"]["seq_len"] == LENGTH + 4


def test_pruned_and_dense_run_on_the_same_inputs_in_that_dtype(experiment, asked):
    half = plan((0, 2), (1,))
    facts = {"case": "a", "seq_len": None}
    Latencies(LIMITS).of("a", experiment, half, Place(3, "cpu", "float64", cache="cold"), REQUEST, facts)
    (only,) = asked
    args, _ = experiment.inputs(3, "cpu")
    with torch.inference_mode():
        expected = {
            "dense": experiment.model().double()(*args),
            "pruned": mha.prune(experiment.model(), half).double()(*args),
        }
    for name, outputs in only["outputs"].items():
        assert len(outputs) == INPUTS
        for output in outputs:
            torch.testing.assert_close(output, expected[name])
    assert (only["target"], only["device"], only["limits"], only["cache"]) == ("pruned", "cpu", LIMITS, "cold")
    assert only["facts"] == {
        "case": "a",
        "timed_by": "a",
        "batch": 3,
        "device": "cpu",
        "length": None,
        "seq_len": LENGTH,
        "dtype": "float64",
        "mode": "eager",
        "cache": "cold",
    }


def test_the_dense_model_of_an_experiment_keeps_its_dtype(experiment):
    dense = experiment.dense("cpu")
    assert cast(dense, "float32") is dense
    low = cast(dense, "bfloat16")
    assert {part.dtype for part in low.parameters()} == {torch.bfloat16}
    assert {part.dtype for part in dense.parameters()} == {torch.float32}


def test_inputs_lie_at_several_places_and_one_given_twice_stays_one():
    x, tokens = torch.randn(2, 3), torch.tensor([1, 2])
    copies = rotation(((x, x), {"tokens": [tokens]}), "bfloat16")
    assert len(copies) == INPUTS
    for (one, same), kwargs in copies:
        assert one is same
        torch.testing.assert_close(one, x.bfloat16())
        torch.testing.assert_close(kwargs, {"tokens": [tokens]})
    assert len({args[0].data_ptr() for args, _ in copies}) == INPUTS
    assert len({kwargs["tokens"][0].data_ptr() for _, kwargs in copies}) == INPUTS


def test_the_sequence_is_as_long_as_what_attention_reads(experiment):
    args, kwargs = experiment.task.example(2, seq_len=17)
    assert sequence_length(experiment.model(), args, kwargs) == 17


def test_compiled_models_give_the_same(experiment, asked, monkeypatch):
    """By torch's own compiler, less the part that calls one for C++."""
    resets = []
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(torch.compiler, "reset", partial(resets.append, True))
    for mode in ("compile", "eager"):
        Latencies(LIMITS).of("a", experiment, plan((0, 2), (1,)), Place(3, "cpu", mode=mode), REQUEST)
    fast, eager = asked
    torch.testing.assert_close(fast["outputs"], eager["outputs"])
    assert (fast["facts"]["mode"], resets) == ("compile", [True])


def test_a_model_that_cannot_be_compiled_says_so(monkeypatch):
    def fail(_model, **_options):
        raise OSError("no compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(
        RuntimeError, match=r"can't compile the pruned model here \(OSError: no compiler found\); for the CPU it needs"
    ):
        compiled(nn.Linear(2, 3), ((torch.ones(1, 2),), {}), "pruned")
