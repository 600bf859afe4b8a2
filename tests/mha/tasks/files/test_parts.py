"""Rows by part: divided, drawn, complete, and kept apart."""

import json
import re

import pytest

pytest.importorskip("datasets", reason="datasets is not installed")

from mha.tasks.files.parts import keep_apart, read_parts
from mha.tasks.files.settings import read_settings
from mha.values.errors import OverlapWarning, TaskError

COLUMNS = {"text": ("text", "sentence"), "pair": ("pair",), "label": ("label", "class")}


@pytest.fixture
def read(tmp_path):
    """Write parts as JSON lines and a task's file, and read the parts; the settings are returned as well."""

    def read(parts, more="", top=""):
        for part, rows in parts.items():
            (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        names = "" if "all" in parts else "".join(f'{part} = "{part}.jsonl"\n' for part in parts)
        (tmp_path / "task.toml").write_text(f'kind = "k"\n{top}\n[data]\n{names}{more}')
        settings = read_settings(tmp_path / "task.toml")
        return read_parts(settings, COLUMNS, frozenset({"pair"}), frozenset({"label"})), settings

    return read


def rows(start, count, **more):
    return [
        {"sentence": f"text number {number}", "class": number % 2, **more} for number in range(start, start + count)
    ]


PARTS = {"calibration": rows(0, 5), "evaluation": rows(10, 7)}


def test_columns_are_found_by_their_usual_names(read):
    parts, _ = read({**PARTS, "unlabelled": [{"text": "another", "note": 3}]})
    assert parts["calibration"] == [{"text": f"text number {number}", "label": number % 2} for number in range(5)]
    assert [len(some) for some in parts.values()] == [5, 7, 1]
    assert parts["unlabelled"] == [{"text": "another"}]


def test_labels_that_unlabelled_rows_lack_are_left_out(read):
    parts, _ = read({**PARTS, "unlabelled": [*rows(30, 3), {"sentence": "another", "class": None}]})
    assert [row["text"] for row in parts["unlabelled"]][2:] == ["text number 32", "another"]
    assert not any("label" in row for row in parts["unlabelled"])


def test_columns_that_the_file_names(read):
    parts, _ = read({part: rows(start, 3, note="n") for start, part in ((0, "calibration"), (9, "evaluation"))},
                    '[columns]\ntext = "note"\npair = "sentence"')  # fmt: skip
    assert parts["evaluation"][0] == {"text": "n", "pair": "text number 9", "label": 1}


def test_one_file_is_divided_by_shares(read):
    more = 'file = "all.jsonl"\nsplit = { calibration = 0.3, evaluation = 0.5, unlabelled = 0.2 }\n'
    parts, _ = read({"all": rows(0, 20)}, more)
    assert {part: len(some) for part, some in parts.items()} == {"calibration": 6, "evaluation": 10, "unlabelled": 4}
    assert sorted(row["text"] for some in parts.values() for row in some) == sorted(
        row["sentence"] for row in rows(0, 20)
    )
    assert parts == read({"all": rows(0, 20)}, more)[0]
    assert parts != read({"all": rows(0, 20)}, more, "seed = 1")[0]


def test_rows_know_where_they_stand_in_their_file_however_they_are_divided_and_drawn(read):
    more = 'file = "all.jsonl"\nsplit = { calibration = 0.3, evaluation = 0.7 }\n[limits]\nevaluation = 5\n'
    parts, _ = read({"all": [rows(0, 1)[0], {"sentence": " ", "class": None}, *rows(2, 18)]}, more)
    assert [len(some) for some in parts.values()] == [6, 5]
    for row in (row for some in parts.values() for row in some):
        assert row.where == f"row {int(row['text'].split()[-1]) + 1} of all.jsonl"  # the empty one counts


def test_limits_draw_rows_in_their_order(read):
    parts, _ = read(PARTS, "[limits]\nevaluation = 4")
    numbers = [int(row["text"].split()[-1]) for row in parts["evaluation"]]
    assert len(numbers) == 4
    assert numbers == sorted(numbers) != [10, 11, 12, 13]
    assert len(parts["calibration"]) == 5


@pytest.mark.parametrize(
    ("parts", "more", "message"),
    [
        (
            PARTS,
            '[columns]\ntext = "sentense"',
            "[columns] text: unknown column of calibration.jsonl 'sentense'; did you mean 'sentence'?",
        ),
        (PARTS, '[columns]\npair = "pairs"', "[columns] pair: unknown column of calibration.jsonl 'pairs'"),
        (PARTS, '[columns]\ntexts = "sentence"', "[columns] unknown key 'texts'; did you mean 'text'?"),
        (
            {**PARTS, "evaluation": [{"words": "a", "class": 1}]},
            "",
            "no column of evaluation.jsonl is named as text usually is (text, sentence); say which it is under [col",
        ),
        (
            {**PARTS, "evaluation": rows(10, 7, pair="another")},
            "",
            "evaluation has a column for pair, and calibration has none; examples of all parts must be alike",
        ),
        ({**PARTS, "evaluation": []}, "", "evaluation is empty: "),
        (
            {**PARTS, "evaluation": [*rows(0, 2), {"sentence": " ", "class": 1}]},
            "",
            "1 rows of evaluation lack something, first row 3 of evaluation.jsonl: its text is empty",
        ),
        (
            {**PARTS, "evaluation": [*rows(0, 2), {"sentence": "a"}]},
            "",
            "first row 3 of evaluation.jsonl: its label is empty",
        ),
        (
            {"all": rows(0, 2)},
            'file = "all.jsonl"\nsplit = { calibration = 0.1, evaluation = 0.9 }',
            "calibration is empty: ",
        ),
    ],
)
def test_what_is_wrong(read, parts, more, message):
    with pytest.raises(TaskError, match=re.escape(message)):
        read(parts, more)


def content(row):
    return row["text"]


def test_parts_that_share_examples(read):
    parts, settings = read({"calibration": [*rows(0, 3), *rows(12, 2)], "evaluation": rows(10, 7)})
    message = """2 of the 5 rows of calibration are copies, or nearly, of others (row 4 of calibration.jsonl ("text \
number 12") is evaluation's row 3 of evaluation.jsonl, row 5 of calibration.jsonl ("text number 13") is evaluation's \
row 4 of evaluation.jsonl)"""
    with pytest.raises(TaskError, match=re.escape(message) + '.*or write overlap = "drop"'):
        keep_apart(settings, parts, content)


def test_shared_examples_are_dropped_where_the_file_says_so(read):
    given = {
        "calibration": rows(0, 13),
        "evaluation": rows(10, 7),
        "unlabelled": [{"text": f"text number {number}"} for number in (2, 99, 11)],
    }
    parts, settings = read(given, top='overlap = "drop"')
    with pytest.warns(OverlapWarning, match="dropped 3 rows of calibration, 2 rows of unlabelled, which stand in"):
        assert keep_apart(settings, parts, content) == {"calibration": 3, "unlabelled": 2}
    assert [row["text"] for row in parts["unlabelled"]] == ["text number 99"]
    assert {part: len(some) for part, some in parts.items()} == {"calibration": 10, "evaluation": 7, "unlabelled": 1}


def test_all_further_texts_may_be_dropped(read):
    parts, settings = read({**PARTS, "unlabelled": [{"text": "Text number 3!"}]}, top='overlap = "drop"')
    with pytest.warns(OverlapWarning, match="dropped 1 rows of unlabelled"):
        assert keep_apart(settings, parts, content) == {"unlabelled": 1}
    assert list(parts) == ["calibration", "evaluation"]


def test_nothing_is_left_once_copies_are_dropped(read):
    parts, settings = read({"calibration": rows(11, 2), "evaluation": rows(10, 7)}, top='overlap = "drop"')
    with pytest.raises(TaskError, match="calibration is empty once what evaluation has too is dropped"):
        keep_apart(settings, parts, content)
