"""The code on the pages of docs/ runs as it stands there."""

import re
from pathlib import Path

import pytest

import mha
from mha.families import registry

DOCS = Path(__file__).parent.parent / "docs"
OWN_ATTENTION = DOCS / "own-attention.md"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text(encoding="utf-8")]


def run(page: Path) -> dict:
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(block, names)
    return names


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(page)


def test_the_attention_that_the_page_describes_is_pruned_right(capsys):
    names = run(OWN_ATTENTION)
    model, x, plan = names["model"], names["x"], names["plan"]
    printed = capsys.readouterr().out
    assert "'layers.0': 6 heads (grouped)" in printed
    assert mha.prune(model, plan).layers[0].qkv.weight.shape == ((2 + 2 + 2) * 5, 20)
    assert mha.check(model, mha.HeadPlan({"layers.0": (), "layers.1": [5]}), (x,)) < 1e-10
    with pytest.raises(mha.MhaError, match="same number of query"):
        mha.prune(model, mha.HeadPlan({"layers.0": [0, 1, 2]}))


def test_without_the_description_nothing_is_guessed():
    names: dict = {}
    first = re.search(r"```python\n(.*?)```", OWN_ATTENTION.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(first[1], names)
    found = mha.find_attention(names["Model"]())
    assert list(found) == []
    assert list(found.unsupported) == ["layers.0", "layers.1"]
