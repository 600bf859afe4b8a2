"""What a report is made from: runs of several kinds, archives, and what is refused with its reason."""

import json
import shutil

import pytest

from reports.base.errors import ReportError
from reports.read.sources import read
from tests.reports.synthetic_importance import write as write_study


def test_kinds_are_told_apart(full_run, tmp_path):
    study = write_study(tmp_path / "study")
    (study / "environment.json").write_text('{"schema": 1, "cpu": "AMD EPYC"}')
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", full_run)
    found = read([full_run, study, tmp_path / "packed.zip"])
    assert archive.endswith("packed.zip")
    assert [run.name for run in found.runs] == ["full", "packed"]
    assert [(one.name, one.environment["cpu"]) for one in found.importance] == [("study", "AMD EPYC")]
    assert found.refused == ()


@pytest.mark.parametrize("name", ["gate.json", "verdict.json"])
def test_a_run_of_the_gate_is_told_where_it_is_drawn(full_run, tmp_path, name):
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / name).write_text("{}")
    found = read([full_run, tmp_path / "gate"])
    (refused,) = found.refused
    assert refused.reason.endswith("gate: this is a run of the regression gate; python -m reports.gate draws it")
    assert len(found.runs) == 1


@pytest.mark.parametrize("table", ["cost.csv", "environment.json"])
def test_a_study_that_is_cut_off_is_refused_as_a_whole(full_run, tmp_path, table):
    study = write_study(tmp_path / "study")
    (study / "environment.json").write_text('{"schema": 1}')
    (study / table).write_text((study / table).read_text()[:-4])
    found = read([study, full_run])
    assert found.importance == ()
    assert f"{study / table}: expected" in found.refused[0].reason


def test_nothing_that_can_be_read_is_an_error_with_the_first_reason(write_run, tmp_path):
    older = write_run("older")
    environment = json.loads((older / "environment.json").read_text()) | {"schema": 0}
    (older / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(ReportError, match=r"expected schema 1, got 0; .* \(1 other could not be read, either\)"):
        read([older, tmp_path / "nowhere"])
    with pytest.raises(ReportError, match="no run was named; name at least one"):
        read([])


def test_the_same_run_twice(full_run):
    with pytest.raises(ReportError, match=r"full/\.\./full: this run is named more than once"):
        read([full_run, full_run / ".." / "full"])
