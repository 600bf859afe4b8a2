"""The task `dates`: what is written means the day it was written for, and the model is judged as it decodes."""

import random
import re
from datetime import date, timedelta
from itertools import islice

import numpy as np
import pytest
import torch

from bench.tasks import dates
from bench.tasks._dates_model import DatesSettings, DateTranslator, translate
from bench.tasks._dates_text import FORMATS, LETTER_CASES, Written, render, split_days
from bench.tasks._training import train
from bench.tasks.dates import Batch, Dates
from mha.layer.attention import MultiHeadAttention

TINY = DatesSettings(
    width=11,
    num_heads=3,
    head_dim=5,
    feed_forward=13,
    encoder_layers=2,
    decoder_layers=1,
    training_batch=7,
    calibration_batches=3,
    calibration_batch=17,
    evaluation_examples=46,
    evaluation_batch=23,
)
DAY = date(1987, 3, 3)

UNITS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fourteenth": 14, "fifteenth": 15, "sixteenth": 16,
    "seventeenth": 17, "eighteenth": 18, "nineteenth": 19, "twentieth": 20, "thirtieth": 30,
}  # fmt: skip
TENS = {None: 0, "twenty": 20, "thirty": 30}
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
ROMAN = {"i": 1, "v": 5, "x": 10}


def read(text: str) -> date:
    """The day a text means, found out without a look at the formats; the weekday, if any, must be right."""
    text = text.lower()
    if numeric := re.fullmatch(r"(\d{4})([/.]?)(\d\d)\2(\d\d)", text):
        return date(int(numeric[1]), int(numeric[3]), int(numeric[4]))
    year = re.search(r"\d{4}", text)
    rest = text.replace(year[0], " ")
    name, roman = re.search("|".join(MONTHS), rest), re.search(r"\b[ivx]+\b", rest)
    month = MONTHS.index(name[0]) + 1 if name else from_roman(roman[0])
    number, word = re.search(r"\d+", rest), re.search(rf"(?:(twenty|thirty)-)?\b({'|'.join(UNITS)})\b", rest)
    day = date(int(year[0]), month, int(number[0]) if number else TENS[word[1]] + UNITS[word[2]])
    weekday = re.search(rf"\b({'|'.join(WEEKDAYS)})", rest)
    assert weekday is None or WEEKDAYS.index(weekday[0]) == day.weekday()
    return day


def from_roman(numeral: str) -> int:
    values = [ROMAN[letter] for letter in numeral]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))


def texts_of(batch: Batch) -> list[str]:
    rows = zip(batch.source.tolist(), batch.source_lens.tolist(), strict=True)
    return ["".join(dates.SOURCE[number] for number in row[:length]) for row, length in rows]


def answers_of(batch: Batch) -> list[str]:
    return ["".join(dates.TARGET[number] for number in row) for row in batch.target.tolist()]


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def tiny() -> Dates:
    return Dates(TINY)


@pytest.fixture
def model(tiny: Dates) -> DateTranslator:
    return tiny.build().eval()


@pytest.mark.parametrize("form", FORMATS)
def test_a_text_means_the_day_it_was_written_for(form: str) -> None:
    sample = random.Random(form).sample(dates.task.days.training, 97)
    for day in [*sample, *(date(2004, 2, 1) + timedelta(days=n) for n in range(31))]:
        for case in LETTER_CASES:
            text = case(render(day, form))
            assert read(text) == day, text


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("{month} {nth}, {year}", "March 3rd, 1987"),
        ("the {ordinal} of {month}, {year}", "the third of March, 1987"),
        ("{weekday}, {d} {month} {year}", "Tuesday, 3 March 1987"),
        ("{wday}, {dd} {mon} {year}", "Tue, 03 Mar 1987"),
        ("{d}.{roman}.{year}", "3.III.1987"),
        ("{year}/{mm}/{dd}", "1987/03/03"),
    ],
)
def test_formats_by_hand(form: str, text: str) -> None:
    assert form in FORMATS
    assert render(DAY, form) == text


def test_ordinal_suffixes() -> None:
    nths = " ".join(render(date(2004, 1, n), "{nth}") for n in (1, 2, 3, 4, 11, 12, 13, 20, 21, 22, 23, 30, 31))
    assert nths == "1st 2nd 3rd 4th 11th 12th 13th 20th 21st 22nd 23rd 30th 31st"


def test_no_day_is_used_twice() -> None:
    days = dates.task.days
    everything = [*days.training, *days.calibration, *days.evaluation]
    assert len(set(everything)) == len(everything) == (date(2100, 1, 1) - date(1900, 1, 1)).days
    assert len(days.calibration) == 16 * 32
    assert len(days.evaluation) == 1500


def test_batches_stay_on_their_side_of_the_split() -> None:
    task, days = dates.task, dates.task.days
    sides = {
        "training": list(islice(task.training(), 37)),
        "calibration": task.calibration(),
        "evaluation": task.evaluation,
    }
    for use, batches in sides.items():
        answers = {answer for batch in batches for answer in answers_of(batch)}
        assert answers
        assert answers <= {day.isoformat() for day in getattr(days, use)}, use


def test_batches_hold_the_texts_of_their_answers(tiny: Dates) -> None:
    for batch in [*islice(tiny.training(), 17), *tiny.calibration(), *tiny.evaluation]:
        assert [read(text).isoformat() for text in texts_of(batch)] == answers_of(batch)
        assert torch.equal(batch.target_in[:, 1:], batch.target[:, :-1])
        assert set(batch.target_in[:, 0].tolist()) == {dates.TARGET.index(dates.BEGIN)}


def test_a_split_that_leaves_no_training_day_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2001 to 2001 have 365 days.* take 365, so none is left to train on"):
        split_days(2001, 2001, calibration=64, evaluation=301, seed=0)


def test_everything_follows_from_the_seed() -> None:
    one, other, different = Dates(TINY), Dates(TINY), Dates(DatesSettings(**{**vars(TINY), "seed": 1}))
    assert one.days == other.days != different.days
    for batches in (lambda task: task.evaluation, Dates.calibration, lambda task: islice(task.training(), 19)):
        assert all(same(a, b) for a, b in zip(batches(one), batches(other), strict=True))
    weights = [task.build().state_dict() for task in (one, other, different)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["output.weight"], weights[2]["output.weight"])


def test_training_is_deterministic_and_leaves_global_randomness_alone() -> None:
    threads = torch.get_num_threads()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    models = []
    for _ in range(2):
        task = Dates(DatesSettings(**{**vars(TINY), "steps": 5}))
        models.append(task.build())
        task.fit(models[-1])
        assert not models[-1].training
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert torch.get_num_threads() == threads
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    untrained = Dates(TINY).build()
    assert not torch.equal(untrained.output.weight, models[0].output.weight)


def test_evaluation_is_greedy_decoding() -> None:
    task = Dates(DatesSettings(**{**vars(TINY), "width": 29, "feed_forward": 31}))
    model, (learnt, unseen) = task.build(), task.evaluation
    train(model, [learnt], task.loss, steps=300, learning_rate=1e-2, label="test")

    values = task.evaluate(model)
    greedy = [translate(model, texts_of(batch)) for batch in (learnt, unseen)]
    right = [
        [answer == said for answer, said in zip(answers_of(batch), texts, strict=True)]
        for batch, texts in zip((learnt, unseen), greedy, strict=True)
    ]
    assert values.dtype == np.float64
    assert values.tolist() == [float(hit) for hits in right for hit in hits]
    assert all(right[0]), "a model of this size learns 23 dates by heart"
    assert not all(right[1]), "and those tell nothing about 23 others, so both outcomes are compared"


def test_evaluation_is_greedy_decoding_before_training(tiny: Dates, model: DateTranslator) -> None:
    said = [text for batch in tiny.evaluation for text in translate(model, texts_of(batch))]
    answers = [answer for batch in tiny.evaluation for answer in answers_of(batch)]
    assert tiny.evaluate(model).tolist() == [float(a == b) for a, b in zip(said, answers, strict=True)]
    assert all(len(text) == 10 for text in said)


def test_padding_changes_nothing(tiny: Dates, model: DateTranslator) -> None:
    batch = tiny.calibration()[0]
    assert len(set(batch.source_lens.tolist())) > 1
    junk = torch.randint(1, len(dates.SOURCE), (17, 5), generator=torch.Generator().manual_seed(0))
    longer = batch._replace(source=torch.cat((batch.source, junk), dim=1))
    torch.testing.assert_close(tiny.forward(model, longer), tiny.forward(model, batch))
    alone = tiny.forward(model, dates.collate([Written(texts_of(batch)[0], read(texts_of(batch)[0]))]))
    torch.testing.assert_close(alone[0], tiny.forward(model, batch)[0])


def test_what_is_not_padding_does_change_something(tiny: Dates, model: DateTranslator) -> None:
    batch = tiny.calibration()[0]
    other = batch._replace(source=batch.source.clone())
    other.source[:, 0] = batch.source[:, 0] % (len(dates.SOURCE) - 1) + 1
    difference = (tiny.forward(model, other) - tiny.forward(model, batch)).abs().amax(dim=(1, 2))
    assert (difference > 1e-4).all()


@pytest.mark.parametrize("place", range(1, 10))
def test_no_character_sees_a_later_one(tiny: Dates, model: DateTranslator, place: int) -> None:
    batch = tiny.calibration()[0]
    other = batch._replace(target_in=batch.target_in.clone())
    other.target_in[:, place:] = batch.target_in[:, place:] % (len(dates.TARGET) - 1) + 1
    logits, changed = tiny.forward(model, batch), tiny.forward(model, other)
    torch.testing.assert_close(changed[:, :place], logits[:, :place])
    assert ((changed - logits)[:, place].abs().amax(dim=1) > 1e-4).all()


def test_loss_is_the_mean_over_examples(tiny: Dates, model: DateTranslator) -> None:
    batch = tiny.calibration()[0]
    singles = [tiny.loss(model, Batch(*(tensor[i : i + 1] for tensor in batch))) for i in range(17)]
    torch.testing.assert_close(tiny.loss(model, batch), torch.stack(singles).mean())
    by_hand = -tiny.forward(model, batch).log_softmax(-1).gather(2, batch.target[..., None]).mean()
    torch.testing.assert_close(tiny.loss(model, batch), by_hand)


def test_the_reference_model_has_three_kinds_of_attention() -> None:
    modules = dates.task.build().named_modules()
    heads = {name: layer.num_heads for name, layer in modules if isinstance(layer, MultiHeadAttention)}
    kinds = ("encoder.{}.self_attention", "decoder.{}.self_attention", "decoder.{}.cross_attention")
    assert heads == {kind.format(layer): 8 for kind in kinds for layer in range(3)}


@pytest.mark.parametrize("number", [0, 2])
def test_attention_examples_label_what_each_layer_is_given(tiny: Dates, model: DateTranslator, number: int) -> None:
    text, (batch, labels) = list(tiny.attention_examples().items())[number]
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, MultiHeadAttention):
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.update({name: (args[0].shape[1], args[1].shape[1])})
            )
    assert tiny.forward(model, batch).shape == (1, 10, len(dates.TARGET))
    assert {name: (len(queries), len(keys)) for name, (queries, keys) in labels.items()} == seen
    queries, keys = labels["decoder.0.cross_attention"]
    day = tiny.days.evaluation[number]
    assert "".join(keys).replace("␣", " ") == text
    assert read(text) == day
    assert "".join(queries) == "^" + day.isoformat()[:-1]
    assert " " not in keys


@pytest.mark.parametrize("seq_len", [None, 1, 53])
def test_example_has_the_length_asked_for(tiny: Dates, model: DateTranslator, seq_len: int | None) -> None:
    (source, source_lens, target_in), kwargs = tiny.example(19, seq_len)
    length = dates.LONGEST if seq_len is None else seq_len
    assert source.shape == (19, length)
    assert source_lens.tolist() == [length] * 19
    assert target_in.shape == (19, 10)
    assert model(source, source_lens, target_in, **kwargs).shape == (19, 10, len(dates.TARGET))
    assert torch.equal(source, tiny.example(19, seq_len)[0][0])


@pytest.mark.parametrize("seq_len", [0, dates.MAX_LENGTH + 1])
def test_example_refuses_lengths_without_positions(tiny: Dates, seq_len: int) -> None:
    with pytest.raises(ValueError, match=rf"seq_len: dates takes sources of 1 to 1024 characters, got {seq_len}"):
        tiny.example(2, seq_len)


def test_no_text_is_longer_than_the_longest() -> None:
    cycle = (date(1976, 1, 1) + timedelta(days=n) for n in range(28 * 1461 // 4))  # weekdays repeat after 28 years
    assert max(len(render(day, form)) for day in cycle for form in FORMATS) == dates.LONGEST


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "at least one text, got none"),
        (["3 March 1987", ""], "expected 1 to 1024 characters .* got ''"),
        (["3 März 1987"], "expected 1 to 1024 characters .* got '3 März 1987'"),
        (["3" * 1025], "expected 1 to 1024 characters"),
    ],
)
def test_translate_refuses_what_the_model_cannot_read(model: DateTranslator, texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        translate(model, texts)


def test_slices_are_the_formats_and_letter_cases_of_what_is_evaluated(tiny: Dates) -> None:
    texts = [text for batch in tiny.evaluation for text in texts_of(batch)]
    slices = tiny.slices()
    assert [*slices][:3] == ["like March 4, 1987", "like March 4th, 1987", "like March the 4th, 1987"]
    forms, cases = [*slices.values()][: len(FORMATS)], [*slices.values()][len(FORMATS) :]
    for part in (forms, cases):
        np.testing.assert_array_equal(np.sum(part, axis=0), np.ones(len(texts)))
    days = [date.fromisoformat(answer) for batch in tiny.evaluation for answer in answers_of(batch)]
    for form, mask in zip(FORMATS, forms, strict=True):
        for number in np.flatnonzero(mask):
            assert render(days[number], form).lower() == texts[number].lower()
    np.testing.assert_array_equal(slices["upper case"], [text.isupper() for text in texts])


def test_confidences_are_those_of_the_eight_digits(tiny: Dates, model: DateTranslator) -> None:
    found = tiny.confidences(model)
    assert found.shape == (46, 8, 2)
    with torch.inference_mode():
        batch = tiny.evaluation[0]
        likely = tiny.forward(model, batch)[3].softmax(-1).max(-1)
    digits = [0, 1, 2, 3, 5, 6, 8, 9]
    np.testing.assert_allclose(found[3, :, 0], likely.values[digits].numpy(), rtol=1e-4)
    np.testing.assert_array_equal(found[3, :, 1], (likely.indices == batch.target[3])[digits].numpy())
