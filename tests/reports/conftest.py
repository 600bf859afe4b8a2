"""Synthetic runs, as directories."""

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from reports import page
from tests.reports.synthetic import RunWriter, fill, fill_minimal

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


@pytest.fixture
def sketched(monkeypatch):
    """Figures are drawn, which is quick, and not rendered, which is not."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: Path(path).write_bytes(bytes(1000)))  # noqa: ARG005


@pytest.fixture
def told(monkeypatch):
    """Figures are not drawn at all; only what is said of them is on the page."""
    monkeypatch.setattr(page.Gallery, "add", tell)


def tell(gallery, module, panel, name):  # noqa: ARG001
    return page.Picture(panel.title, module.caption(panel.frame), "figures/none.png", "data:,", 100)
