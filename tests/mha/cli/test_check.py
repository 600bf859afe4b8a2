"""What `mha check` says of two models side by side."""

import pytest

import mha
from tests.mha.cli.tiny import tiny_bert

FAST = ("--seconds", "0.05")


def test_two_models_side_by_side(run):
    document = run("check", "my-model", "smaller", "--task", "task.py:task", *FAST, "--json").document
    small = mha.from_pretrained("smaller")
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (tiny_bert(), small)]
    assert [(size["heads"], size["parameters"]) for size in document["models"]] == list(
        zip((12, 6), counts, strict=True)
    )
    assert [size["megabytes"] for size in document["models"]] == [pytest.approx(4e-6 * count) for count in counts]
    assert document["masked_minus_sliced"] < 1e-5
    assert document["quality"]["examples"] == 400
    assert document["speed"]["batch"] == 4
    assert document["speed"]["rounds"] >= 8


def test_as_text_without_a_task(run):
    ran = run("check", "my-model", "smaller", "--batch-size", "3", "--length", "5", *FAST)
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0].split() == ["model", "smaller", "smaller", "/", "model"]
    assert lines[1].split() == ["heads", "12", "6", "0.50"]
    assert lines[2].split()[-1] == lines[3].split()[-1]  # parameters and megabytes shrink alike
    assert "Removed: 6 of 12 heads: 6 on 20" in ran.out
    assert lines[-1].startswith("6 of 12 heads removed: ")
    assert lines[-1].endswith("at batch 3 × 5 tokens on this CPU.")


def test_a_model_of_ones_own(run):
    assert run("prune", "own.py:build", "--criterion", "magnitude", "--keep", "0.5", "-o", "out").code == 0
    ran = run("check", "own.py:build", "out")
    assert ran.code == 1
    assert "what a Own is called with is not known; give --task" in ran.err


def test_a_model_that_was_not_made_from_it(run, here):
    tiny_bert(num_hidden_layers=3).save_pretrained(here / "other")
    ran = run("check", "other", "smaller")
    assert ran.code == 1
    assert "smaller is not pruned from this model: only one of the two has the layers" in ran.err
    assert run("check", "my-model", "nowhere").code == 2
