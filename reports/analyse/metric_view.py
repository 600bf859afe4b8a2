"""What part of a metric's range a figure shows: a few hopeless plans would leave no room for those that matter."""

from typing import NamedTuple

import pandas as pd

from reports.analyse.plan_names import label
from reports.base.formatting import count, per_cent
from reports.read.run import REFERENCES, Metric

MOST = 10.0  # of a metric of which less is better: so many times the dense model's value are shown
SHARE = 0.25  # of any other: so much of the way from the dense model down to chance


class View(NamedTuple):
    """Where a figure ends.

    Attributes:
        edge: the worst value of the metric that it has room for.
        log: whether its axis is logarithmic.
    """

    edge: float
    log: bool

    def inside(self, values: pd.Series, metric: Metric) -> pd.Series:
        """A mask of the values that there is room for."""
        return values >= self.edge if metric.higher_is_better else values <= self.edge


def view(table: pd.DataFrame, metric: Metric) -> View | None:
    """What a figure of these plans shows; None where there is room for all of them on a plain axis.

    From the dense model's value it goes as far as half of the pruned plans are, and at least as far as MOST or SHARE
    say.

    Args:
        table: a row for each plan, with the columns criterion and value.
    """
    dense = table.loc[table["criterion"] == "dense", "value"].astype(float)
    values = table.loc[~table["criterion"].isin(REFERENCES), "value"].astype(float)
    if dense.empty or values.empty:
        return None
    whole, median = float(dense.iloc[0]), float(values.median())
    if metric.higher_is_better:
        edge = min(whole - SHARE * (whole - metric.chance), median)
        return View(edge, log=False) if values.min() < edge < whole else None
    edge = max(MOST * whole, median)
    return View(edge, log=True) if 0 < edge < values.max() else None


def beyond(table: pd.DataFrame, metric: Metric, shown: View | None) -> str:
    """A sentence on the pruned plans that a figure has no room for, with a space in front; "" if it shows all."""
    plans = table[~table["criterion"].isin(REFERENCES)]
    outside = plans[:0] if shown is None else plans[~shown.inside(plans["value"], metric)]
    if shown is None or outside.empty:
        return ""
    worst = outside.sort_values("value", ascending=metric.higher_is_better).iloc[0]
    side = "below" if metric.higher_is_better else "beyond"
    return (
        f" At the edge stand those {side} {metric.text(shown.edge)}, {count(len(outside), 'choice')} of heads; the "
        f"worst, {label(worst, beside=False)} with {per_cent(worst['kept_fraction'])} of them, is at "
        f"{metric.text(worst['value'])}."
    )
