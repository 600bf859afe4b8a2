"""Whether a pruned model is level with the dense one: only if its interval excludes a loss as large as the margin.

An interval that includes 0 shows nothing: the fewer examples are judged, the wider it is, and the surer to include 0.
"""

import math

import pandas as pd

from reports.analyse.plan_names import has_repairs
from reports.base.formatting import count
from reports.read.run import Metric

# One point of a share; of any other metric 1 % of the dense model's value. As MLPerf Inference, which asks of whoever
# makes a model faster that it keep 99 % of the reference's quality.
MARGIN = 0.01
NEAREST = 0.1  # of the margin: what loses this nearly as much can't be told from it by any number of examples


def is_level(plans: pd.DataFrame, metric: Metric) -> pd.Series:
    """A mask of the plans that are shown to be level: even the largest loss within the interval is below the margin.

    Args:
        plans: a row for each plan, with value and difference (to the dense model), the latter with _low and _high.
    """
    return _losses(plans, metric)["most"] < _margins(plans, metric)


def is_open(plans: pd.DataFrame, metric: Metric) -> pd.Series:
    """A mask of the plans whose interval contains the margin, so that the loss may be below or above that."""
    losses, margins = _losses(plans, metric), _margins(plans, metric)
    return (losses["least"] < margins) & (losses["most"] >= margins)


def examples_needed(plans: pd.DataFrame, metric: Metric) -> pd.Series:
    """How many examples it would take to tell each plan's loss from the margin, a Series; NaN where that is not known.

    An interval's width falls with the square root of the number of examples. Enough are those with which half its width
    is at most the margin, and at most the distance of the measured loss from the margin. It is NaN where that distance
    is within NEAREST of the margin, or where `examples`, by how many the plan was judged, is NaN.
    """
    losses, margins = _losses(plans, metric), _margins(plans, metric)
    aim = (margins - losses["loss"]).abs().clip(upper=margins)
    half = (losses["most"] - losses["least"]) / 2
    return plans["examples"].astype(float) * (half / aim.where(aim > NEAREST * margins)) ** 2


def margin(reference: float, metric: Metric) -> float:
    """The least loss that counts, in the metric's unit: one point of a share, else 1 % of the dense model's value.

    Args:
        reference: the dense model's value.
    """
    return MARGIN if metric.is_share else MARGIN * abs(reference)


def within(metric: Metric) -> str:
    """The margin in words, as a sentence has it after "within": "1 point" of a share, "1 %" of any other metric."""
    return f"{100 * MARGIN:g} point" if metric.is_share else f"{100 * MARGIN:g} %"


def none_level(plans: pd.DataFrame, metric: Metric) -> str:
    """A clause that says that no plan is level with the dense model, and how many may be, given more examples.

    The caller has found that none is (`is_level`).
    """
    may_be = plans[is_open(plans, metric)]
    raw = "" if has_repairs(plans) else ", none of them repaired,"
    text = f"no pruned plan{raw} is shown to be level with the dense model, within {within(metric)}"
    return text if may_be.empty else f"{text} ({count(len(may_be), 'plan')} may be: {_too_few(may_be, metric)})"


def verdict(plan: pd.Series, metric: Metric) -> str:
    """A sentence that a plan is level, or that this is open, with a space in front; "" where it is neither."""
    plans = pd.DataFrame([plan])
    if is_level(plans, metric).any():
        return f" Its {metric.name} is level with the dense model's, within {within(metric)}."
    if is_open(plans, metric).any():
        why = _too_few(plans, metric)
        return f" Whether its {metric.name} is level with the dense model's, within {within(metric)}, is open: {why}."
    return ""


def _too_few(plans: pd.DataFrame, metric: Metric) -> str:
    """A clause on how many examples would tell whether a plan is level, for the plan that needs the fewest."""
    needed = examples_needed(plans, metric)
    if plans["examples"].isna().all():
        return "too few examples were judged to tell"
    if needed.isna().all():
        return "the loss may be the margin itself"
    judged = plans["examples"].iloc[int(needed.argmin())]
    return f"{judged:,.0f} examples are too few to tell, about {_rounded(needed.min()):,} would"


def _losses(plans: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """How much worse than the dense model each plan is, in the metric's unit; negative where it is better.

    Columns: loss, and least and most, the ends of its interval. A row for each of `plans`.
    """
    columns = ["difference", "difference_high", "difference_low"]
    losses = plans[columns].astype(float).set_axis(["loss", "least", "most"], axis=1)
    return -losses if metric.higher_is_better else losses.rename(columns={"least": "most", "most": "least"})


def _margins(plans: pd.DataFrame, metric: Metric) -> pd.Series:
    """The margin for each plan, which depends on the dense model's value on the same examples."""
    return (plans["value"] - plans["difference"]).astype(float).map(lambda dense: margin(dense, metric))


def _rounded(number: float) -> int:
    """The number rounded up to two significant digits, or to a whole number if it is below 10."""
    step = 10 ** max(0, math.floor(math.log10(max(number, 1))) - 1)
    return math.ceil(number / step) * step
