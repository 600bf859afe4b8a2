"""What `mha score` writes, in each of its forms."""

import csv

import pytest
import torch

import mha
from mha.cli.score import write
from tests.mha.cli.tiny import tiny_bert

LAYERS = [f"bert.encoder.layer.{number}.attention" for number in range(2)]


def test_scores_as_a_table_and_as_files(run, here):
    outputs = ("-o", "scores.json", "-o", "scores.csv", "-o", "scores.png")
    ran = run("score", "my-model", "--criterion", "magnitude", *outputs)
    assert ran.code == 0, ran.err
    scores = mha.score(tiny_bert(), None, None, "magnitude")
    assert mha.HeadScores.from_json("scores.json") == scores
    with (here / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    wanted = [(name, str(head), scores[name][head].item()) for name in LAYERS for head in range(6)]
    assert [(row["layer"], row["head"], float(row["score"])) for row in rows] == wanted
    assert (here / "scores.png").read_bytes().startswith(b"\x89PNG")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["layer", *"012345"]
    assert lines[1].split() == [LAYERS[0], *(f"{value:.3g}" for value in scores[LAYERS[0]].tolist())]
    assert lines[3].startswith("12 heads scored; larger = keep. Heads are comparable within a layer only.")
    assert lines[3].endswith("Written to scores.json, scores.csv, scores.png.")


def test_scores_by_a_task(run):
    document = run("score", "my-model", "--task", "task.py:task", "--criterion", "taylor", "--json").document
    assert (document["criterion"], document["comparable"], document["examples"]) == ("taylor", True, 24)
    assert [(row["layer"], row["head"]) for row in document["scores"]] == [
        (name, head) for name in LAYERS for head in range(6)
    ]


def test_errors_of_estimates_are_written(tmp_path):
    scores = mha.HeadScores(
        {"a": torch.tensor([0.5, 2.0])}, heads={"a": (1, 4)}, errors={"a": torch.tensor([0.25, 0.125])}
    )
    write(scores, tmp_path / "scores.csv", "tiny: taylor")
    assert (tmp_path / "scores.csv").read_text().split() == ["layer,head,score,error", "a,1,0.5,0.25", "a,4,2.0,0.125"]


def test_a_picture_says_of_which_model_and_criterion_it_is(tmp_path):
    write(mha.HeadScores({"a": torch.tensor([0.5, 2.0])}), tmp_path / "scores.svg", "tiny: taylor")
    assert "<!-- tiny: taylor -->" in (tmp_path / "scores.svg").read_text()


def test_a_pruned_model_has_its_original_numbers(run):
    rows = run("score", "smaller", "--criterion", "random", "--json").document["scores"]
    plan = mha.HeadPlan.from_json("smaller/plan.json")
    assert [(row["layer"], row["head"]) for row in rows] == [(name, head) for name in LAYERS for head in plan[name]]
    table = run("score", "smaller", "--criterion", "random").out.splitlines()
    assert len(table[0].split()) == 2 + max(head for heads in plan.values() for head in heads)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "without --criterion this needs data: give --task"),
        (("--criterion", "tailor"), "unknown criterion 'tailor'; did you mean 'taylor'?"),
        (("--criterion", "magnitude", "-o", "scores.txt"), "its end says what is written; give one of .json, .csv"),
    ],
)
def test_wrong_use(run, arguments, message):
    ran = run("score", "my-model", *arguments)
    assert ran.code == 2
    assert message in " ".join(ran.err.split())


def test_no_file_is_overwritten(run, here):
    (here / "scores.json").write_text("mine")
    ran = run("score", "my-model", "--criterion", "magnitude", "-o", "scores.json")
    assert ran.code == 1
    assert "scores.json exists; give another name" in ran.err
    assert (here / "scores.json").read_text() == "mine"


def test_a_criterion_is_given_its_options(run):
    line = ("score", "my-model", "--task", "task.py:task", "--criterion", "taylor", "--json")

    def scores(*options):
        rows = run(*line, *(word for option in options for word in ("--option", option))).document["scores"]
        return [row["score"] for row in rows]

    assert scores("unit=batch") != scores("unit=example") == scores()
    assert sum(value**2 for value in scores("normalize=true")) == pytest.approx(len(LAYERS))
    for option, message in (("unit", "'unit' is no NAME=VALUE, such as unit=batch"), ("unt=1", "did you mean 'unit'?")):
        ran = run(*line, "--option", option)
        assert ran.code == 2
        assert message in ran.err
    ran = run("prune", "my-model", "--task", "task.py:task", "--keep", "0.5", "--option", "unit=batch", "-o", "out")
    assert "--option is of a criterion: give --criterion too" in ran.err
