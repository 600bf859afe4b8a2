"""Predicted against measured latency: how far a table of measured costs can be trusted."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from reports.analyse.frames import device_slug, device_title
from reports.analyse.limits import left_out, spread_rows
from reports.base.formatting import between
from reports.draw.style import GREY, INK, extent, looks, new_figure, reach
from reports.figures import Panel
from reports.read.run import Run

TITLE = "Predicted against measured latency"
ABOUT = "any"
ABSENT = "The run has no predictions.csv with latencies that were predicted and then measured."
BAND = 0.05
SHOWN = 400  # plans


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel for each device of each kind of machine; its frame has the task's rows of predictions.csv there."""
    for where, rows in run.predictions[run.predictions["task"] == task].groupby(["device", "machine"]):
        yield Panel(device_slug(*where), f"{task}, {device_title(*where)}", rows.reset_index(drop=True))


def draw(frame: pd.DataFrame) -> Figure:
    figure = new_figure(6.4, 5.6)
    axes = figure.subplots()
    least, most = extent(frame, "predicted", "measured", "low", "high")
    low, high = 0.95 * least, 1.05 * most
    ends = [low, high]
    axes.fill_between(
        ends, [(1 - BAND) * end for end in ends], [(1 + BAND) * end for end in ends], color=GREY, alpha=0.2,
        linewidth=0, label=f"within {100 * BAND:.0f} %",
    )  # fmt: skip
    axes.plot(ends, ends, color=INK, linewidth=1, label="as predicted")
    rows = _shown(frame)
    axes.errorbar(
        rows["predicted"], rows["measured"], yerr=reach(rows["measured"], rows["low"], rows["high"]),
        linestyle="", marker="o", markersize=5, elinewidth=1.1, color=looks(["plan"])["plan"].color, label="a plan",
    )  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.set_xlabel("predicted share of the dense latency")
    axes.set_ylabel("measured share of the dense latency")
    axes.legend(loc="upper left")
    return figure


def caption(frame: pd.DataFrame) -> str:
    errors = (frame["predicted"] / frame["measured"] - 1).abs()
    worst = frame.iloc[errors.argmax()]
    inside = int((errors <= BAND).sum())
    if len(frame) == 1:
        return (
            f"The one plan was predicted at {worst['predicted']:.3f} of the dense latency and measured at {_at(worst)}."
        )
    return (
        f"Of {len(frame)} plans {inside} lie within {100 * BAND:.0f} % of their prediction; the median error is "
        f"{100 * errors.median():.1f} %, the largest {100 * errors.max():.1f} % ({worst['plan']}: predicted "
        f"{worst['predicted']:.3f}, measured {_at(worst)}).{left_out(min(SHOWN, len(frame)), len(frame), 'plans')}"
    )


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    return spread_rows(frame, SHOWN, ["measured"])


def _at(row: pd.Series) -> str:
    return f"{row['measured']:.3f} ({between(row['low'], row['high'], '{:.3f}'.format)})"
