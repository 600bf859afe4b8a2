"""What a run says in the end: which criterion to trust, at which price. Made from nothing but its tables."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.importance.curves import ALL, DENSE
from bench.importance.findings import SENSITIVE, UNNOTICED
from bench.importance.records import RunError
from bench.importance.results import BEST, RIVAL
from bench.importance.subjects import LIKELIHOOD
from bench.importance.tables import TRUTH
from bench.importance.variants import FLOOR
from bench.measure.files import write_text

START, END = "<!-- results: written by nox -s importance -->", "<!-- end of the results -->"
START_PRETRAINED = "<!-- results of pretrained models: written by nox -s importance -->"
NAMES = (
    "scores", "agreement", "curves", "areas", "exhaustive", "planted", "stability", "cost", "findings",
)  # fmt: skip
NOTHING = "–"
STABLE_AT = 64  # examples, at which stability is told
PLAIN = ("value", "low", "high")
LOSS, MORE = "loss without ", "cross more "
LEFT_AT, NEAR = (0.9, 0.75, 0.5, 0.25), 0.01  # kept fractions, and what may lie between them and whole heads
REFERENCES = (FLOOR, BEST, DENSE)
Frames = Mapping[str, pd.DataFrame]


def write_summary(directory: Path) -> str:
    """Write a run's `summary.md`, from the tables and `environment.json` in its directory; returns the text."""
    frames = {name: _read(directory / f"{name}.csv") for name in NAMES}
    environment = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
    parts = [
        _head(environment, frames),
        *(section(frames) for section in (trust, fronts, left, plants, subsets, rivals, sensitive, unnoticed)),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_text(directory / "summary.md", text)
    return text


def write_docs(page: Path, summary: str, start: str = START) -> None:
    """Replace what stands between `start` and the next END on a Markdown page by the text of the summary.

    Args:
        start: START, or START_PRETRAINED for a run of pretrained models only.

    Raises:
        RunError: as `parts_of`.
    """
    before, after = parts_of(page, start)
    write_text(page, f"{before}{start}\n\n{summary}\n{END}{after}")


def parts_of(page: Path, start: str = START) -> tuple[str, str]:
    """What stands on a Markdown page before `start`, and what after the END that follows it.

    Raises:
        RunError: the page can't be read; `start` is not on it, or END does not follow.
    """
    try:
        before, found, rest = page.read_text(encoding="utf-8").partition(start)
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{page}: the page that results are to be written to can't be read: {error}") from error
    _, end, after = rest.partition(END)
    if not found or not end:
        raise RunError(f"{page}: expected the lines {start!r} and {END!r}, between which the results are written")
    return before, after


def trust(frames: Frames) -> str:
    """The main table, as Markdown: a row for each criterion, the one with the largest share over all tasks on top.

    A row has the criterion's price (forward passes over the calibration set), its CPU seconds, its share (0: random
    plans, 1: the dense model) over all tasks and on each, Spearman's ρ with the truth on each task, the share of head
    counts at which it is right on planted scenarios, and Spearman's ρ between scores from STABLE_AT examples and from
    all; the last two where they were measured. In bold are the criteria that `fronts` lists. Empty text where no
    criterion has a share over all tasks.
    """
    areas, rows = frames["areas"], []
    if not _ranked(frames):
        return ""
    tasks = [task for task in dict.fromkeys(areas["task"]) if task != ALL]
    front = _front(frames)
    for label in _ranked(frames):
        shares = [_share(areas, task, label) for task in (ALL, *tasks)]
        spearman = [_mean(frames["agreement"], "spearman", task=task, criterion=label, other=TRUTH) for task in tasks]
        rows.append(
            [
                f"**{label}**" if label in front else label,
                _number(_price(frames, label), ".3g"),
                _cpu(_seconds(frames, label)),
                *shares,
                *(_number(value, ".2f") for value in spearman),
                _number(_mean(frames["planted"], "right", criterion=label), ".2f"),
                _number(_mean(frames["stability"], "spearman", criterion=label, examples=STABLE_AT), ".2f"),
            ]
        )
    header = ["criterion", "price", "seconds", "share", *(f"share, {task}" for task in tasks)]
    header += [*(f"ρ, {task}" for task in tasks), "planted", f"stable at {STABLE_AT}"]
    return _table(*_measured(header, rows))


def fronts(frames: Frames) -> str:
    """A sentence that lists, with share and price, the criteria whose share over all tasks no cheaper one reaches.

    Empty text where there are none.
    """
    shares = _all_shares(frames)
    if not (front := _front(frames)):
        return ""
    steps = [f"`{label}` (share {shares[label]:.2f} at {_price(frames, label):.3g} readings)" for label in front]
    return "In bold, what no cheaper criterion beats, from cheap to dear: " + ", ".join(steps) + "."


def left(frames: Frames) -> str:
    """For each task a Markdown table of what the criteria leave of the metric, the largest share of the task on top.

    A row has the criterion's price on this task, its CPU seconds, Spearman's ρ with the truth, over all heads and
    within layers, and the metric at those of the kept fractions LEFT_AT that were measured. Behind the metric stands
    what it falls by, with its interval over the same held-out examples; of a log-likelihood the perplexity, and how
    many times the dense model's that is. Above each table stands how well the truth agrees with itself.
    """
    return "\n\n".join(_left(frames, str(task)) for task in dict.fromkeys(frames["curves"].get("task", ())))


def _left(frames: Frames, task: str) -> str:
    """The title and the table of one task in `left`."""
    curves, areas = (frame[frame["task"] == task] for frame in (frames["curves"], frames["areas"]))
    shown = [at for at in LEFT_AT if (curves["kept_fraction"] - at).abs().min() < NEAR]
    ranked = areas.sort_values("share", ascending=False, kind="stable") if "share" in areas else areas
    agreement, cost = frames["agreement"], frames["cost"]
    rows = []
    for label in ranked["criterion"]:
        mine = curves[curves["criterion"] == label]
        points = [mine[(mine["kept_fraction"] - at).abs() < NEAR] for at in shown]
        if any(point.empty for point in points):
            continue  # the dense model: it stands in the title
        where = {"task": task, "criterion": label}
        rhos = [_mean(agreement, name, **where, other=TRUTH) for name in ("spearman", "within")]
        price = (_number(_mean(cost, "readings", **where), ".3g"), _cpu(_mean(cost, "seconds", **where)))
        cells = [_kept(_records(point)[0]) for point in points]
        rows.append([str(label), *price, *(_number(rho, ".2f") for rho in rhos), *cells])
    header = ["criterion", "price", "seconds", "ρ", "ρ within layers", *(f"{at:.0%} kept" for at in shown)]
    dense = _records(curves[curves["kept_fraction"] == 1])[0]
    itself = _number(_mean(agreement, "spearman", task=task, criterion=TRUTH, other=TRUTH), ".2f")
    title = (
        f"On `{task}`: what is left of the {_metric(dense)}, {_value(dense)} with all heads. "
        f"Leave-one-out on one half of the held-out data agrees with that on the other to ρ = {itself}."
    )
    return f"{title}\n\n{_table(*_measured(header, rows))}"


def _metric(row: Mapping[str, Any]) -> str:
    """What a row of curves.csv measures, as a reader would call it."""
    return "perplexity" if row["metric"] == LIKELIHOOD else str(row["metric"])


def _value(row: Mapping[str, Any]) -> str:
    """The metric in a row of curves.csv as text: the perplexity of a log-likelihood, else its value."""
    return f"{math.exp(-row['value']):.4g}" if row["metric"] == LIKELIHOOD else f"{row['value']:.3f}"


def _kept(row: Mapping[str, Any]) -> str:
    """The metric in a row of curves.csv, and how it differs from the dense model's, as `left` shows them."""
    value, low, high = (row[f"difference{end}"] for end in ("", "_low", "_high"))
    if row["metric"] == LIKELIHOOD:
        return f"{_value(row)}, ×{math.exp(-value):.3g} [{math.exp(-high):.3g}, {math.exp(-low):.3g}]"
    return f"{_value(row)}, {value:+.3f} [{low:+.3f}, {high:+.3f}]"


def plants(frames: Frames) -> str:
    """A Markdown table under a title: how often each criterion keeps as many planted heads as a best subset does.

    It has criteria × scenarios, in each cell the share of head counts, a mean over training seeds. Empty text without
    results.
    """
    frame = frames["planted"]
    if frame.empty:
        return ""
    tasks = list(dict.fromkeys(frame["task"]))
    labels = frame.groupby("criterion")["right"].mean().sort_values(ascending=False, kind="stable").index
    rows = [
        [str(label), *(_number(_mean(frame, "right", task=task, criterion=label), ".2f") for task in tasks)]
        for label in labels
    ]
    title = "Planted: share of head counts at which as many of the planted heads are kept as by a best subset."
    return f"{title}\n\n{_table(['criterion', *(task.removeprefix('planted_') for task in tasks)], rows)}"


def subsets(frames: Frames) -> str:
    """A Markdown table under a title: how the subsets that a criterion keeps compare with all subsets of as many heads.

    A row for each criterion has the regret in the loss and in the metric, the share of subsets with a smaller loss, and
    the share of kept heads that the best subset keeps too; all are means over trained tasks, seeds and head counts,
    those of no head and of all heads left out. "over calibration samples" is the range of the regret in the loss over
    resamples of the calibration set. Empty text where no trained task has results under every subset.
    """
    frame = frames["exhaustive"]
    frame = frame[~frame["task"].str.startswith("planted")] if len(frame) else frame
    if frame.empty:
        return ""
    frame = frame[frame["heads_kept"].between(1, frame["heads_kept"].max() - 1)]
    frame = frame.assign(place=(frame["rank"] - 1) / (frame["of"] - 1).clip(lower=1))
    whole, drawn = frame[frame["draw"] == 0], frame[frame["draw"] > 0]
    mean = whole.groupby("criterion")[["regret", "regret_value", "place", "overlap"]].mean().sort_values("regret")
    rows = []
    for label, row in zip(mean.index.map(str), _records(mean), strict=True):
        draws = drawn[drawn["criterion"] == label].groupby("draw")["regret"].mean()
        reach = f"{draws.min():.3f} to {draws.max():.3f}" if len(draws) else NOTHING
        numbers = [f"{row[name]:.3f}" for name in ("regret", "regret_value", "place", "overlap")]
        rows.append([label, numbers[0], reach, *numbers[1:]])
    header = [
        "criterion", "regret (loss)", "over calibration samples", "regret (metric)", "better subsets", "overlap",
    ]  # fmt: skip
    return f"All subsets: means over head counts and seeds.\n\n{_table(header, rows)}"


def rivals(frames: Frames) -> str:
    """A Markdown table of the metric, with intervals: a row for each smaller dense model trained from scratch (RIVAL).

    Beside it stand models pruned to as many heads: by the criterion with the largest share over all tasks, by the best
    subset, and at random. Empty text where no such model was trained.
    """
    frame = frames["curves"]
    if frame.empty or not (frame["criterion"] == RIVAL).any():
        return ""
    rows = []
    chosen = _ranked(frames)[:1]
    for row in _records(frame[frame["criterion"] == RIVAL]):
        same = [point for point in _records(frame) if all(point[key] == row[key] for key in ("task", "heads_kept"))]
        points = {point["criterion"]: _estimate(point, "") for point in same}
        cells = [points.get(label, NOTHING) for label in (RIVAL, *chosen, BEST, FLOOR)]
        rows.append([row["task"], f"{row['heads_kept']} of {row['heads_total']}", *cells])
    return _table(["task", "heads", RIVAL, *chosen, BEST, "random, mean"], rows)


def sensitive(frames: Frames) -> str:
    """The finding that cross-attention is the most sensitive kind, as a sentence and a Markdown table.

    Empty text without results.

    The sentence counts in how many comparisons it holds. The table has how far the metric falls when heads of one kind
    alone are pruned: a row for each criterion and share of the kind's heads that is kept, a column for each kind.
    """
    frame = frames["findings"]
    frame = frame[(frame["finding"] == SENSITIVE)] if len(frame) else frame
    if frame.empty:
        return ""
    answer = frame.loc[frame["what"].str.startswith(MORE), "holds"].value_counts().to_dict()
    counted = ", ".join(f"{answer.get(word, 0)} {word}" for word in ("yes", "no", "undecided"))
    kinds = sorted(what.removeprefix(LOSS) for what in set(frame["what"]) if what.startswith(LOSS))
    rows = []
    for label, kept in dict.fromkeys((row["criterion"], row["kept_fraction"]) for row in _records(frame)):
        same = {
            row["what"]: row for row in _records(frame) if (row["criterion"], row["kept_fraction"]) == (label, kept)
        }
        holds = [f"{what.removeprefix(MORE)}: {row['holds']}" for what, row in same.items() if what.startswith(MORE)]
        rows.append([label, f"{kept:.0%}", *(_estimate(same[LOSS + kind], "") for kind in kinds), ", ".join(holds)])
    header = ["heads chosen by", "of one kind kept", *(f"lost: {kind}" for kind in kinds), "cross loses more"]
    return f"Finding: {SENSITIVE}. Over all comparisons: {counted}.\n\n{_table(header, rows)}"


def unnoticed(frames: Frames) -> str:
    """The finding that a share of heads goes unnoticed, as a sentence and a Markdown table; empty without results.

    The table, criteria × tasks, has the largest share of heads that can be pruned without a sure fall of the metric.
    """
    frame = frames["findings"]
    frame = frame[(frame["finding"] == UNNOTICED)] if len(frame) else frame
    if frame.empty:
        return ""
    frame = frame.assign(gone=1 - frame["kept_fraction"])
    wide = frame.pivot(index="criterion", columns="task", values="gone")
    wide = wide.loc[wide.mean(axis=1).sort_values(ascending=False, kind="stable").index]
    rows = [[str(label), *(_number(float(value), ".0%") for value in row)] for label, row in wide.iterrows()]
    title = f"Finding: {UNNOTICED}. The largest share without which the interval of the metric's loss includes 0."
    return f"{title}\n\n{_table(['heads chosen by', *map(str, wide.columns)], rows)}"


def _head(environment: Mapping[str, object], frames: Frames) -> str:
    """The summary's first paragraph, made of what `environment.json` holds (`environment`) and of the areas.

    It says when, on which processor, with which torch and with how many training seeds was measured; and after a run
    with --quick that its numbers mean nothing.
    """
    quick = (
        " Tiny models, only to see that everything runs: the numbers mean nothing." if _is_quick(environment) else ""
    )
    packages, areas = environment["packages"], frames["areas"]
    torch = packages["torch"] if isinstance(packages, dict) else "?"
    when = str(environment["created"])[:10]
    once = not areas.empty and areas["seeds"].max() == 1
    seeds = "each model once" if once else f"{environment['seeds']} training seeds"
    return f"Measured {when} on {environment['cpu']}, torch {torch}, {seeds}.{quick}"


def _is_quick(environment: Mapping[str, object]) -> bool:
    settings = environment["settings"]
    return isinstance(settings, dict) and bool(settings["quick"])


def _ranked(frames: Frames) -> list[str]:
    """The criteria by their share over all tasks, the largest first; without REFERENCES and unknown shares."""
    shares = _all_shares(frames)
    return sorted((label for label in shares if label not in REFERENCES), key=lambda label: -shares[label])


def _all_shares(frames: Frames) -> dict[str, float]:
    """Criterion -> its share (0: random plans, 1: dense), a mean over all tasks; without criteria of unknown share."""
    areas = frames["areas"]
    if areas.empty or "share" not in areas:
        return {}
    rows = areas[areas["task"] == ALL]
    shares = dict(zip(rows["criterion"].map(str), rows["share"].astype(float), strict=True))
    return {label: share for label, share in shares.items() if not pd.isna(share)}


def _front(frames: Frames) -> list[str]:
    """The criteria, from cheap to dear, whose share over all tasks is above 0 and above that of all cheaper ones.

    REFERENCES, and criteria whose price is not known, are left out.
    """
    shares, front, best = _all_shares(frames), [], 0.0
    priced = [(price, label) for label in _ranked(frames) if (price := _price(frames, label)) is not None]
    for _, label in sorted(priced, key=lambda row: (row[0], -shares[row[1]])):
        if shares[label] > best:
            front.append(label)
            best = shares[label]
    return front


def _price(frames: Frames, label: str) -> float | None:
    """What a criterion costs on the dearest task, in forward passes over the calibration set; None if unknown."""
    return _on_dearest(frames["cost"], "readings", label)


def _seconds(frames: Frames, label: str) -> float | None:
    """How many CPU seconds a criterion takes on the dearest task; None if unknown."""
    return _on_dearest(frames["cost"], "seconds", label)


def _on_dearest(cost: pd.DataFrame, column: str, label: str) -> float | None:
    """The number in a column of the cost table for this criterion on the task on which all together cost most readings.

    None where the table has no such row.
    """
    if cost.empty:
        return None
    return _mean(cost, column, criterion=label, task=cost.groupby("task")["readings"].sum().idxmax())


def _mean(frame: pd.DataFrame, column: str, **where: object) -> float | None:
    """The mean of the column `column` over the rows in which each column that `where` names has the value given there.

    None where there are no such rows, or none that has a number.
    """
    if frame.empty:
        return None
    for name, value in where.items():
        frame = frame[frame[name] == value]
    value = frame[column].mean()
    return None if pd.isna(value) else float(value)


def _share(areas: pd.DataFrame, task: str, label: str) -> str:
    """The share of a criterion on a task with its interval, such as "0.52 [0.48, 0.57]"; NOTHING if it is unknown."""
    rows = _records(areas[(areas["task"] == task) & (areas["criterion"] == label)])
    return _estimate(rows[0], "share", ".2f") if rows and not pd.isna(rows[0]["share"]) else NOTHING


def _estimate(row: Mapping[str, Any], name: str, style: str = ".3f") -> str:
    """A value and its interval as text, from the columns `<name>`, `<name>_low` and `<name>_high`; from PLAIN if ""."""
    value, low, high = (row[column] for column in ((name, f"{name}_low", f"{name}_high") if name else PLAIN))
    return f"{value:{style}} [{low:{style}}, {high:{style}}]"


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table in their order, each as a mapping: name of the column -> value."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _number(value: float | None, style: str) -> str:
    return NOTHING if value is None or pd.isna(value) else f"{value:{style}}"


def _cpu(seconds: float | None) -> str:
    """CPU seconds with two digits, or as many as a whole number has."""
    return NOTHING if seconds is None else f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _measured(header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table without the columns in which no row has a number."""
    kept = [place for place in range(len(header)) if any(row[place] != NOTHING for row in rows)]
    return [header[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _read(path: Path) -> pd.DataFrame:
    """Read a table from a CSV file; a table without rows and columns if the file is empty."""
    try:
        return pd.read_csv(path, keep_default_na=True)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
