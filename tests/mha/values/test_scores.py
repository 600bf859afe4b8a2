"""Scores as values: what they refuse, that nothing changes them later, and that those of shards add."""

import copy
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mha
from mha.values.errors import ScoresError
from mha.values.plan import HeadScores, Spent

NAN, INF = float("nan"), float("inf")


def test_scores_are_float64_on_the_cpu():
    scores = HeadScores({"a": torch.tensor([1, 2, 3]), "b": torch.tensor([0.5], dtype=torch.bfloat16)})
    assert {row.dtype for row in scores.scores.values()} == {torch.float64}
    assert {name: row.tolist() for name, row in scores.scores.items()} == {"a": [1.0, 2.0, 3.0], "b": [0.5]}
    assert scores.num_heads == 4


def test_scores_are_a_mapping_of_layers_to_tensors():
    scores = HeadScores({"b": torch.tensor([1.0, 2.0]), "a": [3.0], "gone": []})
    assert isinstance(scores, Mapping)
    assert (list(scores), len(scores), scores.num_heads) == (["b", "a", "gone"], 3, 3)
    assert {name: row.tolist() for name, row in scores.items()} == {"b": [1.0, 2.0], "a": [3.0], "gone": []}
    assert scores["b"] is scores.scores["b"]
    assert "a" in scores
    assert scores.get("c") is None
    assert scores != dict(scores)
    with pytest.raises(KeyError, match="'c'"):
        scores["c"]


def test_groups_and_heads_default_to_plain_attention():
    scores = HeadScores({"a": torch.ones(6), "b": torch.ones(3)}, {"a": 2}, heads={"b": [0, 4, 7]})
    assert dict(scores.groups) == {"a": 2, "b": 3}
    assert dict(scores.heads) == {"a": (0, 1, 2, 3, 4, 5), "b": (0, 4, 7)}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([None], {}, "expected a mapping of layer name to scores, got NoneType"),
        ([HeadScores({"a": [1.0]}, heads={"a": [7]})], {}, "expected a mapping .* got HeadScores"),
        ([{7: torch.ones(3)}], {}, "layer names are strings, got 7"),
        ([{"a": torch.ones(3, 1)}], {}, r"layer 'a': expected one score per head, shape \(h,\), got \(3, 1\)"),
        ([{"a": torch.tensor(1.0)}], {}, r"layer 'a': expected one score per head, shape \(h,\), got \(\)"),
        ([{"a": torch.tensor([0, NAN, 1, INF])}], {}, r"layer 'a': the scores of heads \[1, 3\] are NaN or infinite"),
        ([{"a": torch.tensor([-INF])}], {}, r"heads \[0\] are NaN or infinite"),
        ([{"a": torch.tensor([0, NAN])}], {"heads": {"a": [3, 5]}}, r"heads \[5\] are NaN or infinite"),
        ([{"a": torch.ones(6)}, {"a": 4}], {}, "layer 'a': 6 heads do not divide into 4 key/value groups"),
        ([{"a": torch.ones(6)}, {"a": 0}], {}, "layer 'a': 6 heads do not divide into 0 key/value groups"),
        ([{"a": torch.ones(6)}, {"a": -2}], {}, "layer 'a': 6 heads do not divide into -2"),
        ([{"a": torch.ones(0)}, {"a": 1}], {}, "layer 'a': 0 heads do not divide into 1"),
        ([{"a": torch.ones(3)}, {"b": 1}], {}, r"groups names layers without scores: \['b'\]"),
        ([{"a": torch.ones(3)}], {"heads": {"b": [0]}}, r"heads names layers without scores: \['b'\]"),
        ([{"a": torch.ones(3)}], {"heads": {"a": [0, 1]}}, r"layer 'a': 3 scores need 3 distinct head numbers, got"),
        ([{"a": torch.ones(3)}], {"heads": {"a": [0, 1, 1]}}, r"3 distinct head numbers, got \[0, 1, 1\]"),
        ([{"a": torch.ones(3)}], {"heads": {"a": [0, 1, 2.5]}}, r"3 distinct head numbers, got \[0, 1, 2.5\]"),
        ([{"a": torch.ones(3)}], {"heads": {"a": [0, 1, -1]}}, r"3 distinct head numbers, got \[0, 1, -1\]"),
        ([{"a": torch.ones(6)}, {"a": "2"}], {}, "layer 'a': 6 heads do not divide into '2' key/value groups"),
        ([{"a": ["x"]}], {}, r"layer 'a': expected a tensor of numbers, got list"),
        ([{"a": [[1.0], [1.0, 2.0]]}], {}, r"layer 'a': expected a tensor of numbers, got list"),
        ([{"a": [10**400]}], {}, r"layer 'a': expected a tensor of numbers, got list"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(arguments, options, message):
    with pytest.raises(ScoresError, match=message):
        HeadScores(*arguments, **options)


def test_nothing_changes_scores_after_they_are_made():
    row, groups, ids = torch.tensor([1.0, 2.0], dtype=torch.float64), {"a": 2}, [0, 3]
    given = {"a": row}
    scores = HeadScores(given, groups, heads={"a": ids})
    row[0] = 97.0
    given["b"] = row
    groups["a"] = 1
    ids[0] = 1
    assert {name: values.tolist() for name, values in scores.scores.items()} == {"a": [1.0, 2.0]}
    assert dict(scores.groups) == {"a": 2}
    assert dict(scores.heads) == {"a": (0, 3)}
    with pytest.raises(TypeError):
        scores.scores["a"] = row
    with pytest.raises(AttributeError):
        scores.scores = {}


def test_scores_let_go_of_the_graph():
    row = torch.ones(3, requires_grad=True)
    assert not HeadScores({"a": row * 2}).scores["a"].requires_grad


def test_scores_are_equal_by_value():
    scores = HeadScores({"a": torch.ones(6)}, {"a": 2})
    assert scores == HeadScores({"a": torch.ones(6, dtype=torch.float16)}, {"a": 2})
    assert scores != HeadScores({"a": torch.ones(6)})
    assert scores != HeadScores({"a": torch.zeros(6)}, {"a": 2})
    assert scores != HeadScores({"b": torch.ones(6)}, {"b": 2})
    assert scores != HeadScores({"a": torch.ones(6)}, {"a": 2}, heads={"a": range(1, 7)})
    assert scores != HeadScores({"a": torch.ones(6), "b": torch.ones(1)}, {"a": 2})
    assert scores != 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(scores)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
def test_copies_of_scores_are_equal(again):
    scores = HeadScores({"a": torch.rand(6)}, {"a": 2}, heads={"a": [0, 1, 3, 4, 7, 8]})
    assert again(scores) == scores


def test_scores_print_themselves():
    assert repr(HeadScores({"a": torch.tensor([0.5, 2.0])})) == "HeadScores({'a': [0.5, 2.0]})"


def test_scores_as_a_frame():
    scores = HeadScores({"b": torch.tensor([0.25, -0.5]), "a": torch.tensor([1.0]), "gone": []}, heads={"b": [2, 7]})
    frame = scores.to_frame()
    assert list(frame.columns) == ["layer", "head", "score"]
    assert [tuple(row) for row in frame.itertuples(index=False)] == [("b", 2, 0.25), ("b", 7, -0.5), ("a", 0, 1.0)]
    assert (frame["head"].dtype.kind, frame["score"].dtype.kind) == ("i", "f")


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(max_size=7), st.lists(st.floats(-1e9, 1e9), max_size=11), max_size=5))
def test_a_frame_holds_every_score(rows):
    frame = HeadScores({name: torch.tensor(row, dtype=torch.float64) for name, row in rows.items()}).to_frame()
    expected = [(name, head, value) for name, row in rows.items() for head, value in enumerate(row)]
    assert [tuple(row) for row in frame.itertuples(index=False)] == expected


FULL = {
    "groups": {"a": 2},
    "heads": {"a": [0, 1, 4, 5]},
    "examples": 13,
    "interactions": {"a": torch.eye(4)},
    "errors": {"a": torch.ones(4)},
    "comparable": False,
    "spent": Spent(3, 2, 1.5),
}


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
def test_copies_hold_what_scores_know_beside_the_numbers(again):
    scores = again(HeadScores({"a": torch.arange(4)}, **FULL))
    assert scores == HeadScores({"a": torch.arange(4)}, **FULL)
    assert (scores.examples, scores.spent, dict(scores.groups)) == (13, Spent(3, 2, 1.5), {"a": 2})
    assert torch.equal(scores.interactions["a"], torch.eye(4, dtype=torch.float64))
    assert torch.equal(scores.errors["a"], torch.ones(4, dtype=torch.float64))
    assert repr(scores) == "HeadScores({'a': [0.0, 1.0, 2.0, 3.0]}, examples=13, comparable=False)"


def test_scores_are_equal_whatever_they_took_but_not_whatever_they_say():
    scores = HeadScores({"a": torch.arange(4)}, **FULL)
    assert scores == HeadScores({"a": torch.arange(4)}, **{**FULL, "spent": None})
    for name, other in (
        ("examples", 14),
        ("examples", None),
        ("interactions", None),
        ("interactions", {"a": torch.ones(4, 4)}),
        ("errors", None),
        ("errors", {"a": torch.zeros(4)}),
        ("comparable", True),
    ):
        assert scores != HeadScores({"a": torch.arange(4)}, **{**FULL, name: other})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 0}, "examples is how many examples .* 1 or more, got 0"),
        ({"examples": 2.5}, "1 or more, got 2.5"),
        ({"interactions": {"b": torch.eye(3)}}, r"interactions names layers without scores: \['b'\]"),
        ({"interactions": {"a": torch.ones(3)}}, r"layer 'a': interactions of 3 heads are .* of shape \(3, 3\), got"),
        ({"interactions": {}}, "layer 'a' has scores but no interactions; give those of every layer, or none"),
        (
            {"errors": {"a": torch.tensor([1.0, -1.0, 0.0])}},
            r"layer 'a': standard errors are not negative, got \[1.0, -",
        ),
        (
            {"interactions": {"a": torch.arange(9.0).view(3, 3)}},
            r"layer 'a': interactions are symmetric, what heads i and j cost together",
        ),
        ({"errors": {"a": torch.tensor([1.0, NAN, 0.0])}}, r"errors of 3 heads .*got shape \(3,\) with NaN"),
    ],
)
def test_what_contradicts_the_scores_is_refused(options, message):
    with pytest.raises(ScoresError, match=message):
        HeadScores({"a": torch.ones(3)}, **options)


def test_scores_add_as_means_over_examples_do():
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(17, 3, generator=generator, dtype=torch.float64)
    blocks = values.unsqueeze(2) * values.unsqueeze(1)

    def scores(rows):
        spent = Spent(len(rows), 1, 0.5)
        interactions = {"a": blocks[rows].mean(0)}
        return HeadScores({"a": values[rows].mean(0)}, examples=len(rows), interactions=interactions, spent=spent)

    parts = [scores(list(rows)) for rows in (range(2), range(2, 13), range(13, 17))]
    whole, total = scores(list(range(17))), parts[0] + parts[1] + parts[2]
    torch.testing.assert_close(total.scores["a"], whole.scores["a"], rtol=0, atol=1e-12)
    torch.testing.assert_close(total.interactions["a"], whole.interactions["a"], rtol=0, atol=1e-12)
    assert (total.examples, total.spent) == (17, Spent(17, 3, 1.5))


def test_scores_that_do_not_add_say_why():
    scores = HeadScores({"a": torch.ones(4), "b": torch.ones(3)}, examples=7)
    with pytest.raises(ScoresError, match="only scores that are means over examples add, and these are not"):
        scores + HeadScores({"a": torch.ones(4), "b": torch.ones(3)})
    for other in (
        HeadScores({"a": torch.ones(4), "b": torch.ones(2)}, examples=7),
        HeadScores({"a": torch.ones(4), "b": torch.ones(3)}, {"b": 1}, examples=7),
        HeadScores({"a": torch.ones(4)}, examples=7),
    ):
        with pytest.raises(ScoresError, match=r"scores of different heads do not add: they differ in .*\['b'\]"):
            scores + other
    with pytest.raises(TypeError, match="unsupported operand"):
        scores + 1


ADDITIVE = {
    "leave_one_out": {},
    "taylor": {},
    "taylor_signed": {},
    "taylor_second_order": {},
    "fisher": {},
    "confidence": {},
    "entropy": {},
}


@pytest.mark.parametrize("criterion", ADDITIVE)
def test_scores_of_shards_add_up_to_those_of_the_whole(model, batches, loss, criterion):
    """The shards have 14 and 5 examples."""
    whole, first, second = (mha.score(model, part, loss, criterion) for part in (batches, batches[:2], batches[2:]))
    total = first + second
    assert (first.examples, second.examples, total.examples) == (14, 5, whole.examples)
    for name, row in whole.scores.items():
        torch.testing.assert_close(total.scores[name], row, rtol=0, atol=1e-12)


def test_scores_that_are_estimates_have_their_error_in_the_frame():
    frame = HeadScores({"a": torch.ones(2), "b": torch.ones(1)}, errors={"a": [0.5, 0.25], "b": [3.0]}).to_frame()
    assert list(frame.columns) == ["layer", "head", "score", "error"]
    assert frame["error"].tolist() == [0.5, 0.25, 3.0]


def test_scores_of_many_heads_print_as_a_table_of_layers():
    rows = {f"layer.{layer}": torch.arange(12.0) - 3 for layer in range(12)} | {"gone": torch.zeros(0)}
    printed = repr(HeadScores(rows, examples=7, comparable=False)).splitlines()
    assert printed[0] == "HeadScores of 144 heads in 13 layers, examples=7, comparable=False:"
    assert printed[1] == "  'layer.0': -3 (head 0) to 8 (head 11), 12 heads"
    assert printed[5:7] == ["  … 5 more layers …", "  'layer.9': -3 (head 0) to 8 (head 11), 12 heads"]
    assert printed[-1] == "  'gone': no heads"
    assert len(printed) == 10


def test_scores_that_rank_heads_within_their_layer_say_so():
    apart, together = (HeadScores({"a": torch.ones(2)}, examples=3, comparable=known) for known in (False, True))
    assert repr(apart) == "HeadScores({'a': [1.0, 1.0]}, examples=3, comparable=False)"
    assert apart != together
    assert [(first + second).comparable for first, second in ((apart, together), (together, apart))] == [False, False]
    assert (together + together).comparable
    assert not copy.deepcopy(apart).comparable
