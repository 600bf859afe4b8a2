"""The tables of an importance run with planted numbers."""

from pathlib import Path

import numpy as np
import pandas as pd

TASKS = {"small": 12, "digits": 32}
PRICES = {
    "magnitude": 0, "magnitude_all": 0, "confidence": 1, "entropy": 1, "fluctuation": 1, "fluctuation+normalize": 1,
    "least_squares": 1, "taylor_signed": 3, "taylor": 3.2, "taylor+normalize": 3.2, "fisher": 3.2,
    "taylor_second_order": 3.2, "least_squares+rounds": 8, "taylor_signed+rounds": 24, "fisher+rounds": 25,
    "taylor_second_order+rounds": 25, "gate": 24, "hard_concrete": 60, "subset": 60, "leave_one_out": 73,
    "leave_one_out+rounds": 330, "shapley": 578,
}  # fmt: skip
SHARES = {name: round(-0.2 + 0.05 * place, 2) for place, name in enumerate(PRICES)}  # the dearer the better


def write(directory: Path, criteria: list[str] | None = None) -> Path:
    """Every table that figures are drawn from; returns the directory."""
    names = list(PRICES) if criteria is None else criteria
    directory.mkdir(parents=True, exist_ok=True)
    for name, rows in (
        ("curves", [row for task in TASKS for row in _curves(task, names)]),
        ("areas", [row for task in (*TASKS, "all") for row in _areas(task, names)]),
        ("agreement", [row for task in TASKS for row in _agreement(task, names)]),
        (
            "cost",
            [
                {"task": task, "criterion": name, "forward": 5, "readings": PRICES[name]}
                for task in TASKS
                for name in names
            ],
        ),
        ("stability", [row for task in TASKS for row in _stability(task, names)]),
    ):
        pd.DataFrame(rows).to_csv(directory / f"{name}.csv", index=False)
    return directory


def _curves(task, names):
    total = TASKS[task]
    for name in (*names, "random", "best subset"):
        bend = 2.0 ** (-4 * {"random": 0.0, "best subset": 1.0}.get(name, SHARES.get(name, 0.0)))
        for kept in range(0, total + 1, total // 4):
            value = 0.2 + 0.75 * (kept / total) ** bend
            draws = (value - 0.1, value + 0.1) if name == "random" else (np.nan, np.nan)
            yield {
                "task": task, "criterion": name, "heads_kept": kept, "heads_total": total,
                "kept_fraction": kept / total, "value": value, "low": value - 0.02, "high": value + 0.02,
                "draws_low": draws[0], "draws_high": draws[1],
            }  # fmt: skip
    yield {
        "task": task, "criterion": "trained small", "heads_kept": total // 4, "heads_total": total,
        "kept_fraction": 0.25, "value": 0.9, "low": 0.88, "high": 0.92,
    }  # fmt: skip


def _areas(task, names):
    for name in (*names, "random", "dense"):
        share = {"random": 0.0, "dense": 1.0}.get(name, SHARES.get(name, 0.0))
        yield {"task": task, "criterion": name, "share": share, "share_low": share - 0.05, "share_high": share + 0.05}


def _agreement(task, names):
    merit = {name: SHARES[name] for name in names} | {"held out": 1.0}
    for one in merit:
        for other in merit:
            same = 1.0 if one == other else 1 - 1.5 * abs(merit[one] - merit[other])
            spearman = 0.97 if one == other == "held out" else same
            yield {"task": task, "seed": 0, "criterion": one, "other": other, "spearman": max(spearman, -1.0)}


def _stability(task, names):
    for name in names:
        for examples in (32, 64, 128, 256):
            for part in range(2):
                fixed = name.startswith("magnitude")
                spearman = 1.0 if fixed else 1 - (3 + part + SHARES[name]) / examples
                yield {"task": task, "criterion": name, "examples": examples, "spearman": spearman}
