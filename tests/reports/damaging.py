"""Ways to spoil a run directory, and what a run says of it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

CASE = "cases/digits-taylor-keep0.5-b2-cpu.json"
NAME = CASE.removeprefix("cases/").removesuffix(".json")
TABLES = ["plans.csv", "scores.csv", "ceilings.csv", "predictions.csv", "operators.csv", "memory.csv"]
TOLD = ["slices.csv", "calibration.csv", "reliability.csv", "texts.csv"]  # of what changes beside the mean


def edit(path: Path, **changes) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | changes))


def cut(path: Path, share: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def plan_files(run) -> None:
    """What bench writes for each plan the moment it ends."""
    for row in run.plans:
        document = {"schema": 1, "status": "ok", "error": None, **row, "values": [1.0]}
        lists = {"shape": json.loads(row["shape"]), "keep": json.loads(row["keep"])}
        run.json(f"plans/{row['plan']}.json", document | lists)


def cut_off(run) -> None:
    """As a run is left that was killed: tables that the end assembles are not there."""
    run.environment["finished"] = None
    plan_files(run)
    run.plans = []


def rewrite(path: Path, change) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


def change_arrays(path: Path, **changes) -> None:
    """Of the first layer; None takes one away."""
    with np.load(path / "attention.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    arrays |= {f"digits/blocks.0.attention/{name}": array for name, array in changes.items()}
    np.savez(path / "attention.npz", **{name: array for name, array in arrays.items() if array is not None})


def left_out(run) -> list[list[str]]:
    return run.left_out[["what", "reason"]].values.tolist()
