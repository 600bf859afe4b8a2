"""A criterion of one's own: registered from outside, scored with, listed, and refused where it can't work."""

import copy
import functools
import inspect
import re

import pytest
import torch

import mha
from mha.importance import Calibration, Scored
from mha.importance.registry import describe, registered
from mha.importance.registry.criterion import TAKEN
from mha.values.errors import CalibrationError


def half_gate(calibration, *, gate=0.5):
    """What the loss rises by when the head speaks at a part of its strength.

    The rest of this is not printed.
    """
    dense, scores = calibration.mean_loss(), calibration.zeros()
    for name, position in calibration.present():
        gates = torch.ones(calibration.layers[name].num_heads)
        gates[position] = gate
        scores[name][position] = calibration.mean_loss({name: gates}) - dense
    return scores


def test_one_of_ones_own_is_scored_with_and_taken_out_again(model, batches, loss, monkeypatch):
    before = mha.criteria()
    with monkeypatch.context() as patch:
        patch.setattr(registered, "_CRITERIA", dict(registered._CRITERIA))
        assert mha.register_criterion("half_gate", needs="outputs")(half_gate) is half_gate
        assert mha.criteria() == tuple(sorted((*before, "half_gate")))
        scores = mha.score(model, batches, loss, "half_gate")
        off = mha.score(model, batches, loss, "half_gate", gate=0.0)
        rounds = mha.score(model, batches, loss, "half_gate", rounds=2)
        with pytest.raises(CalibrationError, match=r"no option factor; it takes gate"):
            mha.score(model, batches, loss, "half_gate", factor=2)
        with pytest.raises(CalibrationError, match="needs calibration batches, got None"):
            mha.score(model, None, loss, "half_gate")
    assert mha.criteria() == before
    with pytest.raises(CalibrationError, match="unknown criterion 'half_gate'; there are confidence, entropy"):
        mha.score(model, batches, loss, "half_gate")
    exact = mha.score(model, batches, loss, "leave_one_out")
    assert scores.comparable
    assert sorted(float(rank) for row in rounds.scores.values() for rank in row) == list(range(20))
    for name, row in off.scores.items():
        torch.testing.assert_close(row, exact.scores[name], rtol=0, atol=1e-12)
        assert not torch.equal(row, scores.scores[name])


def test_gradients_by_the_batch_are_those_of_taylor_signed(model, batches, loss):
    """What the documentation says of batches is all that a criterion of gradients takes."""

    @mha.register_criterion("slope", needs="gradients")
    def slope(calibration: Calibration) -> Scored:
        total, examples = calibration.zeros(), 0
        for batch in calibration.each_batch():
            gates = {
                name: torch.ones(layer.num_heads, requires_grad=True) for name, layer in calibration.with_heads.items()
            }
            with batch.run(gates) as loss:
                gradients = batch.gradients(loss, gates)
            for name, row in gradients.items():
                total[name] -= row.double() * loss.examples
            examples += loss.examples
        return Scored({name: row / examples for name, row in total.items()}, examples)

    scores, expected = (mha.score(model, batches, loss, criterion) for criterion in ("slope", "taylor_signed"))
    assert scores.examples == expected.examples == 19
    for name, row in scores.scores.items():
        torch.testing.assert_close(row, expected.scores[name], rtol=1e-5, atol=1e-7)


def test_a_name_that_is_taken():
    with pytest.raises(
        CalibrationError,
        match=r"'taylor' is registered already, by mha\.importance\.criteria\.taylor\.taylor; choose an",
    ):
        mha.register_criterion("taylor", needs="nothing")(half_gate)
    assert describe("taylor").function is not half_gate


def test_the_same_function_defined_again_replaces_itself():
    """As when the cell of a notebook runs again."""

    def define(value):
        @mha.register_criterion("again", needs="nothing")
        def again(calibration):
            return {name: row + value for name, row in calibration.zeros().items()}

        return again

    define(1)
    second = define(2)
    assert describe("again").function is second


def test_nameless_functions_do_not_replace_one_another():
    first, second = (functools.partial(half_gate, gate=gate) for gate in (0.5, 0.25))
    for one, other, by in (
        (first, second, "functools.partial"),
        (lambda calibration: {}, lambda calibration: {"": 1}, "<lambda>"),  # noqa: ARG005
    ):
        name = f"nameless_{len(by)}"
        mha.register_criterion(name, needs="outputs")(one)
        mha.register_criterion(name, needs="outputs")(one)
        with pytest.raises(CalibrationError, match=rf"{name}' is registered already, by .*{re.escape(by)}; choose"):
            mha.register_criterion(name, needs="outputs")(other)


@pytest.mark.parametrize("name", ["two words", "", "class", "default", "3d", 7, None])
def test_names_that_are_no_identifiers(name):
    with pytest.raises(
        CalibrationError, match=r'is a Python identifier, such as "my_criterion", and not \'default\'; got'
    ):
        mha.register_criterion(name, needs="nothing")


def test_needs_that_are_unknown():
    with pytest.raises(
        CalibrationError, match=r"'mine': needs is one of 'nothing', 'context', .*'gradients'; got 'weights'"
    ):
        mha.register_criterion("mine", needs="weights")
    with pytest.raises(CalibrationError, match=r"'mine': comparable says whether .*, True or False; got 'no'"):
        mha.register_criterion("mine", needs="nothing", comparable="no")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *, gate=1: {}, r"the calibration as its only positional parameter, .* after a \*; got \[\]"),  # noqa: ARG005
        (lambda calibration, epochs: {}, r"only positional parameter.*got \['calibration', 'epochs'\]"),  # noqa: ARG005
        (lambda calibration, epochs=3: {}, r"only positional parameter.*got \['calibration', 'epochs'\]"),  # noqa: ARG005
        (lambda calibration, *options: {}, r"its function takes \*options; name every option"),  # noqa: ARG005
        (lambda calibration, **options: {}, r"its function takes \*\*options; name every option"),  # noqa: ARG005
        (lambda calibration, *, epochs: {}, r"option 'epochs' has no default; give it one"),  # noqa: ARG005
        (lambda calibration, *, seed=0: {}, r"'seed' is a keyword of mha\.score itself and never reaches"),  # noqa: ARG005
        ("taylor", r"expected a function \(calibration, \*, options\), got 'taylor'"),
    ],
)
def test_functions_that_cannot_be_called(function, message):
    with pytest.raises(CalibrationError, match=rf"criterion 'mine': .*{message}"):
        mha.register_criterion("mine", needs="nothing")(function)
    assert "mine" not in mha.criteria()


def test_the_keywords_that_never_reach_a_criterion_are_those_of_score():
    parameters = inspect.signature(mha.score).parameters.values()
    assert {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD} == TAKEN


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda rows: list(rows.values()), r"returned list; expected a mapping of layer name to scores \(h,\)"),
        (
            lambda rows: {"plain": rows["plain"]},
            r"scores of the layers \['plain'\]; expected all of \['plain', 'grouped'",
        ),
        (lambda rows: rows | {"plain": rows["plain"][1:]}, r"'plain': expected .* \(7,\), .*got shape \(6,\)"),
        (lambda rows: Scored(rows | {"plain": [1.0] * 7}), r"'plain': expected a tensor of shape \(7,\), .*got list"),
    ],
)
def test_functions_that_return_something_else(model, returned, message):
    mha.register_criterion("mine", needs="nothing")(lambda calibration: returned(calibration.zeros()))
    with pytest.raises(CalibrationError, match=rf"criterion 'mine'.*{message}"):
        mha.score(model, None, None, "mine")


def test_the_list_of_criteria_prints_as_a_table():
    @mha.register_criterion("a_long_one", needs="context", comparable=False)
    def a_long_one(calibration, *, an_option=1.5, another_of_the_kind="a value", third=(1.0, 0.1), last=None): ...

    mha.register_criterion("half_gate", needs="outputs")(half_gate)
    lines = str(mha.criteria()).splitlines()
    assert lines[:4] == [
        "name                     needs              compares layers  options",
        "a_long_one               context            no               an_option=1.5, another_of_the_kind='a value',",
        "                                                             third=(1.0, 0.1), last=None",
        "    (its function has no docstring)",
    ]
    at = lines.index("half_gate                outputs            yes              gate=0.5")
    assert lines[at + 1] == "    What the loss rises by when the head speaks at a part of its strength."
    at = lines.index(
        "leave_one_out (default)  outputs            yes              reuse=True, racing=False, budget=0.25"
    )
    assert lines[at + 1].startswith("    What the loss rises by without the head")
    at = lines.index("magnitude                nothing            no               none")
    assert lines[at + 1].startswith("    The Frobenius norm")
    assert repr(mha.criteria()) == str(mha.criteria())
    assert max(map(len, lines)) <= 120


def test_the_list_of_criteria_is_a_tuple_of_names():
    listed = mha.criteria()
    assert isinstance(listed, tuple)
    assert listed == tuple(listed) == tuple(sorted(listed))
    assert hash(listed) == hash(tuple(listed))
    assert ("random", *listed[1:])[0] == "random"
    for copied in (copy.copy(listed), copy.deepcopy(listed)):
        assert copied == listed
        assert repr(copied) == repr(listed)


@pytest.mark.parametrize("criterion", mha.criteria())
def test_every_criterion_says_in_a_sentence_what_it_measures(criterion):
    summary = describe(criterion).summary
    assert summary[0].isupper()
    assert summary.endswith(".")
