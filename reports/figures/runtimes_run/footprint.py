"""How large the files are that are shipped, and how much memory a process takes to run them."""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from reports.base.formatting import digits, listed
from reports.draw.style import GREY, PALETTE, legend_below, new_figure
from reports.figures import Panel
from reports.read.runtimes_run import DENSE, FLOAT32, Setting, Table

TITLE = "What is shipped, and what it takes to run"
ABSENT = "Sizes need models that were exported."
MEGABYTE = 1e6


def panels(table: Table) -> Iterator[Panel]:
    """One panel for each task, batch and length that was timed; its frame is a Setting."""
    for setting in table.settings():
        yield Panel(setting.slug, setting.title, setting)


def draw(frame: Setting) -> Figure:
    """Two bars for each model in each runtime: megabytes of its files, and of memory at its peak."""
    table = frame.table.sort_values(["runtime", "weights", "kept_fraction"], kind="stable").iloc[::-1]
    figure = new_figure(8.0, 1.4 + 0.34 * len(table))
    axes = figure.subplots()
    places = np.arange(len(table))
    for offset, column, color, label in (
        (0.2, "file_bytes", PALETTE[0], "files"),
        (-0.2, "memory_bytes", GREY, "memory, at its peak"),
    ):
        axes.barh(places + offset, table[column] / MEGABYTE, height=0.38, color=color, label=label)
    axes.set_yticks(places, labels=[f"{row['name']}, {row['runtime']}" for _, row in table.iterrows()])
    axes.set(xlabel="MB", ylabel="")
    axes.grid(visible=False, axis="y")
    legend_below(figure)
    return figure


def caption(frame: Setting) -> str:
    table = frame.table
    told = []
    for runtime, rows in table.groupby("runtime", sort=False):
        dense = rows[(rows["variant"] == DENSE) & (rows["weights"] == FLOAT32)]
        least = rows.sort_values("file_bytes").iloc[0]
        if len(dense) and least["file_bytes"] < dense.iloc[0]["file_bytes"]:
            sizes = (digits(row["file_bytes"] / MEGABYTE) for row in (dense.iloc[0], least))
            told.append(f"from {' to '.join(sizes)} MB in {runtime} ({least['name']})")
    return f"Files shrink {listed(told)}." if told else "No model is smaller than the dense one."
