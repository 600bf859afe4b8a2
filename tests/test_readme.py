"""The Python of the README, and of the pages in docs/, runs as it stands there, from the first line to the last."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import mha
from mha.families.base import find as registry
from mha.importance.registry import registered as criteria

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a page in an empty directory, with families and criteria of its own; returns its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    monkeypatch.setattr(criteria, "_CRITERIA", dict(criteria._CRITERIA))

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
    page = (ROOT / "docs" / "own-attention.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert sorted(explained) == sorted(mha.Family.__dataclass_fields__)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("README.md", "docs/own-attention.md")])
def test_other_pages(run, tmp_path, page):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "published").symlink_to(ROOT / "reports" / "published")  # is what a page may read
    if blocks(page):
        run(page)
