"""The models built by hand compute what they say, and what is planted in them is true: by brute force."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import mha
from bench.importance import planted, subsets
from bench.importance.planted import CLASSES, LOGITS, PLACES, POSITIONS, SCENARIOS, SHARP
from bench.importance.results import Subsets, mask_of
from bench.importance.subjects import subject
from bench.importance.tables import planted_in_best


def by_hand(scenario, stream):
    """The logits, from the description of the heads alone."""
    stream = stream.copy()
    near, far = np.exp(SHARP) / (np.exp(SHARP) + PLACES), 1 / (np.exp(SHARP) + PLACES)
    for heads in scenario.layers:
        added = np.zeros_like(stream)
        for head in heads:
            for token in range(POSITIONS):
                weights = np.full(POSITIONS, 1 / POSITIONS)
                if token == head.standing:
                    weights = np.full(POSITIONS, far)
                    weights[head.looks_at] = near
                seen = np.einsum("k,bke->be", weights, stream)
                read = sum((weight * seen[:, start : start + CLASSES] for start, weight in head.reads.items()), 0.0)
                read = np.zeros((len(stream), CLASSES)) + read
                if head.alike:
                    read = np.repeat(read.sum(axis=1, keepdims=True), CLASSES, axis=1)
                added[:, token, head.writes : head.writes + CLASSES] += head.gain * read
        stream += added
    return stream[:, PLACES, LOGITS : LOGITS + CLASSES]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_model_does_what_its_heads_are_said_to_do(name):
    scenario = SCENARIOS[name]()
    (batch,) = scenario.batches(11, 11, seed=3)
    logits = scenario.model().double()(batch.stream.double())
    np.testing.assert_allclose(
        logits.detach().numpy(), by_hand(scenario, batch.stream.double().numpy()), atol=1e-6
    )  # weights are float32


@pytest.mark.parametrize("name", SCENARIOS)
def test_places_show_the_right_class_as_often_as_they_should(name):
    scenario = SCENARIOS[name]()
    (batch,) = scenario.batches(4000, 4000, seed=5)
    shown = batch.stream[:, :PLACES, planted.OWN : planted.OWN + CLASSES].argmax(dim=-1)
    right = (shown == batch.answers[:, None]).double().mean(dim=0)
    expected = [scenario.reliability.get(scenario.copies.get(place, place), 1 / CLASSES) for place in range(PLACES)]
    np.testing.assert_allclose(right, expected, atol=0.03)
    for place, original in scenario.copies.items():
        assert (shown[:, place] == shown[:, original]).double().mean() > 0.99  # but for the noise


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("dead", [{0}, {0}, {0}, {0}, {1}, {2}]),
        ("duplicate", [{1}, {1}, {1}, {1}]),
        ("redundant", [{1}, {1}, {1}, {1}]),
        ("harmful", [{0}, {0}, {0}, {0}]),
        ("cancelling", [{0}, {0}, {2}, {2}, {2}]),
        ("relay", [{0}, {2}, {2}, {2}, {2}]),
    ],
)
def test_the_best_subsets_treat_the_planted_heads_as_claimed(name, kept):
    """Of 1 head, of 2, …: how many of the planted ones are in a best subset."""
    it = subject(f"planted_{name}", 0)
    it = replace(it, held_out=it.held_out[:1])  # 512 examples are enough to see it
    losses, values = subsets.evaluate(it, subsets.masks(len(it.heads)))
    table = Subsets(losses.numpy(), values.numpy())
    plant = mask_of([place for place, (layer, head) in enumerate(it.heads) if head in it.planted.get(layer, ())])
    found = [planted_in_best(table, table.of_size(count), plant) for count in range(1, len(it.heads))]
    assert found == kept


def test_a_dead_head_changes_no_answer_and_a_harmful_one_costs():
    it = subject("planted_dead", 0)
    dense, values = it.evaluate(it.model)
    without, left = it.evaluate(mha.prune(it.model, it.plan([1, 3, 5, 6])))
    assert without == pytest.approx(dense, abs=1e-5)
    assert torch.equal(values, left)
    it = subject("planted_harmful", 0)
    assert it.evaluate(mha.prune(it.model, it.plan([0, 1, 3, 4])))[0] < it.evaluate(it.model)[0] - 0.05


def test_the_evidence_is_that_of_bayes_rule():
    assert planted.weight_of_evidence(0.8) == pytest.approx(np.log(0.8 / 0.05))  # four other classes share 0.2
    assert planted.weight_of_evidence(1 / CLASSES) == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["planted_relay", "small"])
def test_masks_in_one_batch_give_what_pruning_gives(name, monkeypatch, model_cache):
    monkeypatch.setenv("MHA_BENCH_CACHE", str(model_cache))
    monkeypatch.setattr(subsets, "ROWS", 200)  # 64 or 150 examples: several masks in a batch, and a rest
    it = subject(name, 1, quick=True)
    masks = subsets.masks(len(it.heads))
    losses, values = subsets.evaluate(it, masks)
    for number in range(0, len(masks), 5):
        kept = [place for place in range(len(it.heads)) if number >> place & 1]
        assert masks[number].nonzero()[:, 0].tolist() == kept
        loss, each = it.evaluate(mha.prune(it.model, it.plan(kept)).eval())
        assert losses[number].item() == pytest.approx(loss, abs=1e-5)
        assert (values[number] == each).double().mean() > 0.99  # ties of logits aside


@pytest.mark.parametrize("name", ["planted_dead", "small", "digits", "dates"])
def test_what_is_said_of_each_example_sums_up_to_the_loss(name, monkeypatch, model_cache):
    monkeypatch.setenv("MHA_BENCH_CACHE", str(model_cache))
    it = subject(name, 0, quick=True)
    batch = it.calibration[0]
    losses, values = it.per_example(it.model, batch)
    assert losses.mean().item() == pytest.approx(it.loss(it.model, batch).item(), rel=1e-5)
    assert values.shape == losses.shape == (len(batch[0]),)
