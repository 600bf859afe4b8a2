"""How much slower each benchmark became, with its interval, beside what the gate calls a regression."""

import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from reports.base.formatting import count, per_cent
from reports.draw.style import BAND, DIM, GREY, INK, PAPER, Look, extent, new_figure, reach, shortened
from reports.read.gate_verdict import VERDICTS, Gate

SHOWN = 100  # rows; of more, those that the verdict turns on, then those with the largest effects
LONGEST = 34  # characters of a name
PALETTE = sns.color_palette("colorblind")
LOOKS: Mapping[str, Look] = {
    "REGRESSED": Look(PALETTE[3], ">"),  # points where it went
    "IMPROVED": Look(PALETTE[0], "<"),
    "INCONCLUSIVE": Look(PALETTE[1], "D"),
    "PASS": Look(DIM, "o"),
    "ERROR": Look(PALETTE[4], "X"),
    "NEW": Look(PALETTE[9], "P"),
    "SKIPPED": Look(PALETTE[7], "s"),
}
WITHOUT = {
    "NEW": "new: no base to compare with", "SKIPPED": "skipped", "ERROR": "error: not measured on both sides",
}  # fmt: skip
EDGE: Mapping[str, Any] = {"markersize": 7, "markeredgecolor": INK, "markeredgewidth": 0.8}  # or red is paler than grey


def draw(gate: Gate) -> Figure:
    """The figure of the gate's verdict, with a row for each benchmark, at most SHOWN; without any, with the reason."""
    frame, left_out = shown(gate.frame)
    figure = new_figure(8.0, 2.3 + 0.27 * max(len(frame), 3))
    axes = figure.subplots()
    base, head = map(_short, gate.sides)
    title = f"{gate.verdict}: {head} against {base}"
    if left_out:
        title += f"\nthe largest effects; {count(left_out, 'smaller one')} not shown"
    axes.set_title(title, pad=22)
    if frame.empty:
        why = f":\n{_short(gate.why, 70)}" if gate.why else ""
        axes.text(0.5, 0.5, f"no benchmark was compared{why}", transform=axes.transAxes, ha="center", va="center")
        axes.set(xlabel="effect (%)", ylabel="benchmark", xticks=[], yticks=[])
        return figure
    gate_effects(frame, axes, threshold=gate.threshold, least=gate.least)
    figure.legend(handles=_legend(frame), loc="outside lower center", ncols=5, fontsize="small")
    return figure


def gate_effects(frame: pd.DataFrame, axes: Axes, *, threshold: float, least: float) -> None:
    """Draw each benchmark's change of time from base to head, in per cent, with its interval.

    The slowest is on top, the control apart at the bottom.

    Args:
        frame: a row for each benchmark, with the columns COLUMNS of reports.read.gate_verdict.
        axes: what is drawn on.
        threshold: the effect, a share, that the lower end of a regression's interval exceeds.
        least: the least effect of a regression, a share.
    """
    frame = frame.sort_values(["is_control", "effect"], ascending=[True, False], kind="stable", na_position="last")
    place = np.arange(len(frame)) + 0.6 * frame["is_control"].to_numpy()
    for is_lower, (value, label) in enumerate(((least, "least effect"), (threshold, "threshold"))):
        axes.axvline(100 * value, color=INK, linewidth=0.9, linestyle=":" if is_lower else "--", zorder=1)
        axes.annotate(
            f" {label} {per_cent(value)} ", (100 * value, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="right" if is_lower else "left", va="bottom", fontsize="small", color=INK,
        )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=1.2, zorder=1)
    floor = 100 * frame["floor"]
    axes.barh(place, 2 * floor, left=-floor, height=0.72, color=BAND, zorder=0.5)
    for verdict, look in LOOKS.items():
        of = (frame["verdict"] == verdict) & frame["effect"].notna()
        rows = 100 * frame.loc[of, ["effect", "low", "high"]]
        axes.errorbar(
            rows["effect"], place[of], xerr=reach(rows["effect"], rows["low"], rows["high"]), linestyle="",
            color=look.color, marker=look.marker, elinewidth=1.5, zorder=3, **EDGE,
        )  # fmt: skip
    again = frame["screen"].notna()
    axes.plot(100 * frame.loc[again, "screen"], place[again] + 0.28, "o", markersize=4, zorder=4, **_hollow())
    _rows_axis(axes, frame, place)
    _effect_axis(axes, frame, max(threshold, least))
    for row in np.flatnonzero(frame["effect"].isna()):
        text = WITHOUT.get(frame["verdict"].iloc[row], "no effect was measured")
        across = axes.get_yaxis_transform()
        axes.text(0.01, place[row], text, transform=across, va="center", style="italic", color=DIM, fontsize="small")


def shown(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows of `frame` that are drawn, at most SHOWN, in their order; and the number of the others.

    The control is taken first, then what did not pass, then what passed; of both, the largest effects in either
    direction.
    """
    size = frame["effect"].abs().fillna(np.inf)
    first = frame.assign(size=size, passed=frame["verdict"] == "PASS", other=~frame["is_control"])
    first = first.sort_values(["other", "passed", "size"], ascending=[True, True, False], kind="stable")
    kept = first.index[:SHOWN]
    return frame.loc[frame.index.isin(kept)], len(frame) - len(kept)


def caption(gate: Gate) -> str:
    """A plain sentence that counts the verdicts and names the largest slowdown; the control is left out."""
    frame = gate.frame[~gate.frame["is_control"]]
    counts = [f"{number} {verdict}" for verdict in VERDICTS if (number := int((frame["verdict"] == verdict).sum()))]
    if not counts:
        return f"{gate.verdict}: no benchmark was compared (0 rows)."
    text = f"{gate.verdict}: of {count(len(frame), 'benchmark')} {', '.join(counts)}"
    if frame["effect"].isna().all():
        return f"{text}."
    row = frame.iloc[int(frame["effect"].argmax())]
    within = "" if np.isnan([row["low"], row["high"]]).any() else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{text}; the largest effect is {100 * row['effect']:+.1f} %{within}, of {_short(row['name'])}."


def _rows_axis(axes: Axes, frame: pd.DataFrame, place: np.ndarray) -> None:
    axes.set_yticks(place, labels=[_short(name) for name in frame["name"]])
    for label, verdict in zip(axes.get_yticklabels(), frame["verdict"], strict=True):
        label.set_fontweight("normal" if verdict == "PASS" else "bold")
    axes.set_ylim(place[-1] + 0.6, -0.6)
    if frame["is_control"].any() and len(frame) > 1:
        axes.axhline(place[-1] - 0.8, color=GREY, linewidth=0.8)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("benchmark")
    numbers = axes.secondary_yaxis("right")
    numbers.set_yticks(place, labels=[_numbers(row) for row in frame.to_dict("records")])
    numbers.tick_params(length=0, labelsize="small")
    numbers.spines["right"].set_visible(False)


def _effect_axis(axes: Axes, frame: pd.DataFrame, rule: float) -> None:
    columns = ["effect", "low", "high", "floor", "screen"]
    low, high = (0.0, 0.0) if frame[columns].isna().all(axis=None) else extent(frame, *columns)
    low, high = min(low, -np.nan_to_num(frame["floor"].max()), -rule), max(high, 1.5 * rule)
    margin = 0.04 * (high - low)
    axes.set_xlim(100 * (low - margin), 100 * (high + margin))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
    what = "time" if (frame["kind"] == "seconds").all() else "pruned time / dense time"
    axes.set_xlabel(f"change of {what} from base to head (%)\n← faster   |   slower →")


def _legend(frame: pd.DataFrame) -> list[Line2D | Patch]:
    """A legend's entries for those marks, and only those, that the figure of these rows has."""
    drawn = frame.loc[frame["effect"].notna(), "verdict"]
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=LOOKS[verdict].color, marker=LOOKS[verdict].marker, label=verdict, **EDGE)
        for verdict in VERDICTS
        if (drawn == verdict).any()
    ]
    if frame["screen"].notna().any():
        handles.append(Line2D([], [], linestyle="", marker="o", markersize=4, label="first look", **_hollow()))
    return [
        *handles,
        Patch(facecolor=to_rgba(BAND), label="noise floor"),
        Line2D([], [], color=DIM, label="95 % interval"),
    ]


def _hollow() -> dict[str, Any]:
    return {"markerfacecolor": PAPER, "markeredgecolor": INK, "markeredgewidth": 1.0}


def _numbers(row: Mapping[object, float]) -> str:
    if np.isnan(row["effect"]):
        return ""
    interval = (
        "" if np.isnan([row["low"], row["high"]]).any() else f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    )
    return f"{100 * row['effect']:+.1f}{interval}"


def _short(text: str, longest: int = LONGEST) -> str:
    """The text on one line, without what can't be drawn; cut in the middle, since names often differ at their ends."""
    line = " ".join("".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in text).split())
    return shortened(line, longest)
