"""Every criterion has a page, whose formula is that of the docstring, and whose price is what scoring spends."""

import inspect
import re
from pathlib import Path

import pytest
import torch

import mha
from docs.criterion_directive import MEASURED, all_criteria, said_by_the_code, said_by_the_measurements
from mha.importance.registry import describe

PAGES = Path(__file__).parents[1] / "docs" / "criteria"
FORMULA = re.compile(r"^```text\n(.+)\n```$", re.MULTILINE)
PRICE = re.compile(r"^Forward passes over the calibration data: `(.+?)`; backward passes: `(.+?)`\.", re.MULTILINE)
UP_TO = {"leave_one_out", "shapley"}  # whose price is the most that they spend
SECTIONS = ["Price", "When it fails", "Source", "Measured"]
MADE_UP = """
## Results: some models

Measured some day, on `this`.

| criterion | price | share |
| --- | --- | --- |
| **taylor** | 3 | 0.5 [0.4, 0.6] |
| taylor_signed | 3 | 0.1 |
| taylor+rounds | 9 | 0.7 |

A share that goes unnoticed.

| heads chosen by | small |
| --- | --- |
| taylor | 8% |
"""


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def test_every_criterion_has_a_page_and_every_page_a_criterion():
    assert sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "index") == list(mha.criteria())
    listed = re.findall(r"^(\w+)$", page("index").split("{toctree}")[1], flags=re.MULTILINE)
    assert sorted(listed) == list(mha.criteria())


@pytest.mark.parametrize("name", mha.criteria())
def test_a_page_says_what_the_code_says(name):
    text, doc = page(name), " ".join((inspect.getdoc(describe(name).function) or "").split())
    (formula,) = FORMULA.findall(text)
    assert formula in doc
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == SECTIONS
    assert re.findall(r"^```\{(.+)\} (\w+)$", text, flags=re.MULTILINE) == [
        ("criterion", name),
        ("criterion-measured", name),
    ]
    said = said_by_the_code(name)
    assert all(f"| `{option}` | `{default!r}` | " in said for option, default in describe(name).options.items())
    assert not re.search(r"\|  \|$", said, flags=re.MULTILINE), "an option that the docstring does not explain"


@pytest.mark.parametrize("name", mha.criteria())
def test_the_price_is_what_is_spent(name):
    torch.manual_seed(0)
    model = mha.MultiHeadAttention.square(6, num_heads=3).double().eval()
    batches = [torch.randn(5, 7, 6, dtype=torch.float64) for _ in range(2)]
    unit = {"unit": "batch"} if "unit" in describe(name).options else {}
    scores = mha.score(model, batches, lambda model, x: (model(x, x, x) - x).square().mean(), name, **unit)
    forward, backward = (eval(price, {"H": 3}) * len(batches) for price in PRICE.findall(page(name))[0])
    assert scores.spent.backward == backward
    if name in UP_TO:
        assert forward / 4 <= scores.spent.forward <= forward
    else:
        assert scores.spent.forward == forward


def test_measured_figures_are_those_of_the_tables():
    assert said_by_the_measurements("taylor", MADE_UP) == (
        "**Some models, over all tasks**\n\n"
        "|  | taylor | taylor+rounds |\n| --- | --- | --- |\n| price | 3 | 9 |\n| share | 0.5 [0.4, 0.6] | 0.7 |"
    )
    assert said_by_the_measurements("gate", MADE_UP) == "It has not been measured yet."
    measured = {name: said_by_the_measurements(name, MEASURED.read_text(encoding="utf-8")) for name in mha.criteria()}
    assert [name for name, text in measured.items() if "not been measured" in text and name != "random"] == []


def test_what_the_code_says_is_no_markup():
    said = said_by_the_code("taylor")
    assert said.startswith(
        r"How far the loss would move to first order, up or down, without the head: I\_h = E\_x \|∂L"
    )
    assert "- Reads: gradients\n- Scores of different layers compare: yes\n" in said
    assert said.endswith("does not have the examples first, or the loss does not decompose over examples.")
    assert "- **[magnitude](magnitude.md)**: The Frobenius norm" in all_criteria()


def test_the_page_on_clusters_says_what_workers_do_for_each_criterion():
    rows = re.findall(
        r"^\| \[(\w+)\]\(criteria/\1\.md\) \| (.+) \|$", (PAGES.parent / "cluster-scoring.md").read_text(), re.MULTILINE
    )
    assert rows == [(name, describe(name).on_cluster) for name in mha.criteria()]
