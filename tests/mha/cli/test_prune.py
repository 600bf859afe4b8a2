"""What `mha prune` makes, measures, says and saves; what it refuses, and that nothing is left half-done."""

import errno
import json

import pytest
import torch

import mha
from mha.cli import comparison, prune
from mha.cli.history import Heads, told
from tests.mha.cli.tiny import tiny_bert, transformers

LAYERS = [f"bert.encoder.layer.{number}.attention" for number in range(2)]
FAST = ("--seconds", "0.05")
SORTING = ("--task", "task.py:task")


def test_half_of_the_heads_by_a_task(run, here):
    ran = run("prune", "my-model", *SORTING, "--keep", "0.5", *FAST, "-o", "out")
    assert ran.code == 0, ran.err
    last = ran.out.splitlines()[-1]
    model = mha.from_pretrained("out")
    assert sum(map(len, mha.plan_of(model).values())) == 6
    task = task_of(here)
    before, after = (float(task.evaluate(one).mean()) for one in (tiny_bert(), model))
    assert last.startswith(f"6 of 12 heads removed: accuracy {after:.3f} (dense {before:.3f}, difference ")
    assert " times as fast (95 % " in last
    assert last.endswith(" at batch 4 × 7 tokens on this CPU. Saved in out/.")
    files = {path.name for path in (here / "out").iterdir() if not path.name.startswith("pruned-")}
    assert files == {"history.json", "plan.json", "pruned.json", "tokenizer.json", "tokenizer_config.json"}
    assert mha.HeadPlan.from_json("out/plan.json") == mha.plan_of(model)
    words = transformers.AutoTokenizer.from_pretrained("out")
    assert words("the cat").input_ids == [4, 5]


def task_of(here):
    names = {}
    exec((here / "task.py").read_text(), names)
    return names["task"]


def test_by_a_criterion_the_scores_are_saved(run, here):
    arguments = ("--criterion", "taylor", "--heads", "4", *FAST, "--json", "-o", "out")
    document = run("prune", "my-model", *SORTING, *arguments).document
    task = task_of(here)
    scores = mha.score(tiny_bert(), task.calibration(), task.loss, "taylor")
    assert mha.HeadScores.from_json("out/scores.json") == scores
    plan = mha.choose(scores, heads=4)
    assert document["plan"] == {name: list(heads) for name, heads in plan.items()}
    assert (document["removed"], document["heads"], document["how"]) == (8, 4, "heads 4, criterion taylor")
    assert document["quality"]["examples"] == 400
    assert document["masked_minus_sliced"] < 1e-5
    repaired = mha.compensate(mha.prune(tiny_bert(), plan), tiny_bert(), task.calibration(), task.forward)
    ids = task.example(4)[1]
    assert torch.allclose(mha.from_pretrained("out")(**ids).logits, repaired(**ids).logits, atol=1e-6)


def test_without_a_task_nothing_is_repaired(run):
    ran = run("prune", "my-model", "--criterion", "magnitude", "--keep", "0.25", *FAST, "-o", "out")
    assert ran.code == 0
    plan = mha.choose(mha.score(tiny_bert(), None, None, "magnitude"), keep=0.25)
    pruned, model = mha.prune(tiny_bert(), plan), mha.from_pretrained("out")
    assert all(torch.equal(mine, its) for mine, its in zip(model.parameters(), pruned.parameters(), strict=True))
    assert "9 of 12 heads removed: " in ran.out
    assert "accuracy" not in ran.out


def test_pruning_again_composes_and_tells(run, here):
    ran = run("prune", "smaller", "--criterion", "magnitude", "--keep", "0.5", *FAST, "-o", "out")
    assert ran.code == 0, ran.err
    assert "Removed before: 6 of 12 heads: 6 on 20" in ran.out
    assert "3 of 6 heads removed: " in ran.out
    first, second = mha.HeadPlan.from_json("smaller/plan.json"), mha.HeadPlan.from_json("out/plan.json")
    assert all(set(second[name]) < set(first[name]) for name in LAYERS)  # original numbers
    entries = json.loads((here / "out" / "history.json").read_text())
    assert [(entry["removed"], entry["heads"], entry["heads_made_with"]) for entry in entries] == [
        (6, 6, 12),
        (3, 3, 12),
    ]
    gone = [sorted(set(range(6)) - set(first[name])) for name in LAYERS]
    assert entries[0]["removed_heads"] == {name: heads for name, heads in zip(LAYERS, gone, strict=True) if heads}
    assert mha.HeadPlan(entries[0]["plan"]) == first
    assert mha.HeadPlan(entries[1]["plan"]) == second
    removed = entries[1]["removed_heads"]
    assert removed == {name: [head for head in first[name] if head not in second[name]] for name in LAYERS}
    scores = mha.score(mha.from_pretrained("smaller"), None, None, "magnitude")
    assert entries[1]["scores"] == {
        name: {str(head): pytest.approx(float(value)) for head, value in zip(first[name], scores[name], strict=True)}
        for name in LAYERS
    }


def test_the_last_step_is_undone_by_the_plan_before_it(run, here):
    """A plan of the history, applied to the model that all heads are still in."""
    run("prune", "smaller", "--criterion", "magnitude", "--keep", "0.5", *FAST, "-o", "out")
    entry = json.loads((here / "out" / "history.json").read_text())[0]
    mha.HeadPlan(entry["plan"]).to_json("before.json")
    assert run("prune", "my-model", "--plan", "before.json", *FAST, "-o", "undone").code == 0
    undone, smaller = mha.from_pretrained("undone"), mha.from_pretrained("smaller")
    assert all(torch.equal(mine, its) for mine, its in zip(undone.parameters(), smaller.parameters(), strict=True))


def test_what_else_was_removed_is_told_apart():
    entries = [
        {"removed": 6, "date": "2026-01-02", "how": "keep 0.5"},
        {"removed": 2, "date": "2026-01-03", "how": "plan"},
    ]
    times = "6 on 2026-01-02 (keep 0.5), then 2 on 2026-01-03 (plan)"
    assert told(Heads(12, 12), entries) == ""
    assert told(Heads(4, 12), entries) == f"Removed before: 8 of 12 heads: {times}."
    assert told(Heads(1, 12), entries) == f"Removed before: 11 of 12 heads: {times}, and 3 otherwise."
    assert told(Heads(5, 12), entries) == told(Heads(5, 12), []) == "Removed before: 7 of 12 heads."


def test_a_plan(run):
    mha.HeadPlan({LAYERS[0]: (0, 5), LAYERS[1]: ()}).to_json("mine.json")
    ran = run("prune", "my-model", "--plan", "mine.json", *FAST, "-o", "out")
    assert ran.code == 0, ran.err
    assert dict(mha.plan_of(mha.from_pretrained("out"))) == {LAYERS[0]: (0, 5), LAYERS[1]: ()}


@pytest.mark.usefixtures("costs")
def test_latency_by_measured_costs(run):
    document = run("prune", "my-model", *SORTING, "--latency", "0.5", *FAST, "--json", "-o", "out").document
    assert 3 <= document["heads"] <= 5  # of 12 and a rest of 2 seconds, 7 are left: 5 heads, less those that only harm


def test_parameters_need_no_costs(run):
    size = sum(parameter.numel() for parameter in tiny_bert().parameters())
    assert run("prune", "my-model", *SORTING, "--parameters", "0.8", *FAST, "-o", "out").code == 0
    assert sum(parameter.numel() for parameter in mha.from_pretrained("out").parameters()) <= 0.8 * size


@pytest.mark.usefixtures("short_ladder")
def test_at_most_a_point(run):
    ran = run("prune", "my-model", *SORTING, "--at-most", "1pt", *FAST, "-o", "out")
    assert ran.code == 0, ran.err
    certificate = mha.Certificate.from_json("out/certificate.json")
    assert (certificate.at_most, certificate.confidence, certificate.examples) == (0.01, 0.95, 400)
    assert str(certificate) in ran.out
    assert certificate.candidates == 2
    assert sum(map(len, mha.plan_of(mha.from_pretrained("out")).values())) == sum(map(len, certificate.plan.values()))


def test_nothing_can_be_shown(run, here):
    ran = run("prune", "my-model", *SORTING, "--at-most", "0.001", "-o", "out")
    assert ran.code == 1
    assert "mha: error: at_most=0.001 can't be shown with 400 examples at this confidence" in ran.err
    assert not (here / "out").exists()


def test_training_at_the_end(run):
    arguments = ("--criterion", "taylor", "--keep", "0.5", "--distill", "0.2s", *FAST, "--json", "-o", "out")
    ran = run("prune", "my-model", *SORTING, *arguments)
    assert ran.code == 0, ran.err
    assert ran.document["how"] == "keep 0.5, criterion taylor, distill 0.2s"


def test_latency_is_that_of_the_runtime_that_was_named(run):
    arguments = ("--criterion", "magnitude", "--latency", "0.9", *FAST, "--json")
    ran = run("prune", "my-model", *SORTING, *arguments, "--runs-on", "torch", "-o", "out")
    assert ran.code == 0, ran.err
    assert "measuring what each layer costs in torch, into which each is exported" in ran.err
    assert ran.document["speed"]["device"].startswith("this CPU in torch 2.")
    other = run("prune", "my-model", *SORTING, *arguments, "--runs-on", "llama.cpp", "-o", "other")
    assert other.code == 0, other.err
    assert "latency is that of torch: layers can be measured in torch, onnx, openvino, not in llama.cpp" in other.err
    assert other.document["speed"]["device"] == "this CPU"


def test_a_generation_configuration_goes_along(run, here):
    config = transformers.LlamaConfig(hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4,
                                      num_key_value_heads=2, vocab_size=11, max_position_embeddings=32)  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(here / "llama")
    assert run("prune", "llama", "--criterion", "magnitude", "--keep", "0.5", *FAST, "-o", "out").code == 0
    assert json.loads((here / "out" / "generation_config.json").read_text())["max_new_tokens"] == 3
    assert run("prune", "out", "--criterion", "magnitude", "--keep", "0.5", *FAST, "-o", "again").code == 0
    assert json.loads((here / "again" / "generation_config.json").read_text())["max_new_tokens"] == 3


def test_a_model_of_ones_own_is_saved_without_checks(run):
    ran = run("prune", "own.py:build", "--criterion", "magnitude", "--keep", "0.5", "-o", "out")
    assert ran.code == 0, ran.err
    assert "not known without --task: it is neither checked nor timed" in ran.err
    assert ran.out == "2 of 4 heads removed. Saved in out/.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of --keep, --heads, --latency, --flops, --parameters, --at-most and --plan; got none"),
        (("--keep", "0.5", "--heads", "3"), "got --keep and --heads"),
        (("--keep", "1.5"), "1.5 is not in the range 0<=x<=1"),
        (("--keep", "0.5"), "needs data: give --task, or a criterion that needs none, such as --criterion magnitude"),
        (("--keep", "0.5", "--criterion", "taylor"), "--criterion taylor needs data: give --task"),
        (("--keep", "0.5", "--criterion", "magnitud"), "did you mean 'magnitude'?"),
        (("--latency", "0.5", "--criterion", "magnitude"), "--latency needs data: give --task"),
        (("--at-most", "0"), "expected a loss above 0, as 0.01, or 1pt"),
        (("--at-most", "1 %"), "expected a loss above 0"),
        ((*SORTING, "--keep", "0.5", "--distill", "soon"), "expected a time such as 30"),
        (("--keep", "0.5", "--criterion", "magnitude", "--distill", "1s"), "--distill needs data: give --task"),
        (("--plan", "own.py", "--criterion", "magnitude"), "--plan says which; give one of them"),
        (("--kep", "0.5"), "No such option '--kep'. (Did you mean"),
    ],
)
def test_wrong_use(run, here, arguments, message):
    ran = run("prune", "my-model", *arguments, "-o", "out")
    assert ran.code == 2
    assert message in " ".join(ran.err.split())
    assert not (here / "out").exists()


def test_heads_that_are_not_there(run):
    ran = run("prune", "my-model", "--criterion", "magnitude", "--heads", "13", "-o", "out")
    assert ran.code == 1
    assert "heads is how many of the 12 scored heads to keep, got 13" in ran.err


@pytest.mark.usefixtures("costs")
def test_a_budget_that_cant_be_reached(run, here):
    ran = run("prune", "my-model", *SORTING, "--latency", "0.05", "-o", "out")
    assert ran.code == 1
    assert "the least that any does is 0.1429" in ran.err  # the rest alone, 2 of 14
    assert not (here / "out").exists()


def test_an_output_that_holds_something_is_left_alone(run, here):
    (here / "full").mkdir()
    (here / "full" / "mine.txt").write_text("mine")
    (here / "file").write_text("mine")
    for output, message in (("full", "full exists and holds mine.txt; give another"), ("file", "file is a file;")):
        ran = run("prune", "my-model", "--criterion", "magnitude", "--keep", "0.5", "-o", output)
        assert ran.code == 1
        assert message in ran.err
    assert (here / "full" / "mine.txt").read_text() == (here / "file").read_text() == "mine"


def test_an_empty_directory_is_filled(run, here):
    (here / "empty").mkdir()
    assert run("prune", "my-model", "--criterion", "magnitude", "--keep", "0.5", *FAST, "-o", "empty").code == 0
    assert (here / "empty" / "pruned.json").exists()


def names(here):
    return sorted(path.name for path in here.iterdir())


def test_a_full_disk_leaves_nothing(run, here, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prune, "write_history", full)
    before = names(here)
    ran = run("prune", "my-model", "--criterion", "magnitude", "--keep", "0.5", *FAST, "-o", "out")
    assert ran.code == 1
    assert "out can't be written ([Errno 28] No space left on device); nothing was left of it" in ran.err
    assert names(here) == before


def test_an_interruption_leaves_nothing(run, here, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prune, "write_history", interrupted)
    before = names(here)
    ran = run("prune", "my-model", "--criterion", "magnitude", "--keep", "0.5", *FAST, "-o", "out")
    assert ran.code == 130
    assert "interrupted; nothing was written" in ran.err
    assert names(here) == before


def test_the_sentence_of_a_comparison():
    change = comparison.Interval(-0.004, -0.021, 0.013)
    quality = comparison.Judged("accuracy", 0.406, 0.402, change, examples=512, points=True)
    assert quality.sentence() == "accuracy 0.402 (dense 0.406, difference −0.4 points, 95 % −2.1 to +1.3)"
    change = comparison.Interval(7.44, 5.9, 9.01)
    quality = comparison.Judged("perplexity", 25.8, 33.24, change, examples=64, points=False)
    assert quality.sentence() == "perplexity 33.24 (dense 25.8, difference +7.44, 95 % +5.9 to +9.01)"
    ratio = comparison.Interval(1.21, 1.15, 1.264)
    speed = comparison.Timed(ratio, 0.2, 0.17, batch=32, tokens=64, device="this CPU", rounds=12)
    assert speed.sentence() == "1.21 times as fast (95 % 1.15 to 1.26) at batch 32 × 64 tokens on this CPU"


def test_the_interval_of_a_paired_difference(here):
    """Of 400 examples 40 flip to the worse and 20 to the better: the normal approximation, by hand."""
    task = task_of(here)
    dense, small = (torch.nn.Linear(1, 1) for _ in range(2))
    values = {id(dense): [0.0] * 20 + [1.0] * 380, id(small): [1.0] * 360 + [0.0] * 40}
    task.evaluate = lambda model: torch.tensor(values[id(model)]).double().numpy()
    quality = comparison.judged(task, dense, small)
    assert quality.difference.value == pytest.approx(-0.05)
    error = ((60 / 400 - 0.05**2) / 400) ** 0.5
    assert quality.difference.low == pytest.approx(-0.05 - 1.96 * error, abs=0.005)
    assert quality.difference.high == pytest.approx(-0.05 + 1.96 * error, abs=0.005)
    assert quality.points
