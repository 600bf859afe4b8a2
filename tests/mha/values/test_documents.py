"""Files of plans, costs and scores, damaged at random: what loads is valid, everything else is refused by name."""

import copy
import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mha
from mha import HeadPlan, HeadScores
from mha.costs import CostTable, LayerCosts, Shape, ShapeCost, WholeModel, feasible_shapes
from mha.values.documents import DEEPEST
from mha.values.errors import CostsError, PlanError, ScoresError
from mha.values.plan import Spent


def costs():
    layers = {}
    for name, whole in {"plain": Shape(3, 3), "grouped": Shape(4, 2)}.items():
        prices = {shape: ShapeCost(0.1 * shape.heads, 7 * shape.heads, 5) for shape in feasible_shapes(whole)}
        layers[name] = LayerCosts(tuple(range(whole.heads)), whole.groups, prices)
    runs = (WholeModel((1, 2), 0.5, 0.25, 0.75, 0.625),)
    return CostTable(layers, ShapeCost(2.0, 100, 90, 1.5, 2.5), 1.3, 1.25, runs, {"threads": {"a": [2, None]}})


def scores():
    rows = {"a": torch.tensor([0.1, -0.0, 1e-310, 3.0]), "b": torch.tensor([1.0, 2.0, 1 / 3])}
    return HeadScores(
        {name: row.double() for name, row in rows.items()},
        {"a": 2},
        heads={"a": [0, 1, 6, 7]},
        examples=13,
        interactions={"a": torch.eye(4) / 3, "b": torch.ones(3, 3) / 7},
        errors={"a": torch.ones(4) / 9, "b": torch.zeros(3)},
        comparable=False,
        spent=Spent(2.5, 3, 0.1),
    )


VALUES = {"plan": HeadPlan({"a": [2, 0], "b": (), "": [1]}), "costs": costs(), "scores": scores()}
ERRORS = {"plan": PlanError, "costs": CostsError, "scores": ScoresError}


@pytest.fixture(params=VALUES)
def kind(request):
    return request.param


def read(kind, path):
    return type(VALUES[kind]).from_json(path)


def document(kind, folder):
    """The document of this kind, read back as plain JSON."""
    path = folder / f"{kind}.json"
    VALUES[kind].to_json(path)
    return json.loads(path.read_text())


def use(value):
    """Use the value in the ways that callers do."""
    assert isinstance(repr(value), str)
    if isinstance(value, CostTable):
        plan = HeadPlan({name: layer.heads[:1] for name, layer in value.layers.items()})
        for predicted in (value.latency(plan), value.flops(plan), value.parameters(plan)):
            float(predicted.share)
        value.to_frame()
    if isinstance(value, HeadScores):
        mha.choose(value, keep=0.5)
        value.to_frame()


def test_what_was_written_comes_back_to_the_last_bit(kind, tmp_path):
    path = tmp_path / "value.json"
    VALUES[kind].to_json(path)
    back = read(kind, path)
    assert back == VALUES[kind]
    back.to_json(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["again.json", "value.json"]


def test_scores_come_back_with_all_that_belongs_to_them(tmp_path):
    scores().to_json(tmp_path / "scores.json")
    back = HeadScores.from_json(str(tmp_path / "scores.json"))
    assert (back.examples, back.spent, back.comparable, dict(back.groups)) == (
        13,
        Spent(2.5, 3, 0.1),
        False,
        {"a": 2, "b": 3},
    )
    assert dict(back.heads) == {"a": (0, 1, 6, 7), "b": (0, 1, 2)}
    assert torch.equal(back.interactions["b"], scores().interactions["b"])
    assert torch.equal(back.errors["a"], scores().errors["a"])
    assert str(back.scores["a"][1].item()) == "-0.0"
    bare = HeadScores({"a": torch.tensor([0.5])})
    bare.to_json(tmp_path / "scores.json")
    back = HeadScores.from_json(tmp_path / "scores.json")
    assert back == bare
    assert (back.examples, back.spent, back.errors, back.interactions) == (None, None, None, None)


NUMBERS = [-1, 0, 1, 2, 10**30, 10**4000, 0.5, -0.25, 1e308, float("nan"), float("inf")]
LEAVES = st.sampled_from([None, True, False, *NUMBERS, "", "a", "1", [], [0], {}, {"a": 1}, [[1]]])


def places(value):
    """Every container in the document, each with its keys."""
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        yield from ((value, key) for key in keys)
        for key in keys:
            yield from places(value[key])


def mutate(value, draw):
    """The document with something replaced, dropped, copied or exchanged, anywhere."""
    found = list(places(value))
    index = st.integers(0, len(found) - 1)
    (one, here), (other, there) = found[draw(index)], found[draw(index)]
    what = draw(st.sampled_from(["replace", "replace", "drop", "copy", "exchange"]))
    if what == "drop":
        del one[here]
    elif what == "replace":
        one[here] = copy.deepcopy(draw(LEAVES))  # the lists and mappings among them would go round in circles
    else:
        mine, its = copy.deepcopy(one[here]), copy.deepcopy(other[there])
        one[here] = its
        if what == "exchange":
            other[there] = mine


def read_or_refused(kind, path):
    """The value that was read, or None where the file was refused as it should be."""
    value, refused = None, None
    try:
        value = read(kind, path)
    except ERRORS[kind] as error:
        refused = str(error)
    assert refused is None or path.name in refused
    return value


@settings(max_examples=100, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(VALUES)))
def test_mutated_documents_are_valid_or_refused(tmp_path_factory, data, kind):
    folder = tmp_path_factory.getbasetemp()
    damaged = document(kind, folder)
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(damaged, data.draw)
        if not list(places(damaged)):
            break
    path = folder / "damaged.json"
    path.write_text(json.dumps(damaged))
    value = read_or_refused(kind, path)
    if value is not None:
        use(value)
        value.to_json(folder / "again.json")
        assert read(kind, folder / "again.json") == value


@settings(max_examples=100, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(VALUES)))
def test_damaged_bytes_are_valid_or_refused(tmp_path_factory, data, kind):
    folder = tmp_path_factory.getbasetemp()
    document(kind, folder)
    content = bytearray((folder / f"{kind}.json").read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = folder / "damaged.json"
    path.write_bytes(content)
    value = read_or_refused(kind, path)
    if value is not None:
        use(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, r"cut off in the middle \(maximum recursion"),
        ('{"a":' * 100_000, r"cut off in the middle \(maximum recursion"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), rf"nested more than {DEEPEST} deep"),
        ('{"a": 1, "a": 1}', r"'a' stands there twice"),
        ('{"a": NaN}', r"NaN is no number in JSON"),
        ('{"a": -Infinity}', r"-Infinity is no number in JSON"),
        (f'{{"a": 1{"0" * 5000}}}', r"integer string conversion"),
        ("", r"cut off in the middle"),
    ],
)
def test_json_that_no_document_is(kind, tmp_path, text, message):
    path = tmp_path / "it.json"
    path.write_text(text)
    with pytest.raises(ERRORS[kind], match=rf"it\.json: not a .*{message}"):
        read(kind, path)


def test_text_of_another_encoding(kind, tmp_path):
    path = tmp_path / "it.json"
    path.write_bytes(json.dumps(document(kind, tmp_path)).encode("utf-16"))
    with pytest.raises(ERRORS[kind], match=r"it\.json: not a .*codec"):
        read(kind, path)


def test_what_is_no_file(kind, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ERRORS[kind], match=r"folder: can't be read \(Is a directory\)"):
        read(kind, tmp_path / "folder")
    with pytest.raises(ERRORS[kind], match=r"missing.json: can't be read \(No such file"):
        read(kind, tmp_path / "missing.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ERRORS[kind], match=r"pipe: can't be read \(it is no regular file\)"):
        read(kind, tmp_path / "pipe")
    with pytest.raises(ERRORS[kind], match=r"can't be read \(it is no regular file\)"):
        read(kind, "/dev/zero")


@pytest.mark.parametrize(
    ("kind", "where", "value", "message"),
    [
        ("scores", ["comparable"], 1, r"a damaged file of scores \(comparable: expected true or false, got 1\); score"),
        ("scores", ["examples"], 0, r"examples: expected a whole number, 1 or more, got 0"),
        ("scores", ["spent", "seconds"], None, r"spent: seconds: expected a finite number, got None"),
        ("scores", ["layers", "a", "scores", 1], 1e999, r"not a file of scores, or cut off"),
        ("scores", ["layers", "a", "scores", 1], True, r"layer 'a': expected a finite number, got True"),
        ("scores", ["layers", "a", "scores"], [1.0], r"layer 'a': 1 heads do not divide into 2"),
        ("scores", ["layers", "a", "heads", 1], 0, r"layer 'a': 4 scores need 4 distinct head numbers"),
        ("scores", ["layers", "a", "errors"], None, r"layer 'a' has scores but no errors"),
        ("scores", ["layers", "a", "interactions", 1], [1.0], r"layer 'a': interactions: expected a list of 4, got"),
        ("scores", ["layers", "a", "interactions", 1, 0], 5.0, r"layer 'a': interactions are symmetric"),
        ("costs", ["rest"], 10**400, r"a damaged table of costs \(rest: expected a finite number, got 1000"),
        ("costs", ["dense", 0], 0, r"dense: expected seconds above 0, got 0"),
        ("costs", ["dense", 1], 1.5, r"dense: expected a whole number, 0 or more, got 1.5"),
        ("costs", ["layers", "plain", "groups"], 2, r"layer 'plain': \[0, 1, 2\] are no distinct heads in 2 key/value"),
        ("costs", ["layers", "plain", "costs", 0, 0], 3, r"layer 'plain': costs that are missing, or of shapes"),
        (
            "costs",
            ["layers", "plain", "costs", 0, 0],
            [],
            r"layer 'plain': expected a whole number, 0 or more, got \[\]",
        ),
        ("costs", ["whole_models", 0], [[1], 2.0], r"whole_models: expected a list of 5, got"),
        ("costs", ["environment"], [], r"environment: expected an object, got \[\]"),
        ("costs", ["ended"], None, r"ended: expected a string, got None"),
        ("plan", ["keep", "a"], {"0": 1}, r"layer 'a': expected a sequence of head numbers"),
        ("plan", ["version"], True, r"a plan in version True of its format; this release reads version 1"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, kind, where, value, message):
    damaged = document(kind, tmp_path)
    part = damaged
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    path = tmp_path / "it.json"
    path.write_text(json.dumps(damaged))
    with pytest.raises(ERRORS[kind], match=message):
        read(kind, path)


def test_scores_come_back_to_the_last_digit(tmp_path):
    scores = HeadScores({"a": torch.tensor([0.1, 1 / 3], dtype=torch.float64)}, errors={"a": torch.tensor([0.2, 0.7])})
    scores.to_json(tmp_path / "scores.json")
    assert HeadScores.from_json(tmp_path / "scores.json") == scores
    assert HeadScores({"a": [0.1]})["a"].item() == 0.1
