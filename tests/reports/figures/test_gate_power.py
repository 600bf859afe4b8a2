"""The figure of what the gate finds."""

import json

import pytest
from matplotlib.figure import Figure

from reports.base.errors import ReportError
from reports.figures.gate.power import gate_power
from reports.gate.power import main
from reports.read.gate_calibration import load

CALIBRATION = {
    "schema": 1,
    "kind": "gate-calibration",
    "simulated": {
        "no-change": {"PASS": 19, "INCONCLUSIVE": 1},
        "layer-0.05": {"REGRESSED": 15, "PASS": 5},
        "layer-0.10": {"REGRESSED": 20},
        "noise-0.05": {"PASS": 20},
    },
}


@pytest.fixture
def stored(tmp_path):
    (tmp_path / "calibration.json").write_text(json.dumps(CALIBRATION))
    return tmp_path


def test_rates_and_their_exact_intervals(stored):
    frame = load(stored / "calibration.json").set_index(["kind", "share"])
    assert frame.loc[("no-change", 0.0), "found"] == 0.0
    assert frame.loc[("no-change", 0.0), "high"] == pytest.approx(1 - 0.025 ** (1 / 20))
    assert frame.loc[("layer", 0.05), "found"] == 0.75
    assert frame.loc[("layer", 0.1), "low"] == pytest.approx(0.025 ** (1 / 20))


def test_a_line_for_each_kind_starts_at_the_false_alarms(stored):
    axes = Figure().subplots()
    gate_power(load(stored / "calibration.json"), axes)
    lines = {each.get_label(): each.lines[0].get_xydata().tolist() for each in axes.containers}
    assert lines == {
        "in one of 13 benchmarks": [[0, 0], [5, 0.75], [10, 1]],
        "by a random time, in nearly all": [[0, 0], [5, 0]],
    }


def test_both_files_are_written(stored, capsys):
    main([str(stored), "-o", str(stored / "figures")])
    assert capsys.readouterr().out.strip().endswith("power.png")
    assert {path.name for path in (stored / "figures").iterdir()} == {
        "power.svg", "power.png", "figure-files.json"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no such file"),
        ('{"kind": "gate"}', "expected the gate's calibration"),
        ("{", "calibration.json"),
    ],
)
def test_what_is_no_calibration(tmp_path, text, said):
    if text is not None:
        (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(ReportError, match=said):
        load(tmp_path / "calibration.json")
