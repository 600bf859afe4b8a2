"""Runs -> index.html and figures/*.png. What is said, in order; how it looks is in pages/."""

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports import figures, tables
from reports.figures import FigureModule, Panel
from reports.run import LAYER, Run
from reports.style import theme

EMBED_LIMIT = 4_500_000  # characters of figures inside the page; it stays below 5 MB
COUNTS = {"parameters": "parameters", "examples": "held-out examples"}


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Attributes:
        source: a data URI, or None where the page would grow too large.
        width: in CSS pixels, as large as its text wants to be seen.
    """

    title: str
    caption: str
    file: str
    source: str | None
    width: int


@dataclass(frozen=True)
class Part:
    """All panels of one figure module, or the sentence that stands in their place."""

    title: str
    pictures: tuple[Picture, ...]
    absent: str


@dataclass(frozen=True)
class Section:
    """A task, or the bare layer."""

    title: str
    anchor: str
    about: str
    tables: tuple[tables.Summary, ...]
    parts: tuple[Part, ...]

    @property
    def headline(self) -> str:
        """The first figure's sentence."""
        return next((part.pictures[0].caption for part in self.parts if part.pictures), "")


class Gallery:
    """Draws panels into a directory and embeds them while there is room."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.room = EMBED_LIMIT
        directory.mkdir()

    def add(self, module: FigureModule, panel: Panel, name: str) -> Picture:
        with theme():
            figure = module.draw(panel.frame)
            figure.suptitle(f"{module.TITLE}: {panel.title}", x=0.01, ha="left", fontsize="medium")
            file = self._unique(name)
            figure.savefig(self.directory / file)
            width = round(96 * figure.get_figwidth())
        source = "data:image/png;base64," + base64.b64encode((self.directory / file).read_bytes()).decode()
        fits = len(source) <= self.room
        self.room -= len(source) if fits else 0
        return Picture(panel.title, module.caption(panel.frame), f"figures/{file}", source if fits else None, width)

    def _unique(self, name: str) -> str:
        """A file name out of any text."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:120]
        taken = {path.stem for path in self.directory.iterdir()}
        choices = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(taken) + 2))
        return next(choice for choice in choices if choice not in taken) + ".png"


def write(runs: Sequence[Run], directory: Path) -> None:
    """Write index.html and figures/ into `directory`."""
    gallery = Gallery(directory / "figures")
    context = {
        "runs": [
            {
                "name": run.name,
                "anchor": f"run-{number}",
                "path": run.path,
                "notes": [*run.notes, *_failures(run)],
                "failed": run.failed.to_dict("records"),
                "environment": tables.environment(run),
                "sections": list(_sections(run, gallery, number if len(runs) > 1 else None)),
            }
            for number, run in enumerate(runs)
        ]
    }
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    (directory / "index.html").write_text(templates.get_template("report.html").render(context), encoding="utf-8")


def _sections(run: Run, gallery: Gallery, number: int | None) -> Iterator[Section]:
    prefix = "" if number is None else f"run{number}-"
    for task in (*run.tasks, LAYER):
        kind = "layer" if task == LAYER else "task"
        parts = tuple(
            Part(
                module.TITLE,
                tuple(
                    gallery.add(module, panel, f"{prefix}{task}-{name}-{panel.slug}")
                    for panel in module.panels(run, task)
                ),
                module.ABSENT,
            )
            for name, module in figures.registry().items()
            if kind == module.ABOUT
        )
        yield Section(
            title="The bare attention layer" if kind == "layer" else task,
            anchor=f"{prefix}{kind}-{(*run.tasks, LAYER).index(task)}",
            about=_about(run, task),
            tables=() if kind == "layer" else (*tables.summaries(run, task), *tables.promises(run, task)),
            parts=parts,
        )


def _about(run: Run, task: str) -> str:
    if task == LAYER:
        return "The layer alone, outside any model; every ratio is of times measured in the same rounds."
    about: dict[str, Any] = run.environment["tasks"][task]
    sentence = f"{about['description'].rstrip('.')}. " if about.get("description") else ""
    layers, metric = about.get("layers"), run.metric(task)
    facts = [f"{sum(layers.values())} heads in {len(layers)} layers"] if layers else []
    facts += [f"{about[key]:,} {text}" for key, text in COUNTS.items() if key in about]
    facts += [f"judged by {metric.name}, which is {metric.text(metric.chance)} by chance"]
    return f"{sentence}{', '.join(facts)}."


def _failures(run: Run) -> Iterator[str]:
    if len(run.failed):
        count = "One measurement" if len(run.failed) == 1 else f"{len(run.failed)} measurements"
        yield f"{count} failed; the errors are below, under What failed."
    if run.environment.get("dirty"):
        yield "The working tree had uncommitted changes when the run was made."
