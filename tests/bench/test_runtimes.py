"""Models in several runtimes: judged there as in torch, timed in turns, and what can't be had is told."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import mha
from bench import tasks
from bench.runtimes import __main__ as command
from bench.runtimes import alone, arms
from bench.runtimes.__main__ import _why, main
from tests.bench.tiny_task import TinyTask


class Writer:
    """Stands for llama.cpp: of four tokens it tells the two likeliest, unless it is asked for all."""

    def next_token(self, prompt, most=2):
        told = torch.tensor([0.05, 0.5, 0.25, 0.2], dtype=torch.float64).roll(len(prompt) - 1).log()
        return told if most >= 4 else told.where(told >= told.topk(most).values[-1], -torch.inf)


def test_each_runtime_says_what_torch_says(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setattr(tasks, "names", lambda: ["tiny"])
    monkeypatch.setattr(tasks, "load", lambda _: TinyTask())
    known = {}  # each takes a process: one of each format is enough

    def peak(arm, *given):
        known[arm.format] = known.get(arm.format) or alone.peak_of(arm, *given)
        return known[arm.format]

    monkeypatch.setattr(command, "peak_of", peak)
    given = ["-o", str(tmp_path), "--tasks", "tiny", "--keep", "0.5", "--runtimes", "eager", "torch", "gguf"]
    assert main([*given, "--batch", "3", "--seconds", "0.1"]) == 0
    with (tmp_path / "runtimes.csv").open() as file:
        every = list(csv.DictReader(file))
    (refused,) = (row for row in every if row["runtime"] == "llama.cpp")
    rows = [row for row in every if row["status"] == "ok" and row["weights"] == "float32"]
    assert refused["status"] == "refused"
    assert any(why in refused["reason"] for why in ("and this is TinyModel", "xllamacpp is needed to export to gguf"))
    assert [(row["variant"], row["runtime"], row["heads_kept"]) for row in rows] == [
        ("dense", "PyTorch", "6"), ("dense", "torch.export", "6"),
        ("pruned", "PyTorch", "3"), ("pruned", "torch.export", "3"),
    ]  # fmt: skip
    for eager, exported in (rows[:2], rows[2:]):
        assert eager["value"] == exported["value"]
        assert float(exported["off_by"]) < 1e-5
    assert float(rows[0]["difference"]) == 0.0
    assert float(rows[0]["ratio"]) == 1.0
    assert [float(row["own_ratio"]) == 1.0 for row in rows] == [True, True, False, False]
    assert float(rows[2]["file_bytes"]) < float(rows[0]["file_bytes"])
    assert all(float(row["memory_bytes"]) > 0 for row in rows)
    with (tmp_path / "samples.csv").open() as file:
        samples = list(csv.DictReader(file))
    assert {row["arm"] for row in samples} >= {
        "dense, float32, PyTorch", "dense, float32, torch.export",
        "pruned to 50 %, float32, PyTorch", "pruned to 50 %, float32, torch.export",
    }  # fmt: skip
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert facts["command"].startswith("python -m bench.runtimes -o ")
    assert facts["finished"] is not None


def test_a_reason_is_one_line_and_has_no_path(tmp_path):
    failed = mha.EquivalenceError(f"{tmp_path}:\nids 2×8: off by 1\nonnx does NOT compute it: at most 0.3, allowed 0.2")
    assert _why(failed, tmp_path) == "EquivalenceError: onnx does NOT compute it: at most 0.3, allowed 0.2"
    assert (
        _why(mha.ExportError(f"{tmp_path} holds no export\nmore"), tmp_path)
        == "ExportError: the export holds no export"
    )


def test_inputs_have_the_mask_that_exports_take():
    ids = torch.tensor([[3, 1, 2]])
    takes = SimpleNamespace(export=SimpleNamespace(sizes={"input_ids": [None, None], "attention_mask": [None, None]}))
    found = command._with_mask({"input_ids": ids}, [SimpleNamespace(export=None), takes])
    assert torch.equal(found["attention_mask"], torch.ones(1, 3, dtype=torch.int64))
    assert command._with_mask({"x": ids}, [takes]).keys() == {"x"}
    assert command._with_mask({"input_ids": ids}, [SimpleNamespace(export=None)]).keys() == {"input_ids"}


def test_times_are_not_lost_where_memory_can_not_be_measured(monkeypatch, tmp_path, capsys):
    def fails(*_):
        raise RuntimeError("dense: its memory can't be measured")

    monkeypatch.setattr(command, "peak_of", fails)
    assert command._peak(SimpleNamespace(), {}, tmp_path) != command._peak(SimpleNamespace(), {}, tmp_path)  # NaN
    assert "its memory can't be measured" in "".join(capsys.readouterr())


def test_a_model_makes_calls_of_its_own_before_one_is_timed(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(command.time, "perf_counter", lambda: clock[0])

    def takes(seconds):
        def call():
            calls.append(seconds)
            clock[0] += seconds

        return call

    for seconds, own, expected in ((0.009, 0.02, 3), (0.02, 0.02, 1), (5.0, 0.02, 1), (5.0, 0.0, 0)):
        calls = []
        prepared = command._after_its_own(takes(seconds), own)
        assert len(calls) == expected
        prepared()
        assert len(calls) == expected + 1


class Echo(nn.Module):
    """Returns what it is given, under names, and notes how much that was."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, x, lens):
        self.rows.append(len(x))
        return {"x": x, "lens": lens}


def test_a_runtime_with_planned_memory_is_given_no_more_rows_at_once():
    model = Echo()
    planned = SimpleNamespace(largest={"x": [3, 256], "lens": [3]})
    arm = SimpleNamespace(export=planned, format="executorch", variant=SimpleNamespace(model=model))
    arm.run = lambda inputs: model(**inputs)
    x, lens = torch.randn(7, 5), torch.arange(7)
    found = arms.InRuntime(arm)(x, lens)
    assert model.rows == [3, 3, 1]
    assert torch.equal(found["x"], x)
    assert torch.equal(found["lens"], lens)


def test_what_llama_cpp_tells_is_made_whole():
    logits = arms.teacher_forced(Writer(), torch.tensor([[3, 0, 2]]))
    assert logits.shape == (1, 3, 4)
    assert torch.allclose(logits.exp().sum(-1), torch.ones(1, 3, dtype=torch.float64))
    assert logits[0, 0, 0].exp().item() == pytest.approx(0.05)  # follows, and was not among those told at first
    assert logits[0, 1].exp().tolist() == pytest.approx([0.25, 0, 0.5, 0.25])  # the rest stands on the first untold
    assert (logits[0, 2] > -torch.inf).sum() == 3  # nothing follows: two are told, and the rest stands on one
