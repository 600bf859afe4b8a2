"""How much larger each speedup is on one side than on the other, with what chance would give."""

from collections.abc import Iterator

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports.analyse.compare.comparison import Beside, Comparison
from reports.analyse.compare.labels import labels
from reports.analyse.compare.phrases import ranked, tally
from reports.draw.diagonal import ratio_axis
from reports.draw.style import GREY, INK, extent, new_figure, reach
from reports.figures import Panel

TITLE = "Ratios of speedups"
ABSENT = "No speedup was measured in both."
SHOWN = 40
MARKS = {True: ("interval leaves 1 out", "D"), False: ("interval holds 1", "o")}


def panels(comparison: Comparison) -> Iterator[Panel]:
    """One panel, if both sides have speedups of the same cases.

    Its frame is a Beside: the table Comparison.speedups with a column `label`, its rows in the order of `ranked`.
    """
    table = comparison.speedups
    if len(table):
        yield Panel("", "all that both have", comparison.beside(ranked(table.assign(label=labels(table)))))


def draw(frame: Beside) -> Figure:
    table = frame.table.head(SHOWN)
    figure = new_figure(9.6, 1.6 + 0.23 * len(table))
    axes = figure.subplots()
    for differs, (label, marker) in MARKS.items():
        rows = table[table["differs"] == differs]
        places = [place for place, same in enumerate(table["differs"]) if same == differs]
        color = sns.color_palette("colorblind")[3] if differs else GREY
        if places:
            axes.errorbar(
                rows["ratio"], places, xerr=reach(rows["ratio"], rows["ratio_low"], rows["ratio_high"]), label=label,
                linestyle="", elinewidth=1.2, color=color, marker=marker, markersize=5,
            )  # fmt: skip
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(range(len(table)), labels=list(table["label"]))
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.grid(False, axis="y")
    low, high = extent(table, "ratio", "ratio_low", "ratio_high")
    ratio_axis(axes, "x", min(low, 0.98) / 1.01, max(high, 1.02) * 1.01)
    axes.set_xlabel(f"speedup in {frame.second} / speedup in {frame.first}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def caption(frame: Beside) -> str:
    table = frame.table
    middle = f"the median ratio is {table['ratio'].median():.2f}"
    return f"{tally(table, 'speedup')}; {middle}{_others(table.iloc[SHOWN:])}."


def _others(rest: pd.DataFrame) -> str:
    """A clause on `rest`, the rows not drawn: how many they are, how many intervals leave 1 out, and the ratios' range.

    Empty if there are none.
    """
    if rest.empty:
        return ""
    differ = int(rest["differs"].sum())
    within = f"{differ} of them beyond their interval" if differ else "within their intervals"
    return f"; not drawn: {len(rest)} more, {within}, from {rest['ratio'].min():.2f} to {rest['ratio'].max():.2f}"
