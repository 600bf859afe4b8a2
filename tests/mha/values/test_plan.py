"""Plans as values: what they refuse, that nothing changes them later, and that files bring them back."""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mha.values.errors import MhaError, PlanError, ScoresError
from mha.values.plan import HeadPlan, Lineage, lineage_of, set_lineage

NAN, INF = float("nan"), float("inf")
plans = st.dictionaries(st.text(max_size=7), st.lists(st.integers(0, 97), unique=True, max_size=11), max_size=5)


def test_a_plan_keeps_heads_sorted_in_the_order_of_its_layers():
    plan = HeadPlan({"decoder": [5, 0, 3], "encoder": (), "": range(2)})
    assert dict(plan.keep) == {"decoder": (0, 3, 5), "encoder": (), "": (0, 1)}
    assert list(plan.keep) == ["decoder", "encoder", ""]


@pytest.mark.parametrize("heads", [[2, 0], (2, 0), np.array([2, 0]).tolist(), torch.tensor([2, 0]), range(2, -1, -2)])
def test_a_plan_takes_any_sequence_of_integers(heads):
    plan = HeadPlan({"a": heads})
    assert plan.keep["a"] == (0, 2)
    assert all(type(head) is int for head in plan.keep["a"])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (None, "expected a mapping of layer name to heads, got NoneType"),
        ([("a", [0])], "expected a mapping .* got list"),
        ({3: [0]}, "layer names are strings, got 3"),
        ({"a": None}, r"layer 'a': expected a sequence of head numbers, got None; \(\) keeps no head"),
        ({"a": "01"}, "layer 'a': expected a sequence of head numbers, got '01'"),
        ({"a": b"01"}, "layer 'a': expected a sequence"),
        ({"a": 3}, "layer 'a': expected a sequence of head numbers, got 3"),
        ({"a": {0, 1}}, "layer 'a': expected a sequence of head numbers, got {0, 1}"),
        ({"a": [0, -1]}, r"layer 'a': heads are numbered from 0 by integers, got \[0, -1\]"),
        ({"a": [0.0]}, r"layer 'a': heads are numbered from 0 by integers, got \[0.0\]"),
        ({"a": [True, False]}, r"numbered from 0 by integers, got \[True, False\]"),
        ({"a": ["0"]}, r"numbered from 0 by integers, got \['0'\]"),
        ({"a": [None]}, r"numbered from 0 by integers, got \[None\]"),
        ({"a": [[0, 1]]}, r"numbered from 0 by integers, got \[\[0, 1\]\]"),
        ({"a": torch.tensor([0.5])}, "numbered from 0 by integers"),
        ({"a": torch.tensor([True])}, "numbered from 0 by integers"),
        ({"a": torch.tensor([[0, 1]])}, "numbered from 0 by integers"),
        ({"a": torch.tensor(0)}, "layer 'a': expected a sequence of head numbers"),
        ({"a": [0], "b": [2, 7, 2, 5, 5]}, r"layer 'b': heads \[2, 5\] are named more than once"),
    ],
)
def test_malformed_plans_are_refused(keep, message):
    with pytest.raises(PlanError, match=message):
        HeadPlan(keep)


def test_errors_are_the_librarys_own_and_the_familiar_kind():
    assert issubclass(PlanError, MhaError)
    assert issubclass(PlanError, ValueError)
    assert issubclass(ScoresError, ValueError)


def test_plans_are_equal_when_they_keep_the_same_heads():
    plan = HeadPlan({"a": [1, 0], "b": []})
    assert plan == HeadPlan({"b": (), "a": (0, 1)})
    assert hash(plan) == hash(HeadPlan({"b": (), "a": (0, 1)}))
    assert plan != HeadPlan({"a": (0, 1)})
    assert plan != HeadPlan({"a": (0, 2), "b": ()})
    assert plan != HeadPlan({})


def test_a_plan_equals_no_dictionary_but_holds_what_one_holds():
    plan, keep = HeadPlan({"a": [1, 0], "b": []}), {"a": (0, 1), "b": ()}
    assert plan != keep
    assert keep != plan
    assert plan.keep == keep
    assert dict(plan) == keep
    assert HeadPlan(plan) == plan


def test_a_plan_is_a_mapping_of_layers_to_heads():
    plan = HeadPlan({"b": [5, 0], "": (), "a": [2]})
    assert isinstance(plan, Mapping)
    assert (list(plan), len(plan)) == (["b", "", "a"], 3)
    assert list(plan.items()) == [("b", (0, 5)), ("", ()), ("a", (2,))]
    assert (list(plan.keys()), list(plan.values())) == (["b", "", "a"], [(0, 5), (), (2,)])
    assert (plan["a"], plan.get("c"), plan.get("", 1)) == ((2,), None, ())
    assert "" in plan
    assert "c" not in plan
    assert {**plan, "c": (1,)} == {"b": (0, 5), "": (), "a": (2,), "c": (1,)}
    with pytest.raises(KeyError, match="'c'"):
        plan["c"]
    with pytest.raises(TypeError, match="does not support item assignment"):
        plan["a"] = (0,)


def test_nothing_changes_a_plan_after_it_is_made():
    heads, keep = [0, 2], {}
    keep["a"] = heads
    plan = HeadPlan(keep)
    heads.append(5)
    keep["b"] = (1,)
    assert plan == HeadPlan({"a": (0, 2)})
    with pytest.raises(TypeError):
        plan.keep["a"] = (0,)
    with pytest.raises(AttributeError):
        plan.keep = {}
    with pytest.raises(AttributeError):
        plan.other = 1


def test_a_plan_prints_as_what_makes_it_again():
    plan = HeadPlan({"encoder.0": [3, 1], "": ()})
    assert repr(plan) == "HeadPlan({'encoder.0': (1, 3), '': ()})"
    assert eval(repr(plan)) == plan


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
def test_copies_of_a_plan_are_equal(again):
    plan = HeadPlan({"a": [2, 0], "b": ()})
    assert again(plan) == plan


def test_a_dataclass_that_holds_a_plan_hands_on_a_plan():
    @dataclass(frozen=True)
    class Holder:
        plan: HeadPlan

    holder = Holder(HeadPlan({"a": [1, 0]}))
    assert hash(holder) == hash(Holder(HeadPlan({"a": (0, 1)})))
    assert asdict(holder) == {"plan": holder.plan}
    assert type(asdict(holder)["plan"]) is HeadPlan


def test_a_plan_as_json(tmp_path):
    path = tmp_path / "plan.json"
    HeadPlan({"a": [2, 0], "b": ()}).to_json(path)
    assert json.loads(path.read_text()) == {"format": "mha.HeadPlan", "version": 1, "keep": {"a": [0, 2], "b": []}}
    assert HeadPlan.from_json(str(path)) == HeadPlan({"a": [0, 2], "b": ()})
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


@settings(deadline=None, max_examples=50)
@given(plans)
def test_a_plan_comes_back_from_its_file(tmp_path_factory, keep):
    path = tmp_path_factory.getbasetemp() / "plan.json"
    plan = HeadPlan(keep)
    plan.to_json(path)
    back = HeadPlan.from_json(path)
    assert back == plan
    assert {name: sorted(heads) for name, heads in keep.items()} == {n: list(heads) for n, heads in back.keep.items()}


def test_every_cut_off_file_is_refused(tmp_path):
    path = tmp_path / "plan.json"
    HeadPlan({"a": [2, 0], "b": ()}).to_json(path)
    whole = path.read_text().rstrip()
    for length in range(len(whole)):
        path.write_text(whole[:length])
        with pytest.raises(PlanError, match=r"plan\.json: not a plan, or cut off in the middle"):
            HeadPlan.from_json(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r'not a plan: expected a JSON object with "format": "mha.HeadPlan"'),
        ('{"keep": {"a": [0]}}', "not a plan: expected a JSON object"),
        ('{"format": "another"}', "not a plan: expected a JSON object"),
        (
            '{"format": "mha.HeadPlan", "version": 2, "keep": {}}',
            "a plan in version 2 of its format; this release reads",
        ),
        ('{"format": "mha.HeadPlan", "keep": {}}', "a plan in version None of its format"),
        ('{"format": "mha.HeadPlan", "version": 1}', "expected a mapping of layer name to heads, got NoneType"),
        ('{"format": "mha.HeadPlan", "version": 1, "keep": [0]}', "expected a mapping"),
        ('{"format": "mha.HeadPlan", "version": 1, "keep": {"a": null}}', "layer 'a': expected a sequence"),
        ('{"format": "mha.HeadPlan", "version": 1, "keep": {"a": [0, 0]}}', "layer 'a': heads .0. are named more"),
    ],
)
def test_foreign_files_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=message) as caught:
        HeadPlan.from_json(path)
    assert str(path) in str(caught.value)


def test_binary_files_are_refused(tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(PlanError, match="not a plan"):
        HeadPlan.from_json(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    old = HeadPlan({"a": [0]})
    old.to_json(path)

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        HeadPlan({"a": [1]}).to_json(path)
    assert HeadPlan.from_json(path) == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_lineage_travels_with_a_copy_of_the_module():
    module = torch.nn.Identity()
    assert lineage_of(module) is None
    lineage = Lineage(heads=(0, 3), total_heads=5, groups=(0, 1), total_groups=2)
    set_lineage(module, lineage)
    assert lineage_of(copy.deepcopy(module)) == lineage
