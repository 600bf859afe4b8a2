"""The page of one run: its tasks, the bare layer, generation; what failed; what it was measured on; its data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from reports.analyse import tables, texts
from reports.base.commands import again
from reports.base.formatting import capitalised, count, listed
from reports.read.cases import FAILED
from reports.read.run import GENERATION, LAYER, Run
from reports.site import findings, layout
from reports.site.downloads import Download
from reports.site.findings import Finding
from reports.site.page import Album, FigurePage, Picture, Section

TITLES = {LAYER: "The bare attention layer", GENERATION: "Generation"}
ABOUT = {
    LAYER: "The layer alone, outside any model; every ratio is of times measured in the same rounds.",
    GENERATION: "Causal models that read a prompt and then write, token by token, with a key/value cache.",
}
COUNTS = {"parameters": "parameters", "examples": "held-out examples"}


@dataclass(eq=False)
class RunPage(FigurePage):
    """The page of one run.

    Attributes:
        run: the run, as it was read.
        downloads: its data, as the page links to it.
    """

    run: Run
    downloads: tuple[Download, ...]

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def source(self) -> str:
        return f"run = load(Path({self.run.path.name!r}))"

    @property
    def machine(self) -> str:
        """The machine that the run was measured on, in a line: accelerators, CPU, cores, threads, version of torch."""
        environment = self.run.environment
        accelerators = [str(name) for name in (environment.get("accelerators") or {}).values()]
        cores = [count(environment[name], name[:-1]) for name in ("cores", "threads") if environment.get(name)]
        torch = [f"torch {version}"] if (version := (environment.get("packages") or {}).get("torch")) else []
        others = count(len(environment.get("machines") or {}), "other kind")
        beside = [f"and {others} of machine"] if environment.get("machines") else []
        return ", ".join([*accelerators, str(environment.get("cpu") or "unknown CPU"), *cores, *torch, *beside])

    @property
    def about(self) -> str:
        """What was measured and when, in a line: the tasks, and how many cases and samples."""
        run = self.run
        processes = run.samples["process"].nunique()
        several = f" in {processes} processes" if processes > 1 else ""
        tasks = listed(list(run.tasks)) if run.tasks else "no tasks"
        when = str(run.environment["created"])[:10]
        return f"{tasks}: {count(len(run.cases), 'case')}, {len(run.samples):,} samples{several}, {when}."

    @cached_property
    def found(self) -> tuple[tuple[Finding, str], ...]:
        """The findings of the run, each with the anchor of what shows it."""
        return tuple((finding, self.anchor_of(finding)) for finding in findings.findings(self.run))

    def anchor_of(self, finding: Finding) -> str:
        """The anchor of the first picture of a finding's figure, or of its task's section if there is none."""
        shown = self.pictures_of(finding.figure, finding.task)
        return shown[0].anchor if shown else self.section_of(finding.task).anchor

    def pictures_of(self, figure: str, task: str) -> tuple[Picture, ...]:
        """The pictures of the figure module `figure` in the section of `task`, LAYER or GENERATION; may be none."""
        parts = self.section_of(task).parts
        return next((part.pictures for part in parts if part.module.endswith(f".{figure}")), ())

    def section_of(self, task: str) -> Section:
        """The section of a task, or of LAYER or GENERATION."""
        return next(section for section in self.sections if section.asked == _asked(task))

    def html(self) -> str:
        run = self.run
        return self.render(
            "run.html",
            notes=[*run.notes, *_notes(run)],
            failed=run.unfinished[run.unfinished["status"] == FAILED].to_dict("records"),
            closing=[*tables.left_out(run), *tables.ceilings(run)],
            environment=tables.environment(run.environment),
            commands=again(run.environment),
        )


def sections(run: Run, album: Album) -> tuple[Section, ...]:
    """The sections of a run's page: each task, the bare layer, and generation if any; `album` has them drawn."""
    generates = (GENERATION,) if (run.cases["kind"] == GENERATION).any() else ()
    return tuple(_section(run, task, album) for task in (*run.tasks, LAYER, *generates))


def _section(run: Run, task: str, album: Album) -> Section:
    of_task = task in run.tasks
    return Section(
        title=TITLES.get(task, task),
        anchor=album.slugs.of(task),
        asked=_asked(task),
        about=_about(run, task),
        tables=(*tables.summaries(run, task), *tables.promises(run, task)) if of_task else (),
        parts=album.parts(layout.of_task(task), lambda module: module.panels(run, task), task),
        texts=texts.texts(run, task) if of_task else None,
        appendix=tuple(tables.percentiles(run, task)),
    )


def _asked(task: str) -> str:
    return f"run, {task!r}"


def _about(run: Run, task: str) -> str:
    if task in ABOUT:
        return ABOUT[task]
    about_task: Mapping[str, Any] = run.environment["tasks"][task]
    sentence = f"{about_task['description'].rstrip('.')}. " if about_task.get("description") else ""
    layers, metric = about_task.get("layers"), run.metric(task)
    facts = [f"{sum(layers.values())} heads in {len(layers)} layers"] if layers else []
    facts += [f"{about_task[key]:,} {text}" for key, text in COUNTS.items() if key in about_task]
    facts += [f"judged by {metric.name}, which is {metric.text(metric.chance)} by chance"]
    listed = ", ".join(facts)
    return f"{sentence}{capitalised(listed)}."


def _notes(run: Run) -> Iterator[str]:
    failed = int((run.unfinished["status"] == FAILED).sum())
    if failed:
        count = "One measurement" if failed == 1 else f"{failed} measurements"
        yield f"{count} failed; the errors are below, under What failed."
    if run.environment.get("dirty"):
        yield "The working tree had uncommitted changes when the run was made."
    if len(run.left_out):
        yield "Some of what the run holds could not be used; what and why is below, under What was left out."
