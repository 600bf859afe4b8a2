"""Copies and near copies are found, and texts that only share their phrases are none."""

import random

import pytest

from mha.tasks.files.near_copies import Known, shingles, words_of

STORY = (
    "The harbour was quiet when the last ferry left, and Anna counted the lamps along the pier as she had done every "
    "evening since the spring of the flood."
)
OTHER = (
    "Nobody in the village remembers who built the mill, but everyone can tell you the year in which it burned down."
)
LONG = " ".join(f"word{random.Random(1).random()} {number}" for number in range(300))


def drawn(seed, count):
    return " ".join(str(random.Random(seed + place).randrange(10**6)) for place in range(count))


@pytest.mark.parametrize(
    "text",
    [
        STORY,
        STORY.upper().replace(",", " -").replace(" ", "\n"),
        "First of all: " + STORY,
        STORY.replace("Anna", "Berta"),
        STORY[:100],
        f"{drawn(1, 70)} {STORY} {drawn(2, 70)}",
    ],
    ids=["the same", "written otherwise", "with a beginning", "a word changed", "its first half", "within a long text"],
)
def test_copies_of_a_story(text):
    assert Known([OTHER, STORY]).copied_by(text) == 1


@pytest.mark.parametrize(
    "text",
    ["", OTHER, "Anna counted the lamps along the pier.", drawn(3, 200), "The last ferry left " + drawn(4, 40)],
    ids=["nothing", "another", "a short quotation", "a long one", "a phrase"],
)
def test_other_texts(text):
    assert Known([STORY]).copied_by(text) is None


def test_a_piece_of_a_long_text_is_a_copy():
    long = drawn(5, 400)
    assert Known([STORY, long]).copied_by(" ".join(long.split()[150:190])) == 1
    assert Known([STORY, long]).copied_by(f"{drawn(900, 30)} {' '.join(long.split()[200:330])}") == 1


def test_short_texts_are_copies_where_they_are_equal():
    known = Known(["good film", "Row 5 of the table", "!!!"])
    assert known.copied_by("Good film!") == 0
    assert known.copied_by("good film indeed") is None
    assert known.copied_by("Row 6 of the table") is None
    assert known.copied_by("???") is None
    assert known.copied_by("!!!") == 2


def test_a_template_makes_no_copies():
    template = "Read the following review and say whether the author liked the film that it is about: {}"
    known = Known([template.format(drawn(10 * number, 6)) for number in range(20)])
    assert known.copied_by(template.format(drawn(7000, 6))) is None
    assert known.copied_by(template.format(drawn(30, 6))) == 3


def test_shingles_are_words_in_a_row():
    words = words_of("One, two; THREE-four five 6")
    assert words == ["one", "two", "three", "four", "five", "6"]
    assert shingles(words) == {hash("one two three four five"), hash("two three four five 6")}
    assert shingles(words[:4]) == set()
