"""Wherever a file is cut or changed: nothing is lost in silence, and no other error is raised."""

from contextlib import suppress

import numpy as np
import pytest

from reports.base.errors import ReportError
from reports.read.load import load
from tests.reports.damaging import CASE, TABLES
from tests.thorough import few


def places(content: bytes) -> list[int]:
    """Where to cut a file: at its ends, and in its midst wherever that is not just the end of a line."""
    spots = [0, 1, *(len(content) * share // 7 for share in range(1, 7)), len(content) - 2, len(content) - 1]
    return [spot for spot in spots if content[spot - 1 : spot] != b"\n"]


FILES = [
    "environment.json", CASE, "cases/digits-magnitude-keep0.5-b2-cpu.json", "cases/digits-gate-keep0.5-b2-cpu.json",
    "plans/digits-gate-keep0.5-0.json", "attention.npz", "examples.parquet", *TABLES,
]  # fmt: skip
ONE_OF_EACH = (  # kind of file; a case that was timed, and one that has failed; tables are all read in one way
    "environment.json", CASE, "cases/digits-gate-keep0.5-b2-cpu.json", "plans/digits-gate-keep0.5-0.json",
    "attention.npz", "examples.parquet", "scores.csv",
)  # fmt: skip


@pytest.mark.parametrize("name", few(FILES, *ONE_OF_EACH))
def test_nothing_is_lost_in_silence_wherever_a_file_is_cut(write_run, full_run, name):
    path, whole = write_run(), load(full_run)
    content = (path / name).read_bytes()
    files = len(list((path / "cases").iterdir()))
    for spot in places(content):
        (path / name).write_bytes(content[:spot])
        if name == "environment.json":
            with pytest.raises(ReportError, match=r"environment\.json: expected a JSON object"):
                load(path)
            continue
        run = load(path)
        assert run.left_out["what"].tolist() == [name]
        lost = run.left_out["what"].str.startswith("cases/").sum()
        assert len(run.cases) + (run.unfinished["kind"] == "latency").sum() + lost == files
        for table in TABLES:
            stem = table.removesuffix(".csv")
            assert len(getattr(run, stem)) == (0 if table == name else len(getattr(whole, stem)))
        assert len(run.attention) == (0 if name == "attention.npz" else 2)


@pytest.mark.parametrize("name", few(FILES, *ONE_OF_EACH))
def test_flipped_bytes_are_never_another_error(write_run, name):
    path = write_run()
    content = (path / name).read_bytes()
    generator = np.random.default_rng(7)
    for spot in generator.integers(0, len(content), 13):
        flipped = bytearray(content)
        flipped[spot] ^= int(generator.integers(1, 256))
        (path / name).write_bytes(flipped)
        if name == "environment.json":
            with suppress(ReportError):
                load(path)
        else:
            assert len(load(path).left_out) <= 3
