"""The task `digits`: images stay in their part, answers are right, and only attention reads the images."""

import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from bench.tasks import digits
from bench.tasks.digits import PARTS, Digits, DigitsSettings, Rows
from mha.layer.attention import MultiHeadAttention
from mha.values.errors import ShapeError

TINY = DigitsSettings(
    places=5, width=13, hidden=17, layers=3, heads=7, head_dim=11, steps=3, rows_per_step=19, distortions=2
)


def dataset() -> dict[bytes, tuple[int, int]]:
    """Pixels -> number and digit of every image, read without the task."""
    pixels, answers = load_digits(return_X_y=True)
    scaled = (pixels / 16).astype(np.float32)
    return {image.tobytes(): (index, int(answers[index])) for index, image in enumerate(scaled)}


DATASET = dataset()


def shown(rows: Rows) -> list[list[tuple[int, int]]]:
    """Number and digit of each image of each row, recognised by its pixels."""
    return [[DATASET[image.numpy().tobytes()] for image in row] for row in rows.images]


def answer(question: int, row: list[int]) -> int:
    places = len(row)
    if question < places:
        return row[question]
    if question < places + 10:
        return row.index(question - places)
    return {places + 10: max, places + 11: min}[question](row)


def same(one: Rows, other: Rows) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Oracle(nn.Module):
    """Recognises images by their pixels; right about everything but the question asked at `wrong`."""

    def __init__(self, wrong: int | None) -> None:
        super().__init__()
        self.wrong = wrong
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor, questions: Tensor) -> Tensor:
        rows = [[digit for _, digit in row] for row in shown(Rows(images, questions, questions))]
        asked = zip(questions.tolist(), rows, strict=True)
        answers = torch.tensor([[answer(question, row) for question in four] for four, row in asked])
        if self.wrong is not None:
            answers[:, self.wrong] = (answers[:, self.wrong] + 1) % 10
        return nn.functional.one_hot(answers, 10).float()


@pytest.fixture
def tiny() -> Digits:
    return Digits(TINY)


@pytest.fixture
def model(tiny: Digits) -> nn.Module:
    return tiny.build().eval()


def test_every_image_is_in_one_part() -> None:
    assert len(DATASET) == 1797, "no two images are the same, so pixels tell them apart"
    parts = {part: {DATASET[image.numpy().tobytes()][0] for image in digits.images_of(part)[0]} for part in PARTS}
    assert {part: len(images) for part, images in parts.items()} == PARTS
    assert set.union(*parts.values()) == set(range(1797))
    assert parts == {part: set(chosen.tolist()) for part, chosen in digits.split_images().items()}


def test_images_come_with_their_digits() -> None:
    for part in PARTS:
        images, labels = digits.images_of(part)
        assert labels.tolist() == [DATASET[image.numpy().tobytes()][1] for image in images]
        assert set(labels.tolist()) == set(range(10))


@pytest.mark.parametrize("part", PARTS)
def test_rows_show_images_of_their_own_part(tiny: Digits, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "distort", lambda images, _: images)
    undistorted = Digits(DigitsSettings(**{**vars(TINY), "noise": 0.0}))
    batches = {
        "training": list(islice(undistorted.training(), 97)),
        "calibration": tiny.calibration(),
        "evaluation": tiny.rows("evaluation", 499).batches(101),
    }[part]
    seen = {index for rows in batches for row in shown(rows) for index, _ in row}
    assert seen <= set(digits.split_images()[part].tolist())
    assert len(seen) > 0.95 * PARTS[part], "and nearly all of them are used"


def test_answers_are_right(tiny: Digits) -> None:
    asked = Counter()
    for rows in [*tiny.calibration(), tiny.rows("evaluation", 1009), Digits().rows("evaluation", 211)]:
        for row, questions, answers in zip(shown(rows), rows.questions.tolist(), rows.answers.tolist(), strict=True):
            assert answers == [answer(question, [digit for _, digit in row]) for question in questions]
            asked.update([(len(row), question) for question in questions])
    assert {question for places, question in asked if places == 5} == set(range(17))
    assert {question for places, question in asked if places == 6} == set(range(18))


def test_a_digit_that_occurs_twice_is_found_at_its_first_place() -> None:
    questions, answers = digits.ask(torch.full((23, 7), 3), torch.Generator().manual_seed(0))
    assert questions[:, 1:].tolist() == [[10, 17, 18]] * 23
    assert answers.tolist() == [[3, 0, 3, 3]] * 23


def test_distorted_images_are_still_the_same_digits() -> None:
    images, labels = digits.images_of("training")
    once, again = (digits.distort(images, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert once.shape == images.shape
    assert ((once - again).abs().amax(dim=(1, 2)) > 0.01).all()
    nearest = torch.cdist(once.flatten(1), images.flatten(1)).argmin(dim=1)
    assert (labels[nearest] == labels).float().mean() > 0.75
    assert (nearest != torch.arange(len(images))).float().mean() > 0.1, "but not the same images"


def test_training_rows_are_distorted_and_noisy(tiny: Digits) -> None:
    rows = next(tiny.training())
    assert rows.images.shape == (19, 5, 8, 8)
    assert rows.questions.shape == rows.answers.shape == (19, 4)
    quiet = next(Digits(DigitsSettings(**{**vars(TINY), "noise": 0.0})).training())
    assert not any(image.numpy().tobytes() in DATASET for row in quiet.images for image in row)
    assert (rows.images - quiet.images).std().item() == pytest.approx(0.1, abs=0.01)


def test_everything_follows_from_the_seed() -> None:
    one, other, different = Digits(TINY), Digits(TINY), Digits(DigitsSettings(**{**vars(TINY), "seed": 1}))
    pairs = zip(islice(one.training(), 5), islice(other.training(), 5), islice(different.training(), 5), strict=True)
    assert all(same(a, b) and not same(a, c) for a, b, c in pairs)
    assert all(same(a, b) for a, b in zip(one.calibration(), different.calibration(), strict=True))
    weights = [task.build().state_dict() for task in (one, other, different)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["answer.weight"], weights[2]["answer.weight"])


def test_training_is_deterministic_and_leaves_global_randomness_alone(tiny: Digits) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    models = [tiny.build(), tiny.build()]
    for model in models:
        tiny.fit(model)
        assert not model.training
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    changed = zip(models[0].parameters(), tiny.build().parameters(), strict=True)
    assert all(not torch.equal(trained, untrained) for trained, untrained in changed)


def test_a_patch_is_one_half_of_one_digit(tiny: Digits, model: nn.Module) -> None:
    rows, seen = tiny.rows("evaluation", 3), []
    model.patch.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert tiny.forward(model, rows).shape == (3, 4, 10)
    (patches,) = seen
    assert patches.shape == (3, 10, 32)
    for place in range(5):
        left, right = rows.images[:, place, :, :4], rows.images[:, place, :, 4:]
        assert torch.equal(patches[:, 2 * place], left.flatten(1))
        assert torch.equal(patches[:, 2 * place + 1], right.flatten(1))


def test_only_attention_brings_the_images_to_the_questions(tiny: Digits, model: nn.Module) -> None:
    rows = tiny.rows("evaluation", 29)
    others = rows._replace(images=rows.images.flip(0))
    difference = (tiny.forward(model, rows) - tiny.forward(model, others)).abs().amax(dim=(1, 2))
    assert (difference[torch.arange(29) != 14] > 1e-4).all()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.W_o.weight.zero_()
    assert torch.equal(tiny.forward(model, rows), tiny.forward(model, others))


def test_the_places_of_digits_matter_and_the_order_of_questions_does_not(tiny: Digits, model: nn.Module) -> None:
    rows = tiny.rows("evaluation", 31)
    asked_otherwise = rows._replace(questions=rows.questions.roll(1, dims=1))
    shown_otherwise = rows._replace(images=rows.images.roll(1, dims=1))
    logits = tiny.forward(model, rows)
    torch.testing.assert_close(tiny.forward(model, asked_otherwise), logits.roll(1, dims=1))
    assert ((tiny.forward(model, shown_otherwise) - logits).abs().amax(dim=(1, 2)) > 1e-4).all()


def test_loss_is_the_mean_over_examples(tiny: Digits, model: nn.Module) -> None:
    rows = tiny.rows("calibration", 7)
    singles = [tiny.loss(model, row) for row in rows.batches(1)]
    torch.testing.assert_close(tiny.loss(model, rows), torch.stack(singles).mean())
    by_hand = -tiny.forward(model, rows).log_softmax(-1).gather(2, rows.answers[..., None]).mean()
    torch.testing.assert_close(tiny.loss(model, rows), by_hand)


def test_batches_are_the_rows_in_their_order(tiny: Digits) -> None:
    rows = tiny.rows("evaluation", 17)
    batches = rows.batches(5)
    assert [len(batch.images) for batch in batches] == [5, 5, 5, 2]
    assert same(rows, Rows(*map(torch.cat, zip(*batches, strict=True))))
    assert [len(batch.images) for batch in tiny.calibration()] == [32] * 16


@pytest.mark.parametrize(("wrong", "share"), [(None, 1.0), (0, 0.75), (1, 0.75), (2, 0.75), (3, 0.75)])
def test_evaluation_counts_right_answers(tiny: Digits, wrong: int | None, share: float) -> None:
    values = tiny.evaluate(Oracle(wrong), 307)
    assert values.dtype == np.float64
    assert values.tolist() == [share] * 307


def test_evaluation_before_training(tiny: Digits, model: nn.Module) -> None:
    rows = tiny.rows("evaluation", 263)
    said = tiny.forward(model, rows).argmax(dim=-1).tolist()
    pairs = zip(said, rows.answers.tolist(), strict=True)
    by_hand = [sum(a == b for a, b in zip(four, right, strict=True)) / 4 for four, right in pairs]
    assert tiny.evaluate(model, 263).tolist() == by_hand
    assert 0 < np.mean(by_hand) < 0.5
    assert len(tiny.evaluate(model)) == 2000


def test_chance_is_what_the_most_frequent_answers_reach() -> None:
    rows = digits.task.rows("evaluation", 40_009)
    counts = Counter(zip(rows.questions.flatten().tolist(), rows.answers.flatten().tolist(), strict=True))
    best = {}
    for (question, _), count in counts.items():
        best[question] = max(best.get(question, 0), count)
    assert digits.task.chance == pytest.approx(sum(best.values()) / (4 * 40_009), abs=0.01)


def test_the_reference_model_has_four_layers_of_eight_heads() -> None:
    modules = digits.task.build().named_modules()
    heads = {name: layer.num_heads for name, layer in modules if isinstance(layer, MultiHeadAttention)}
    assert heads == {f"blocks.{layer}.attention": 8 for layer in range(4)}


@pytest.mark.parametrize("number", [0, 2])
def test_attention_examples_label_what_each_layer_is_given(tiny: Digits, model: nn.Module, number: int) -> None:
    rows, labels = tiny.attention_examples()[f"held-out row {number}"]
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, MultiHeadAttention):
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.update({name: (args[0].shape[1], args[1].shape[1])})
            )
    assert tiny.forward(model, rows).shape == (1, 4, 10)
    assert {name: (len(queries), len(keys)) for name, (queries, keys) in labels.items()} == seen
    queries, keys = labels["blocks.2.attention"]
    assert queries == keys
    place, sought, *extremes = rows.questions[0].tolist()
    assert extremes == [15, 16]
    assert " ".join(keys) == f"0a 0b 1a 1b 2a 2b 3a 3b 4a 4b at {place} find {sought - 5} max min"


@pytest.mark.parametrize("seq_len", [None, 14])
def test_example_has_the_one_length(tiny: Digits, model: nn.Module, seq_len: int | None) -> None:
    (images, questions), kwargs = tiny.example(37, seq_len)
    assert images.shape == (37, 5, 8, 8)
    assert questions.shape == (37, 4)
    assert model(images, questions, **kwargs).shape == (37, 4, 10)
    assert torch.equal(images, tiny.example(37, seq_len)[0][0])


@pytest.mark.parametrize("seq_len", [0, 13, 15])
def test_example_refuses_other_lengths(tiny: Digits, seq_len: int) -> None:
    message = rf"seq_len: digits always reads 14 tokens \(5 digits of 2 patches each, 4 questions\), got {seq_len};"
    with pytest.raises(ShapeError, match=message):
        tiny.example(2, seq_len)


def test_slices_are_what_the_questions_ask(tiny: Digits) -> None:
    rows, slices = tiny.rows("evaluation", 2000), tiny.slices()
    seen = [[digit for _, digit in row] for row in shown(rows)]
    sought = [int(question) - 5 for question in rows.questions[:, 1]]
    np.testing.assert_array_equal(slices["asks for place 2"], rows.questions[:, 0] == 2)
    np.testing.assert_array_equal(slices["seeks digit 7"], [digit == 7 for digit in sought])
    several = [row.count(digit) > 1 for row, digit in zip(seen, sought, strict=True)]
    np.testing.assert_array_equal(slices["the sought digit is there twice or more"], several)
    assert all(mask.dtype == bool and mask.shape == (2000,) for mask in slices.values())


def test_confidences_are_right_where_the_answers_are(tiny: Digits) -> None:
    found = tiny.confidences(Oracle(wrong=1))
    assert found.shape == (2000, 4, 2)
    np.testing.assert_array_equal(found[..., 1].mean(axis=0), [1, 0, 1, 1])
    np.testing.assert_allclose(found[..., 0], np.e / (np.e + 9), rtol=1e-6)
