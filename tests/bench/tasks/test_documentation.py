"""Docstrings as text: what is evaluated shares no file with anything else, and next to no words."""

import inspect
import json

import pytest

from bench.tasks import sentences, smollm
from bench.tasks._documentation import apart, docstrings, parts, shingles

FEW = ("python",)
LIMITS = {"evaluation": 300, "calibration": 100, "unlabelled": 200}


def words_in_a_row(text):
    """Every five words in a row, found without hashes."""
    words = "".join(letter if letter.isalpha() else " " for letter in text.lower()).split()
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def repeated(texts, others):
    """The largest share of any text's five words in a row that occur in the other texts."""
    known = set().union(*map(words_in_a_row, others))
    return max(len(words_in_a_row(text) & known) / len(words_in_a_row(text)) for text in texts)


@pytest.fixture(scope="module")
def pairs():
    return sentences.split_pairs(docstrings(FEW), LIMITS)


def test_docstrings_are_those_that_python_sees():
    found = {text for file, text in docstrings(FEW) if file == "python/json/__init__.py"}
    assert {inspect.getdoc(json), inspect.getdoc(json.dumps), inspect.getdoc(json.loads)} <= found


def test_tests_are_left_out_and_sources_are_not_imported():
    files = {file for file, _ in docstrings(FEW)}
    assert len(files) > 300
    assert not any("/test" in file or "site-packages" in file for file in files)


@pytest.mark.parametrize("part", ["calibration", "unlabelled"])
def test_pairs_of_two_parts_share_no_file_and_few_words(pairs, part):
    evaluation = pairs["evaluation"]
    assert {pair.file for pair in evaluation} & {pair.file for pair in pairs[part]} == set()
    texts = [[f"{pair.summary} {pair.text}" for pair in some] for some in (pairs[part], evaluation)]
    assert len(texts[0]) == LIMITS[part]
    assert repeated(*texts) <= 0.2


def test_calibration_and_unlabelled_pairs_share_no_file_and_few_words(pairs):
    texts = [[f"{pair.summary} {pair.text}" for pair in pairs[part]] for part in ("unlabelled", "calibration")]
    assert {pair.file for pair in pairs["calibration"]} & {pair.file for pair in pairs["unlabelled"]} == set()
    assert repeated(*texts) <= 0.2


def test_no_evaluation_pair_repeats_an_earlier_one(pairs):
    texts = [f"{pair.summary} {pair.text}" for pair in pairs["evaluation"]]
    assert len(set(texts)) == len(texts) == LIMITS["evaluation"]
    assert all(
        repeated([text], texts[:number]) <= 0.2 for number, text in enumerate(texts) if number in range(1, 300, 29)
    )


def test_texts_of_smollm_share_few_words():
    texts = smollm.split_texts()
    assert repeated(texts["calibration"], texts["evaluation"]) <= 0.2
    assert repeated(texts["unlabelled"], texts["evaluation"] + texts["calibration"]) <= 0.2


def test_parts_are_divided_by_file_and_the_same_every_time():
    items = [(f"file {number % 31}", number) for number in range(310)]
    shares = {"one": 0.25, "other": 0.75}
    divided = parts(items, lambda item: item[0], shares)
    assert sorted(divided["one"] + divided["other"]) == sorted(items)
    assert {file for file, _ in divided["one"]} & {file for file, _ in divided["other"]} == set()
    assert divided == parts(items, lambda item: item[0], shares)
    assert divided["one"] != sorted(divided["one"])


def test_what_repeats_is_left_out():
    text = "one two three four five six seven eight nine ten"
    seen = shingles(text)
    assert len(seen) == 6
    assert apart(["one two three four five six seven", "a b c d e f", "too short", "a b c d e f"], seen) == [1]
    assert apart(["A, b; c: d -- e 1 f!"], set()) == [0]


def test_a_pair_is_the_summary_and_the_prose_below_it():
    of = sentences.pair_of
    text = "This is the summary of it.\n\n" + "word " * 12 + "\n\nParameters\n----------\nx: what is left out"
    pair = of(sentences.Docstring("file", text))
    assert pair == ("file", "This is the summary of it.", " ".join(["word"] * 12))
    assert of(sentences.Docstring("file", "This is the summary of it.\n\n" + "word " * 11)) is None
    assert of(sentences.Docstring("file", "Too short.\n\n" + "word " * 12)) is None
    assert of(sentences.Docstring("file", "This is the summary of it.")) is None


def test_a_file_that_is_no_python_has_no_docstrings(tmp_path):
    from bench.tasks import _documentation

    (tmp_path / "broken.py").write_text("def")
    (tmp_path / "fine.py").write_text('"""Of the module."""\ndef f():\n    """Of f."""\n    def g():\n        "Of g."')
    assert [*_documentation._read("mine", tmp_path)] == [("mine/fine.py", "Of the module."), ("mine/fine.py", "Of f.")]


def test_a_package_that_is_missing_is_named():
    with pytest.raises(ModuleNotFoundError, match="no package 'no_such_package' to read docstrings of: pip install"):
        docstrings(["no_such_package"])
