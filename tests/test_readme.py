"""The README's Python runs as it stands there, from the first line to the last."""

import re
from pathlib import Path

import torch

import mha

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    plan, model, smaller = names["plan"], names["model"], names["smaller"]
    assert sum(map(len, plan.keep.values())) == 8
    assert float(capsys.readouterr().out) < 1e-5
    assert mha.plan_of(smaller) == plan
    loaded = mha.load_pruned("smaller", model)
    assert torch.equal(loaded(names["batches"][0]), smaller(names["batches"][0]))
    assert (tmp_path / "heads.png").stat().st_size > 0


def test_pruning_takes_ten_lines():
    first = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert first is not None
    assert len([line for line in first[1].splitlines() if line]) == 10
