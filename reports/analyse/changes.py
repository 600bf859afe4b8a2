"""What pruning changes beside the mean: single examples, parts of them, and how sure models are."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta

from reports.analyse import frames
from reports.analyse.plan_names import has_repairs, label
from reports.base.formatting import per_cent
from reports.base.stats import LEVEL
from reports.read.run import REFERENCES, Run

RELATIVE, ABSOLUTE = 1e-4, 1e-6  # what differs by less is rounding
QUANTILES = {"worst": 0.05, "middle": 0.5, "best": 0.95}  # of how much better examples get
SHOWN = 3  # plans of a figure that shows a few


def examples(run: Run, task: str) -> pd.DataFrame:
    """How many examples each plan changes, a row for each of `frames.accuracies`; empty if nothing tells it.

    Columns: those of `frames.accuracies`; flips (whether all values are 0 or 1, so that an example is right or wrong);
    worse and better (shares of the examples, beyond rounding), each with _low and _high (Clopper and Pearson 1934); and
    the QUANTILES of how much better examples get, negative where they get worse. Means of several draws are left out.
    """
    plans = frames.accuracies(run, task)
    mine = run.examples[run.examples["task"] == task]
    by_plan = {str(plan): rows for plan, rows in mine.groupby("plan", observed=True)}
    values = {
        str(row["plan"]): found
        for _, row in plans.iterrows()
        if row["plan"] in by_plan and (found := _values(by_plan[row["plan"]], row["value"])) is not None
    }
    dense = next((values.get(plan) for plan in plans.loc[plans["criterion"] == "dense", "plan"]), None)
    better = 1 if run.metric(task).higher_is_better else -1
    rows = []
    for _, row in plans[(plans["draws"] == 1) & (plans["criterion"] != "dense")].iterrows():
        pruned = values.get(row["plan"])
        if dense is not None and pruned is not None and pruned.index.equals(dense.index):
            rows.append({**row, **_changes(pruned.to_numpy(), dense.to_numpy(), better)})
    return pd.DataFrame(rows)


def _values(rows: pd.DataFrame, metric: float) -> pd.Series | None:
    """The values in the rows of a plan's examples, by their numbers; None if they may be no metric of single examples.

    What is not told to be that is taken for it if its mean is the plan's metric.
    """
    values = rows.set_index("example")["value"].sort_index()
    is_known = rows["told"].all() or np.isclose(values.mean(), metric)
    return values if is_known and values.index.is_unique else None


def _changes(pruned: np.ndarray, dense: np.ndarray, better: int) -> dict[str, Any]:
    """The columns of `examples` that tell how the values (n,) of a pruned model differ from the dense model's.

    Args:
        better: 1 if a larger value is better, else -1.
    """
    change = better * (pruned - dense)
    change[np.isclose(pruned, dense, rtol=RELATIVE, atol=ABSOLUTE)] = 0
    found: dict[str, Any] = {"flips": bool(np.isin([pruned, dense], (0, 1)).all())}
    for name, count in (("worse", (change < 0).sum()), ("better", (change > 0).sum())):
        low, high = share_interval(int(count), len(change))
        found |= {name: count / len(change), f"{name}_low": low, f"{name}_high": high}
    quantiles = np.quantile(change, list(QUANTILES.values()))
    return found | {"judged": len(change)} | dict(zip(QUANTILES, map(float, quantiles), strict=True))


def share_interval(count: int, of: int) -> tuple[float, float]:
    """The exact 95 % interval of a share, given how many there were of how many (Clopper and Pearson 1934)."""
    tail = (1 - LEVEL) / 2
    low = beta.ppf(tail, count, of - count + 1) if count else 0.0
    high = beta.ppf(1 - tail, count + 1, of - count) if count < of else 1.0
    return float(low), float(high)


def told_plans(run: Run, task: str, plans: pd.Series) -> pd.DataFrame:
    """The rows of `frames.accuracies` whose plan is among `plans`, with `label`, what a plan is called."""
    rows = frames.accuracies(run, task)
    rows = rows[(rows["draws"] == 1) | (rows["draw"] == 0)]
    rows = rows[rows["plan"].isin(set(plans))]
    beside = has_repairs(rows)
    return rows.assign(label=[_label(row, beside=beside) for _, row in rows.iterrows()])


def _label(row: pd.Series, *, beside: bool) -> str:
    """What a plan is called: "dense", "no heads", or how it was made and the share of the heads that it keeps."""
    names = {"dense": "dense", "none": "no heads"}
    return names.get(row["criterion"]) or f"{label(row, beside=beside)}, {per_cent(row['kept_fraction'])} kept"


def few(run: Run, task: str, plans: pd.DataFrame) -> pd.DataFrame:
    """Of `plans` (rows of `told_plans`) those that a figure shows: of one criterion and repair, at most SHOWN shares.

    They are those whose plan is best at the share nearest to a half. Falling shares; empty if there is none.
    """
    pruned = plans[~plans["criterion"].isin(REFERENCES)]
    if pruned.empty:
        return pruned
    near = (pruned["kept_fraction"] - 0.5).abs()
    merit = pruned.loc[near == near.min(), "value"] * (1 if run.metric(task).higher_is_better else -1)
    best = pruned.loc[merit.idxmax()]
    mine = pruned[(pruned["criterion"] == best["criterion"]) & (pruned["repair"] == best["repair"])]
    mine = mine.sort_values("kept_fraction", ascending=False)
    places = np.unique(np.linspace(0, len(mine) - 1, min(SHOWN, len(mine))).round().astype(int))
    return mine.iloc[places]
