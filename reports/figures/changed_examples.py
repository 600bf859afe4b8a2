"""Examples that change: behind one mean, how many get worse and how many better."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reports.analyse import changes
from reports.analyse.limits import best_criteria
from reports.analyse.plan_names import chosen, has_repairs, label
from reports.base.formatting import capitalised, per_cent
from reports.base.table_cells import Cell, Summary, number
from reports.draw.style import INK, PAPER, kept_axis, legend_below, looks, new_figure, reach, shortened
from reports.figures import Panel
from reports.read.run import RAW, REFERENCES, Metric, Run

TITLE = "Examples that change"
ABOUT = "task"
ABSENT = "Which examples change needs examples.parquet with what the dense and the pruned models did on each."
CRITERIA = 8
NAMES = {"none": "no heads"}
WORDS = {True: ("right to wrong", "wrong to right"), False: ("worse", "better")}  # flips -> what examples turn


@dataclass(frozen=True)
class Changes:
    """The rows of `reports.analyse.changes.examples` of one task; criteria are all of the run's."""

    metric: Metric
    criteria: tuple[str, ...]
    table: pd.DataFrame

    @property
    def flips(self) -> bool:
        """Whether every example is right or wrong."""
        return bool(self.table["flips"].all())

    @property
    def words(self) -> tuple[str, str]:
        """What examples turn."""
        return WORDS[self.flips]


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel with a `Changes`, and its table, if the run tells how the examples of a plan differ from dense."""
    table = changes.examples(run, task)
    if len(table):
        frame = Changes(run.metric(task), run.criteria, table)
        yield Panel("", task, frame, (_summary(frame),))


def draw(frame: Changes) -> Figure:
    figure = new_figure(9.0, 4.4)
    table, _ = best_criteria(frame.table, frame.metric, CRITERIA)
    beside = has_repairs(table)
    lines = [
        rows.sort_values("kept_fraction")
        for criterion in (*frame.criteria, "none")
        for _, rows in table[table["criterion"] == criterion].groupby("repair", sort=False)
    ]
    for axes, name, turned in zip(figure.subplots(1, 2, sharex=True), ("worse", "better"), frame.words, strict=True):
        for place, rows in enumerate(lines):
            criterion, repair = rows[["criterion", "repair"]].iloc[0]
            color, marker = looks(frame.criteria).get(criterion, (INK, "P"))
            hollow = {"markerfacecolor": PAPER} if beside and repair == RAW else {}
            aside = 0.006 * (place - (len(lines) - 1) / 2)  # intervals side by side
            axes.errorbar(
                rows["kept_fraction"] + aside, rows[name],
                yerr=reach(rows[name], rows[f"{name}_low"], rows[f"{name}_high"]),
                label=NAMES.get(criterion) or shortened(label(rows.iloc[0], beside=beside)), color=color,
                marker=marker, markersize=6, linewidth=1.6, elinewidth=1.1, **hollow,
            )  # fmt: skip
        axes.set_title(capitalised(turned), fontsize="medium")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("examples (%)")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        kept_axis(axes)
    legend_below(figure, most=5)
    return figure


def caption(frame: Changes) -> str:
    pruned = frame.table[~frame.table["criterion"].isin(REFERENCES)]
    table = pruned if len(pruned) else frame.table
    near = (table["kept_fraction"] - 0.5).abs()
    rows = table[near == near.min()]
    best = rows.loc[rows["value"].idxmax() if frame.metric.higher_is_better else rows["value"].idxmin()]
    worse, better = frame.words
    turned = "turn from" if frame.flips else "get"
    return (
        f"With {per_cent(best['kept_fraction'])} of the heads kept, {chosen(best)}, "
        f"{_share(best, 'worse')} of {best['judged']:,} examples {turned} {worse} and {_share(best, 'better')} "
        f"{turned} {better}; {frame.metric.name} changes by {frame.metric.change(best['difference'])}. "
        "In brackets: exact 95 % intervals."
    )


def _share(row: pd.Series, name: str) -> str:
    low, high = 100 * row[f"{name}_low"], 100 * row[f"{name}_high"]
    return f"{100 * row[name]:.1f} % ({low:.1f} to {high:.1f})"


def _summary(frame: Changes) -> Summary:
    names = [*changes.QUANTILES] if not frame.flips else []
    titles = [f"{100 * share:g} % of examples change by less than" for share in changes.QUANTILES.values()]
    note = "In brackets: exact 95 % intervals of the shares (Clopper and Pearson)."
    if names:
        note += " Quantiles are of how much better an example gets; what gets worse is below 0."
    return Summary(
        title=f"How many examples turn {frame.words[0]}, and {frame.words[1]}",
        note=note,
        columns=("criterion", "kept", *frame.words, "examples", *titles[: len(names)]),
        rows=tuple(_row(row, names, frame) for _, row in frame.table.iterrows()),
        folded=True,
    )


def _row(row: pd.Series, names: list[str], frame: Changes) -> tuple[Cell, ...]:
    named = NAMES.get(row["criterion"]) or label(row, beside=has_repairs(frame.table))
    return (
        Cell(named, order=row["criterion"]),
        number(row["kept_fraction"], per_cent),
        _share_cell(row, "worse"),
        _share_cell(row, "better"),
        number(row["judged"], "{:,.0f}".format),
        *(number(row[name], frame.metric.change) for name in names),
    )


def _share_cell(row: pd.Series, name: str) -> Cell:
    """A share of the examples in per cent, with its interval."""
    low, high = 100 * row[f"{name}_low"], 100 * row[f"{name}_high"]
    return Cell(f"{100 * row[name]:.1f} %", f"{low:.1f} to {high:.1f}", row[name])
