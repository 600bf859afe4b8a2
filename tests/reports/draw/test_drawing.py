"""Figures become files, in this process or in others, and an error of one is not lost."""

import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from PIL import Image

from reports.draw import drawing
from reports.draw.drawing import Studio
from reports.figures import predictions

FEW = 3
FRAME = pd.DataFrame(
    {"plan": ["a", "b"], "predicted": [0.5, 0.618], "measured": [0.5, 0.6], "low": [0.49, 0.59], "high": [0.51, 0.61]}
)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Other processes are started for fewer figures than usual."""
    monkeypatch.setattr(drawing, "FEW", FEW)


def test_whoever_draws_figures_the_files_are_the_same_and_an_error_of_one_is_raised(tmp_path):
    sizes = {}
    frames = [*[FRAME] * FEW, FRAME.drop(columns="measured"), FRAME]
    for processes in (1, 2):
        (directory := tmp_path / str(processes)).mkdir()
        with pytest.raises(KeyError, match="measured"), Studio(processes) as studio:
            drawn = [
                studio.add(predictions.__name__, frame, "Title", directory / f"figure-{n}", narrow=n == 1)
                for n, frame in enumerate(frames)
            ]
        sizes[processes] = [future.result() for future in drawn[:FEW]]
        names = {path.name for path in directory.iterdir()}
        assert names >= {f"figure-{n}.{kind}" for n in range(FEW) for kind in ("svg", "png")}
        assert not {name for name in names if name.startswith(f"figure-{FEW}.")}
    assert sizes[1] == sizes[2]
    for name in ("figure-0.svg", "figure-0.png", "figure-1.svg"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    whole, narrow = sizes[1][:2]
    assert whole.size == sum((tmp_path / "1" / f"figure-0.{kind}").stat().st_size for kind in ("svg", "png"))
    assert narrow.width == round(3.9 * 96) < whole.width
    with Image.open(tmp_path / "1" / "figure-0.png") as image:
        assert image.size == pytest.approx((whole.width * 120 / 96, whole.height * 120 / 96), abs=2)
    svg = (tmp_path / "1" / "figure-0.svg").read_text(encoding="utf-8")
    assert "Title" in svg
    assert "as predicted" in svg  # text is text


def test_an_interruption_ends_what_has_not_begun(tmp_path, monkeypatch):
    """With threads in the processes' place: they start at once, and what is awaited is the same."""
    begun = []
    monkeypatch.setattr(drawing, "ProcessPoolExecutor", lambda count, **_: ThreadPoolExecutor(count))
    monkeypatch.setattr(drawing, "render", lambda *_, **__: begun.append(time.sleep(0.05)))

    def interrupted():
        with Studio(2) as studio:
            for n in range(FEW + 40):
                studio.add(predictions.__name__, FRAME, "", tmp_path / f"figure-{n}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert 0 < len(begun) < FEW + 40


def test_one_core_draws_by_itself(monkeypatch, tmp_path):
    monkeypatch.setattr(drawing.os, "cpu_count", lambda: None)
    monkeypatch.setattr(drawing, "ProcessPoolExecutor", None)
    with Studio() as studio:
        for n in range(FEW + 2):
            studio.add(predictions.__name__, FRAME, "", tmp_path / f"figure-{n}")
    assert len(list(tmp_path.glob("*.png"))) == FEW + 2
