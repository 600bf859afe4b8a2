"""Runs -> index.html and figures/*.png. What is said, in order; how it looks is in pages/."""

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports import figures, tables
from reports.cases import FAILED
from reports.cells import Summary
from reports.figures import FigureModule, Panel
from reports.run import GENERATION, LAYER, Run
from reports.style import theme

EMBED_LIMIT = 4_000_000  # characters of figures inside the page; with its tables it stays below 5 MB
TITLES = {LAYER: "The bare attention layer", GENERATION: "Generation"}
ABOUT = {
    LAYER: "The layer alone, outside any model; every ratio is of times measured in the same rounds.",
    GENERATION: "Causal models that read a prompt and then write, token by token, with a key/value cache.",
}
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
    tables: tuple[Summary, ...] = ()


@dataclass(frozen=True)
class Part:
    """All panels of one figure module, or the sentence that stands in their place."""

    title: str
    pictures: tuple[Picture, ...]
    absent: str


@dataclass(frozen=True)
class Section:
    """A task, the bare layer, or generation. The appendix is for looking things up."""

    title: str
    anchor: str
    about: str
    tables: tuple[Summary, ...]
    parts: tuple[Part, ...]
    appendix: tuple[Summary, ...]

    @property
    def is_empty(self) -> bool:
        return not self.tables and not any(part.pictures for part in self.parts)

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
        caption = module.caption(panel.frame)
        return Picture(panel.title, caption, f"figures/{file}", source if fits else None, width, panel.tables)

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
                "noisy": run.noisy,
                "failed": run.unfinished[run.unfinished["status"] == FAILED].to_dict("records"),
                "closing": [*tables.left_out(run), *tables.ceilings(run)],
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
    generates = (GENERATION,) if (run.cases["kind"] == GENERATION).any() else ()
    for place, task in enumerate((*run.tasks, LAYER, *generates)):
        of_task = task in run.tasks
        yield Section(
            title=TITLES.get(task, task),
            anchor=f"{prefix}{'task' if of_task else task}-{place}",
            about=_about(run, task),
            tables=(*tables.summaries(run, task), *tables.promises(run, task)) if of_task else (),
            parts=tuple(
                Part(
                    module.TITLE,
                    tuple(
                        gallery.add(module, panel, f"{prefix}{task}-{name}-{panel.slug}")
                        for panel in module.panels(run, task)
                    ),
                    module.ABSENT,
                )
                for name, module in figures.about(task).items()
            ),
            appendix=tuple(tables.percentiles(run, task)),
        )


def _about(run: Run, task: str) -> str:
    if task in ABOUT:
        return ABOUT[task]
    about: dict[str, Any] = run.environment["tasks"][task]
    sentence = f"{about['description'].rstrip('.')}. " if about.get("description") else ""
    layers, metric = about.get("layers"), run.metric(task)
    facts = [f"{sum(layers.values())} heads in {len(layers)} layers"] if layers else []
    facts += [f"{about[key]:,} {text}" for key, text in COUNTS.items() if key in about]
    facts += [f"judged by {metric.name}, which is {metric.text(metric.chance)} by chance"]
    listed = ", ".join(facts)
    return f"{sentence}{listed[0].upper()}{listed[1:]}."


def _failures(run: Run) -> Iterator[str]:
    failed = int((run.unfinished["status"] == FAILED).sum())
    if failed:
        count = "One measurement" if failed == 1 else f"{failed} measurements"
        yield f"{count} failed; the errors are below, under What failed."
    if run.environment.get("dirty"):
        yield "The working tree had uncommitted changes when the run was made."
