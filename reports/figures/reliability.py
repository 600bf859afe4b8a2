"""Calibration of probabilities: whether a model is as often right as it is sure to be, dense and pruned."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reports.analyse import changes
from reports.base.formatting import capitalised
from reports.base.table_cells import NONE, Cell, Summary, number, word
from reports.draw.style import GREY, INK, legend_right, looks, new_figure, shortened
from reports.figures import Panel
from reports.read.run import MINUS, Run

TITLE = "Calibration of probabilities"
ABOUT = "task"
ABSENT = "The task tells no probabilities of its answers, or the run has no calibration.csv and reliability.csv."
MEASURES = ("calibration error", "overconfidence", "Brier score")
ERROR, _, BRIER = MEASURES
DIFFERENCE = ("difference", "difference_low", "difference_high")


@dataclass(frozen=True)
class Reliability:
    """How sure a few models are, and how often they are right.

    Attributes:
        plans: the labels of the plans that are shown, the dense model among them.
        bins: label, confidence, right, answers: a row for each bin of each of `plans`, by rising confidence.
        measures: label, measure, value, low, high, difference, …: a row for each measure of each of `plans`.
    """

    plans: tuple[str, ...]
    bins: pd.DataFrame
    measures: pd.DataFrame


def panels(run: Run, task: str) -> Iterator[Panel]:
    """One panel with a `Reliability`, and a table of all plans' measures, if the run has both of the task's plans."""
    bins, measures = (frame[frame["task"] == task] for frame in (run.reliability, run.calibration))
    told = changes.told_plans(run, task, bins["plan"])
    shown = pd.concat([told[told["criterion"] == "dense"], changes.few(run, task, told)])
    if len(shown):
        labels = told[["plan", "label"]]
        measures = measures.merge(labels, on="plan")
        mine = bins[bins["plan"].isin(shown["plan"])].merge(labels, on="plan").sort_values("bin", kind="stable")
        frame = Reliability(tuple(shown["label"]), mine, measures[measures["label"].isin(shown["label"])])
        yield Panel("", task, frame, tuple(_summaries(told["label"], measures)))


def draw(frame: Reliability) -> Figure:
    figure = new_figure(8.2, 5.2)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="as often right as sure")
    pruned = [label for label in frame.plans if label != "dense"]
    for label in frame.plans:
        rows = frame.bins[frame.bins["label"] == label]
        color, marker = (INK, "*") if label == "dense" else looks(pruned)[label]
        size = 9 if label == "dense" else 5.5
        axes.plot(
            rows["confidence"], rows["right"], label=shortened(label), color=color, marker=marker, markersize=size,
            linewidth=1.6,
        )  # fmt: skip
    axes.set_xlabel("mean confidence of the answers in a bin (%)")
    axes.set_ylabel("answers in it that are right (%)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    legend_right(axes)
    return figure


def caption(frame: Reliability) -> str:
    parts = [_told(label, rows) for label in frame.plans if len(rows := _measures(frame.measures, label))]
    answers = frame.bins.groupby("label")["answers"].sum().max()
    told = "; ".join(parts)
    return (
        f"Each mark is one of at most ten bins with as many of the {answers:,.0f} answers each; below the diagonal a "
        f"model is surer than it is right.{f' {capitalised(told)}.' if told else ''}"
    )


def _told(label: str, measures: dict[str, pd.Series]) -> str:
    """A clause on a plan's calibration error."""
    row = measures.get(ERROR)
    if row is None:
        return f"{label} has no calibration error"
    low, high = 100 * row["low"], 100 * row["high"]
    return f"{label}: calibration error {_points(row['value'])} ({low:.1f} to {high:.1f})"


def _measures(measures: pd.DataFrame, label: str) -> dict[str, pd.Series]:
    """Measure -> its row, of the plan with this label."""
    return {str(row["measure"]): row for _, row in measures[measures["label"] == label].iterrows()}


def _summaries(labels: pd.Series, measures: pd.DataFrame) -> Iterator[Summary]:
    rows = [_row(label, found) for label in labels if (found := _measures(measures, label))]
    if rows:
        yield Summary(
            title="How well probabilities are calibrated",
            note="Calibration error: how far confidence and the share that is right are apart, on average over bins of "
            "equal mass, less the bias that few answers bring. Overconfidence: mean confidence less the share that is "
            "right. Brier score: the mean square of confidence less 1 where right, 0 where wrong; less is better. In "
            "brackets: 95 % intervals over examples; against dense they are paired.",
            columns=("plan", *(title for name in MEASURES for title in (name, "against dense")), "answers"),
            rows=tuple(rows),
            folded=True,
        )


def _row(label: str, measures: dict[str, pd.Series]) -> tuple[Cell, ...]:
    cells: list[Cell] = []
    for name in MEASURES:
        texts = ("{:.4f}", "{:+.4f}", 1) if name == BRIER else ("{:.1f} %", "{:+.1f} points", 100)
        row = measures.get(name)
        cells += [Cell(NONE)] * 2 if row is None else _cells(row, *texts, is_dense=label == "dense")
    answers = next(iter(measures.values()))["answers"]
    return (word(label), *cells, number(answers, "{:,.0f}".format))


def _cells(row: pd.Series, text: str, change: str, scale: float, *, is_dense: bool) -> list[Cell]:
    """The cells of a measure: its value, and its difference to the dense model, with their intervals.

    Args:
        text, change: formats of the two, with their units.
        scale: what numbers are multiplied by.
    """
    cells = []
    for form, names in ((text, ("value", "low", "high")), (change, DIFFERENCE)):
        value, *bounds = (scale * row[name] for name in names)
        plain = form.partition("}")[0] + "}"
        within = " to ".join(plain.format(bound) for bound in bounds)
        cells.append(Cell(form.format(value).replace("-", MINUS), within.replace("-", MINUS), value))
    return [cells[0], Cell(NONE)] if is_dense else cells


def _points(share: float) -> str:
    return f"{100 * share:.1f} %".replace("-", MINUS)
