"""Run directories written by hand, with planted speedups, so that every number on a page is known."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PLAN_COLUMNS = [
    "plan", "task", "criterion", "draw", "kept_fraction", "heads_kept", "heads_total", "parameters", "shape", "keep",
    "value", "low", "high", "difference", "difference_low", "difference_high", "examples",
]  # fmt: skip
REPAIR_COLUMNS = ["repair", "repair_seconds", "repair_bytes"]  # older runs lack them
SCORE_COLUMNS = ["task", "criterion", "layer", "head", "score", "seconds"]
MEMORY_COLUMNS = ["task", "device", "criterion", "kept_fraction", "batch", "seconds", "bytes"]
OPERATOR_COLUMNS = [*MEMORY_COLUMNS[:5], "operator", "calls", "seconds", "device_seconds", "bytes"]
PREDICTION_COLUMNS = [
    "task", "device", "plan", "shape", "predicted", "measured", "low", "high", "error", "ended", "rounds"
]  # fmt: skip
CEILING_COLUMNS = ["device", "dtype", "ceiling", "value", "low", "high", "samples", "process"]
SLICE_COLUMNS = [
    "task", "plan", "slice", "examples", "value", "dense", "difference", "difference_low", "difference_high"
]  # fmt: skip
CALIBRATION_COLUMNS = [
    "task", "plan", "measure", "value", "low", "high", "difference", "difference_low", "difference_high", "answers"
]  # fmt: skip
RELIABILITY_COLUMNS = ["task", "plan", "bin", "answers", "confidence", "right"]
TEXT_COLUMNS = ["task", "plan", "number", "prompt", "pieces"]
MATMUL, COPY = 1e12, 1e11  # FLOP/s, bytes/s
DENSE_SECONDS = 0.012  # at batch 1; twice that at 2


class RunWriter:
    """Fills a run directory as docs/run-directory.md says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plans: list[dict[str, Any]] = []
        self.examples: list[pd.DataFrame] = []
        self.scores: list[Sequence[Any]] = []
        self.attention: dict[str, np.ndarray] = {}
        self.tables: dict[str, tuple[Sequence[str], list[Sequence[Any]]]] = {}
        self.environment: dict[str, Any] = {
            "schema": 1, "created": "2026-11-23T05:00:00+00:00", "finished": "2026-11-23T05:09:00+00:00",
            "interrupted": False, "command": "pytest bench --quick", "cpu": "AMD EPYC", "cores": 2, "threads": 2,
            "governor": None, "memory_bytes": 25 * 2**30, "platform": "Linux", "python": "3.11.7",
            "packages": {"torch": "2.13.0", "numpy": "2.4.6"}, "accelerators": {}, "revision": "0f3c2aa",
            "dirty": False, "tasks": {},
        }  # fmt: skip

    def task(self, name: str, layers: Mapping[str, int], **changes: Any) -> None:
        about = {
            "metric": "accuracy", "higher_is_better": True, "chance": 0.1, "layers": dict(layers),
            "heads": sum(layers.values()), "parameters": 123457, "examples": 2003, "batch_size": 2,
            "description": "Finds the odd digit",
        }  # fmt: skip
        self.environment["tasks"][name] = about | changes

    def plan(self, task: str, criterion: str, kept: float, value: float, *, draw: int = 0, **changes: Any) -> None:
        layers = self.environment["tasks"][task]["layers"]
        total = sum(layers.values())
        name = f"{task}-{criterion}" if criterion in ("dense", "none") else f"{task}-{criterion}-keep{kept}-{draw}"
        row = {
            "plan": name, "task": task, "criterion": criterion, "draw": draw, "kept_fraction": kept,
            "heads_kept": round(kept * total), "heads_total": total, "parameters": 100003, "shape": "[1]",
            "keep": "{}", "value": value, "low": value - 0.01, "high": value + 0.01, "difference": value - 0.97,
            "difference_low": value - 0.98, "difference_high": value - 0.96, "examples": 2003,
        }  # fmt: skip
        self.plans.append(row | changes)

    def case(
        self, task: str, criterion: str | None, kept: float, batch: int, samples: Iterable[Any], **changes: Any
    ) -> str:
        layers = self.environment["tasks"].get(task, {"layers": {"": 8}})["layers"]
        total = sum(layers.values())
        name = changes.pop("case", f"{task}-{criterion}-keep{kept}-b{batch}-cpu")
        document = {
            "schema": 1, "case": name, "kind": "pruning", "status": "ok", "error": None, "task": task,
            "criterion": criterion, "plan": f"{task}-{criterion}-keep{kept}-0", "kept_fraction": kept,
            "heads_kept": round(kept * total), "heads_total": total, "shape": [round(kept * total)], "batch": batch,
            "seq_len": 7, "device": "cpu", "dtype": "float32", "timed_by": name, "samples": list(samples),
        }  # fmt: skip
        process = changes.get("process", 0)
        self.json(f"cases/{name}{f'+{process}' if process else ''}.json", document | changes)
        return name

    def layer_case(
        self, heads: int, batch: int, seq_len: int, kept: float, samples: Iterable[Any], **changes: Any
    ) -> str:
        name = changes.pop("case", f"attention-h{heads}-keep{kept}-b{batch}-s{seq_len}-cpu")
        about = {
            "kind": "attention", "plan": None, "seq_len": seq_len, "heads_total": heads,
            "heads_kept": round(kept * heads), "shape": [round(kept * heads)],
        }  # fmt: skip
        return self.case("attention", None, kept, batch, samples, case=name, **about | changes)

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Add rows to a CSV table that stands as it is in the run."""
        self.tables.setdefault(name, (columns, []))[1].extend(rows)

    def example_values(self, plan: str, values: Sequence[float], task: str = "digits") -> None:
        """What a plan's model does on each example, where that is the metric of the example alone."""
        told = {"task": task, "plan": plan, "example": range(len(values)), "value_0": values, "alone": values}
        self.examples.append(pd.DataFrame(told))

    def json(self, name: str, document: Any) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document), encoding="utf-8")

    def finish(self) -> Path:
        self.json("environment.json", self.environment)
        if self.plans:
            columns = [*PLAN_COLUMNS, *(name for name in REPAIR_COLUMNS if any(name in row for row in self.plans))]
            self._csv("plans.csv", columns, [[row.get(column) for column in columns] for row in self.plans])
            values = {"task": "digits", "plan": [row["plan"] for row in self.plans], "example": 0, "value_0": 1.0}
            frames = self.examples or [pd.DataFrame(values)]
            pd.concat(frames, ignore_index=True).to_parquet(self.path / "examples.parquet")
        if self.scores:
            self._csv("scores.csv", SCORE_COLUMNS, self.scores)
        for name, (columns, rows) in self.tables.items():
            self._csv(name, columns, rows)
        if self.attention:
            np.savez_compressed(self.path / "attention.npz", allow_pickle=False, **self.attention)
        return self.path

    def _csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        with (self.path / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])


def paired(dense: float, speedup: float, rounds: int = 11, arms: tuple[str, str] = ("dense", "pruned")) -> list[dict]:
    """Samples whose ratio is `speedup` in every round, while both arms drift up to three times slower."""
    drift = 1 + 2 * np.arange(rounds) / max(1, rounds - 1)
    times = {arms[0]: dense * drift, arms[1]: dense * drift / speedup}
    return [{"arm": arm, "round": turn, "seconds": float(times[arm][turn])} for turn in range(rounds) for arm in arms]


def counted(
    dense: tuple[float, float], pruned: tuple[float, float], arms: tuple[str, str] = ("dense", "pruned"), **more: Any
) -> dict:
    """Counts of both arms whose ceiling times are those seconds: (of the matrix products, of what must move)."""
    return {
        arm: {
            "flops": int(compute * MATMUL), "attention_flops": int(compute * MATMUL / 7), "bytes": int(move * COPY),
            "parameters": 1009, "peak_bytes": 3 * 2**20, "cache_bytes": None,
        } | more
        for arm, (compute, move) in zip(arms, (dense, pruned), strict=True)
    }  # fmt: skip


def attention_arrays(task: str, layer: str, heads: int, kept: Sequence[int], queries: int, keys: int) -> dict[str, Any]:
    weights = np.random.default_rng(3).dirichlet(np.full(keys, 0.3), (heads, queries))
    return {
        f"{task}/{layer}/dense": weights,
        f"{task}/{layer}/pruned": np.clip(weights[list(kept)] + 0.25, 0, 1),
        f"{task}/{layer}/heads": np.array(kept, dtype=int),
        f"{task}/{layer}/queries": np.array([f"q{index}" for index in range(queries)]),
        f"{task}/{layer}/keys": np.array([f"k{index}" for index in range(keys)]),
        f"{task}/plan": np.array(f"{task}-taylor-keep0.5-0"),
    }


def fill(run: RunWriter) -> None:
    """One task with everything a run can have.

    Planted: speedup 2 at half of the heads and 4 at a quarter, at batch 2; 1 at batch 1. `magnitude` shares taylor's
    shape at a half. Random accuracies are 0.50, 0.51 … 0.70 at a half. Without any head, speedup 8 at batch 2 and 1.25
    at batch 1. At batch 2 the dense model is at 0.8 of its ceiling, bound by its products, taylor at a half at 0.75 and
    bound by memory, at a quarter at 0.1.
    """
    run.task("digits", {"blocks.0.attention": 8, "blocks.1.attention": 8})
    run.plan("digits", "dense", 1.0, 0.97)
    run.plan("digits", "none", 0.0, 0.3)
    for criterion, loss in (("taylor", 0.005), ("magnitude", 0.1)):
        run.plan("digits", criterion, 0.5, 0.97 - loss)
        run.plan("digits", criterion, 0.25, 0.97 - 3 * loss)
    for draw in range(21):
        run.plan("digits", "random", 0.5, 0.5 + draw / 100, draw=draw)
    for batch in (1, 2):
        for kept, speedup in ((0.5, 2.0), (0.25, 4.0)):
            samples = paired(DENSE_SECONDS * batch, speedup if batch == 2 else 1.0)
            ceiling = (0.001, 0.018) if kept == 0.5 else (0.0012, 0.0007)
            counts = counted((0.0384, 0.001), ceiling) if batch == 2 else {}
            name = run.case("digits", "taylor", kept, batch, samples, counts=counts)
            run.case("digits", "magnitude", kept, batch, [], timed_by=name)
        run.case(
            "digits", "random", 0.5, batch, paired(DENSE_SECONDS * batch, 1.6 if batch == 2 else 1.0), shape=[3, 5]
        )
        whole = paired(DENSE_SECONDS * batch, 8.0 if batch == 2 else 1.25)
        run.case("digits", "none", 0.0, batch, whole, case=f"digits-none-b{batch}-cpu", plan="digits-none")
    for criterion, sign in (("taylor", 1), ("magnitude", -1)):
        for layer in ("blocks.0.attention", "blocks.1.attention"):
            run.scores += [
                ("digits", criterion, layer, head, sign * (head + 0.5 * len(layer)), 1.5) for head in range(8)
            ]
    run.attention = attention_arrays("digits", "blocks.0.attention", 8, [1, 4, 6], 5, 7)
    run.attention |= attention_arrays("digits", "blocks.1.attention", 8, [], 5, 7)
    for heads in (4, 8):
        for seq_len in (16, 64):
            run.layer_case(heads, 3, seq_len, 1.0, paired(0.002, 1.25, arms=("torch", "mha")))
            run.layer_case(heads, 3, seq_len, 0.5, paired(0.001 * seq_len * heads, 1.8))
    run.json(
        "cases/digits-gate-keep0.5-b2-cpu.json",
        {
            "schema": 1,
            "case": "digits-gate-keep0.5-b2-cpu",
            "status": "failed",
            "error": "Boom\nRuntimeError: <b>no</b>",
        },
    )
    run.json("plans/digits-gate-keep0.5-0.json", {"schema": 1, "status": "failed", "error": "gate would not train"})

    fill_profile(run)
    fill_generation(run)
    fill_changes(run)
    run.table("ceilings.csv", CEILING_COLUMNS, [
        ("cpu", "float32", ceiling, value * turn, 0.9 * value, 1.1 * value, 31, process)
        for ceiling, value in (("matmul", MATMUL), ("copy", COPY)) for process, turn in enumerate((0.5, 1.0, 1.5))
    ])  # fmt: skip
    run.table("predictions.csv", PREDICTION_COLUMNS, [
        ("digits", "cpu", f"plan-{place}", "[3, 5]", predicted, measured, measured - 0.01, measured + 0.01,
         predicted / measured - 1, "steady", 12)
        for place, (predicted, measured) in enumerate([(0.5, 0.5), (0.618, 0.6), (0.77, 0.7)])
    ])  # fmt: skip


def fill_profile(run: RunWriter) -> None:
    """What nox -s profile adds: 5 ms of operators dense, 3 at a half; 6 and 4 MiB at the most."""
    for kept, products, memory in ((1.0, 4.0, 6), (0.5, 2.0, 4)):
        about = ("digits", "cpu", "dense" if kept == 1 else "taylor", kept, 2)
        operators = {"aten::addmm": products, "aten::softmax": 0.75, "aten::view": 0.25}
        run.table("operators.csv", OPERATOR_COLUMNS, [
            (*about, name, 3, ms / 1e3, 0.0, 17) for name, ms in operators.items()
        ])  # fmt: skip
        steps = ((0.0, 0), (0.001, memory * 2**20), (0.003, 2**20), (0.004, 0))
        run.table("memory.csv", MEMORY_COLUMNS, [(*about, *step) for step in steps])


def fill_repaired(run: RunWriter) -> None:
    """The same task, whose taylor plans at a half and a quarter are repaired, beside one that was shrunk to a quarter.

    Planted: repaired, taylor reaches 0.969 at a half and 0.966 at a quarter; shrink 0.968 at a quarter, three times as
    fast as dense at batch 2.
    """
    fill(run)
    for plan in run.plans:
        plan["repair"] = "none"
    about = {"repair_seconds": 3.5, "repair_bytes": 3 * 2**20}
    for criterion, kept, value, repair in (
        ("taylor", 0.5, 0.969, "compensate"), ("taylor", 0.25, 0.966, "compensate"), ("shrink", 0.25, 0.968, "shrink")
    ):  # fmt: skip
        ends = {"difference_low": value - 0.975, "difference_high": value - 0.965}
        name = f"digits-{criterion}-keep{kept}-{repair}-0"
        run.plan("digits", criterion, kept, value, plan=name, repair=repair, **ends, **about)
    for kept in (0.5, 0.25):
        run.case(
            "digits", "taylor", kept, 2, [], case=f"digits-taylor-keep{kept}-compensate-b2-cpu", repair="compensate",
            timed_by=f"digits-taylor-keep{kept}-b2-cpu",
        )  # fmt: skip
    run.case("digits", "shrink", 0.25, 2, paired(2 * DENSE_SECONDS, 3.0), shape=[1, 3], repair="shrink")


def fill_generation(run: RunWriter) -> None:
    """A causal model: at a half of the heads prefill is twice as fast and decode 1.25 times."""
    for phase, seconds, speedup, tokens in (("prefill", 0.01, 2.0, 3 * 19), ("decode", 0.005, 1.25, 3)):
        counts = counted((0.001, 0.001), (0.001, 0.001))
        counts["dense"]["cache_bytes"], counts["pruned"]["cache_bytes"] = 2**21, 2**20
        run.case(
            "llama", None, 0.5, 3, paired(seconds, speedup), case=f"generation-llama-keep0.5-{phase}-cpu",
            kind="generation", plan=None, phase=phase, seq_len=19, tokens=tokens, counts=counts, mask="causal",
        )  # fmt: skip


def fill_changes(run: RunWriter) -> None:
    """What changes beside the mean, of the dense model and of taylor.

    Of 200 examples the dense model has the last 6 wrong; at a half of the heads the first 7 and the last 3 are wrong
    too, at a quarter the first 30. Slice `odd` loses 20 points at a half and 40 at a quarter, `even` 1 and 2. The dense
    model is as often right as sure; at a half it is right 10 points less often than sure, at a quarter 20.
    """
    half, quarter = "digits-taylor-keep0.5-0", "digits-taylor-keep0.25-0"
    for plan, wrong in (
        ("digits-dense", [*range(194, 200)]), (half, [*range(7), *range(197, 200)]), (quarter, [*range(30)]),
    ):  # fmt: skip
        run.example_values(plan, [float(example not in wrong) for example in range(200)])
    for plan, odd, even in ((half, 0.2, 0.01), (quarter, 0.4, 0.02)):
        run.table("slices.csv", SLICE_COLUMNS, [
            ("digits", plan, name, examples, 0.97 - loss, 0.97, -loss, -loss - 0.05, -loss + 0.05)
            for name, examples, loss in (("even", 131, even), ("odd", 69, odd))
        ])  # fmt: skip
    for plan, gap in (("digits-dense", 0.0), (half, 0.1), (quarter, 0.2)):
        run.table("reliability.csv", RELIABILITY_COLUMNS, [
            ("digits", plan, place, 400, sure, sure - gap) for place, sure in enumerate((0.3, 0.9))
        ])  # fmt: skip
        run.table("calibration.csv", CALIBRATION_COLUMNS, [
            ("digits", plan, measure, gap * scale, gap * scale, gap * scale + 0.01, gap * scale, 0, 0.4, 800)
            for measure, scale in (("calibration error", 1), ("overconfidence", 1), ("Brier score", 0.1))
        ])  # fmt: skip
    for plan, pieces in (
        ("digits-dense", [" a", " <b>", " c", "\nd"]), (half, [" a", " <b>", " e"]), (quarter, [" <i>", " <b>", " c"]),
    ):  # fmt: skip
        run.table("texts.csv", TEXT_COLUMNS, [
            ("digits", plan, 0, "Say <it>,", json.dumps(pieces)), ("digits", plan, 1, "Again", json.dumps([" yes"])),
        ])  # fmt: skip


def fill_minimal(run: RunWriter) -> None:
    """One case, one criterion, one round, and the accuracy of two plans."""
    run.task("digits", {"attention": 2})
    run.plan("digits", "dense", 1.0, 0.97)
    run.plan("digits", "taylor", 0.5, 0.9)
    run.case("digits", "taylor", 0.5, 2, paired(DENSE_SECONDS, 2.0, rounds=1))
    run.scores = [("digits", "taylor", "attention", head, 0.0, 0.5) for head in range(2)]
    run.attention = attention_arrays("digits", "attention", 2, [0], 1, 1)
    run.layer_case(4, 3, 16, 1.0, paired(0.002, 1.25, rounds=1, arms=("torch", "mha")))
    run.layer_case(4, 3, 16, 0.5, paired(0.002, 1.8, rounds=1))
    counts = counted((0.001, 0.001), (0.001, 0.001))
    run.case("digits", "even", 0.5, 1, paired(0.01, 2.0, rounds=1), counts=counts)
    run.case("digits", "none", 0.0, 1, paired(0.01, 4.0, rounds=1), case="digits-none-b1-cpu")
    run.case(
        "llama", None, 0.5, 1, paired(0.01, 2.0, rounds=1), case="generation-cpu", kind="generation", plan=None,
        phase="decode", tokens=1,
    )  # fmt: skip
    run.table("ceilings.csv", CEILING_COLUMNS, [
        ("cpu", "float32", ceiling, 1e12, "", "", 1, 0) for ceiling in ("matmul", "copy")
    ])  # fmt: skip
    for plan in ("digits-dense", "digits-taylor-keep0.5-0"):
        run.example_values(plan, [1.0])
        run.table("reliability.csv", RELIABILITY_COLUMNS, [("digits", plan, 0, 1, 1.0, 1.0)])
    run.table("slices.csv", SLICE_COLUMNS, [("digits", "digits-taylor-keep0.5-0", "all", 1, 0.9, 0.97, -0.07, -1, 1)])
    run.table("operators.csv", OPERATOR_COLUMNS, [("digits", "cpu", "dense", 1.0, 2, "aten::addmm", 3, 0.1, 0, 17)])
    run.table("memory.csv", MEMORY_COLUMNS, [("digits", "cpu", "dense", 1.0, 2, 0.0, 0)])
    run.table("predictions.csv", PREDICTION_COLUMNS, [
        ("digits", "cpu", "plan", "[1]", 0.5, 0.5, "", "", 0, "steady", 1)
    ])  # fmt: skip
