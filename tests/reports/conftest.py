"""Synthetic runs, as directories."""

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from reports.draw import drawing, svg
from reports.site.build import build
from tests.reports.synthetic import RunWriter, fill, fill_minimal
from tests.reports.synthetic_importance import write as write_study
from tests.reports.synthetic_runtimes import write as write_runtimes

Write = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> Write:
    """write_run(name, fill=…, change=…) -> a run directory; `change` edits the writer before it finishes."""

    def write(
        name: str = "run", fill: Callable[[RunWriter], None] = fill, change: Callable[[RunWriter], None] | None = None
    ) -> Path:
        run = RunWriter(tmp_path / name)
        fill(run)
        if change:
            change(run)
        return run.finish()

    return write


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that `fill` writes; not to be changed."""
    run = RunWriter(tmp_path_factory.mktemp("runs") / "full")
    fill(run)
    return run.finish()


@pytest.fixture(scope="session")
def minimal_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that `fill_minimal` writes; not to be changed."""
    run = RunWriter(tmp_path_factory.mktemp("runs") / "minimal")
    fill_minimal(run)
    return run.finish()


@pytest.fixture(scope="session")
def site(full_run, minimal_run, tmp_path_factory, worker_id) -> Path:
    """A report of four runs, one of them of importance, one of runtimes, by several processes; not to be changed.

    Whichever worker of pytest-xdist comes first builds it for all.
    """
    temporary = tmp_path_factory.getbasetemp()
    output = (temporary if worker_id == "master" else temporary.parent) / "site"
    with FileLock(f"{output}.lock"):
        if not (output / "index.html").exists():  # is written last
            study = write_study(tmp_path_factory.mktemp("study") / "study")
            (study / "environment.json").write_text('{"schema": 1}')
            deployed = write_runtimes(tmp_path_factory.mktemp("deployed") / "runtimes")
            build([full_run, minimal_run, study, deployed], output, processes=2)
    return output


@pytest.fixture
def alone(monkeypatch):
    """Figures are made by this process, so that what a test puts in their place is."""
    monkeypatch.setattr(drawing, "MOST_PROCESSES", 1)


@pytest.fixture
def sketched(monkeypatch, alone):  # noqa: ARG001
    """Figures are drawn, which is quick, and not rendered, which is not."""
    monkeypatch.setattr(drawing, "write_png", lambda _, file: file.write_bytes(bytes(1000)))
    monkeypatch.setattr(svg, "text", lambda _: "<svg/>")


@pytest.fixture
def told(monkeypatch, alone):  # noqa: ARG001
    """Figures are not drawn at all; only what is said of them is on the page."""
    monkeypatch.setattr(drawing, "render", lambda *_, **__: drawing.Drawn(100, 100, 1))
