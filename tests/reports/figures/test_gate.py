"""The gate's figure has the planted numbers where a reader looks for them; what can't be drawn is refused in words."""

import json
import math
from unittest.mock import Mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from PIL import Image

from reports.base.errors import ReportError
from reports.draw.style import PAPER, new_figure, theme
from reports.figures.gate.effects import LONGEST, LOOKS, SHOWN, caption, draw, gate_effects, shown
from reports.gate.__main__ import main, write
from reports.read.gate_verdict import load
from tests.reports import synthetic_gate as synthetic


@pytest.fixture
def gate(tmp_path):
    """gate(verdict) -> what is loaded of it."""

    def read(verdict):
        path = tmp_path / "verdict.json"
        path.write_text(json.dumps(verdict), encoding="utf-8")
        return load(path)

    return read


def drawn(gate, *, laid_out=False):
    """The figure and its axes."""
    with theme():
        figure = draw(gate)
        if laid_out:
            figure.draw_without_rendering()
    return figure, figure.axes[0]


def labels(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def bars(axes) -> dict[str, tuple]:
    """Verdict's colour -> (marker, effects, ends of intervals)."""
    found = {}
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            points, _, (lines,) = container.lines
            effects = [round(float(effect), 9) for effect in points.get_xdata()]
            ends = [tuple(segment[:, 0].round(9)) for segment in lines.get_segments()]
            if effects:
                found[to_hex(points.get_color())] = (points.get_marker(), effects, ends)
    return found


def test_effects_stand_in_order_with_intervals_and_floor(gate):
    _, axes = drawn(gate(synthetic.regressed()))
    assert labels(axes)[:3] == ["dense-4x64", "half-1x16", "prune-gpt2"]
    assert labels(axes)[-2:] == ["grouped-4x64", "control"]
    found = bars(axes)
    marker, effects, ends = found[to_hex(LOOKS["REGRESSED"].color)]
    assert (marker, effects, ends) == (">", [10.0], [(8.5, 11.65)])
    marker, effects, ends = found[to_hex(LOOKS["PASS"].color)]
    assert marker == "o"
    assert effects == [1.2, 0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, -0.2, -0.3, -0.9, -1.4, 0.1]
    assert ends[0] == (-0.4, 2.96)
    bands = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert np.allclose(bands[:2], [(-0.6, 1.2), (-1.0, 2.0)])


def test_the_first_look_is_a_small_hollow_marker_below(gate):
    figure, axes = drawn(gate(synthetic.regressed()))
    (first,) = [line for line in axes.lines if line.get_markerfacecolor() == PAPER]
    assert first.get_xdata().tolist() == pytest.approx([11.2])
    assert 0.2 < first.get_ydata()[0] < 0.4  # the row of dense-4x64 is at 0
    assert "first look" in [text.get_text() for text in figure.legends[0].get_texts()]
    figure, _ = drawn(gate(synthetic.verdict()))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["PASS", "noise floor", "95 % interval"]


def test_the_rules_are_lines_with_their_names_on(gate):
    _, axes = drawn(gate(synthetic.verdict(rules={"threshold": 0.02, "least": 0.045})), laid_out=True)
    assert [text.get_text().strip() for text in axes.texts] == ["least effect 4.5 %", "threshold 2 %"]
    assert {line.get_xdata()[0] for line in axes.lines if set(line.get_xdata()) & {0, 2.0, 4.5}} >= {0, 2.0, 4.5}
    least, threshold = (text.get_window_extent() for text in axes.texts)
    assert threshold.x1 <= least.x0


def test_the_control_stands_apart(gate):
    _, axes = drawn(gate(synthetic.verdict()))
    ticks = axes.get_yticks()
    assert np.allclose(np.diff(ticks)[:-1], 1.0)
    assert ticks[-1] - ticks[-2] == pytest.approx(1.6)


def test_axes_have_units(gate):
    for verdict, what in ((synthetic.verdict(), "time"), (synthetic.baseline(), "pruned time / dense time")):
        _, axes = drawn(gate(verdict))
        assert axes.get_xlabel().startswith(f"change of {what} from base to head (%)")
        assert axes.get_ylabel() == "benchmark"


def test_verdicts_differ_in_shape_and_in_colour():
    assert len({look.marker for look in LOOKS.values()}) == len({to_hex(look.color) for look in LOOKS.values()}) == 7


@pytest.mark.parametrize("make", [synthetic.verdict, synthetic.regressed, synthetic.inconclusive, synthetic.baseline])
def test_nothing_overlaps_or_is_cut_off(gate, make):
    figure, axes = drawn(gate(make()), laid_out=True)
    numbers = axes.child_axes[0]
    for column in (axes.get_yticklabels(), numbers.get_yticklabels(), axes.get_xticklabels(), axes.texts):
        boxes = [text.get_window_extent() for text in column if text.get_text()]
        assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    whole = figure.get_tightbbox()
    assert whole.x0 >= -0.01
    assert whole.x1 <= figure.get_figwidth() + 0.01
    assert plt.get_fignums() == []


def test_rows_without_numbers_say_why(gate):
    _, axes = drawn(gate(synthetic.inconclusive()))
    texts = [text.get_text() for text in axes.texts]
    assert {"new: no base to compare with", "error: not measured on both sides"} < {*texts}
    assert labels(axes)[-3:-1] == ["cosine-4x64", "legacy-4x64"]


def test_numbers_stand_beside_the_rows(gate):
    _, axes = drawn(gate(synthetic.regressed()))
    numbers = [label.get_text() for label in axes.child_axes[0].get_yticklabels()]
    assert numbers[:2] == ["+10.0 [+8.5, +11.7]", "+1.2 [-0.4, +3.0]"]


def test_of_very_many_the_largest_are_drawn_and_the_others_counted(gate):
    rows = [synthetic.row(f"dense-{n}", n / 1e4, 0.01) for n in range(-150, 150)]
    rows.append(synthetic.row("half-1", 0.0001, 0.3, "INCONCLUSIVE"))
    verdict = gate(synthetic.verdict("INCONCLUSIVE", rows))
    frame, left_out = shown(verdict.frame)
    assert (len(frame), left_out) == (SHOWN, 302 - SHOWN)
    assert {"half-1", "control", "dense--150", "dense-149"} < {*frame["name"]}
    assert frame.loc[frame["verdict"] == "PASS", "effect"].abs().drop(frame.index[frame["is_control"]]).min() > 0.01
    figure, axes = drawn(verdict)
    assert axes.get_title(loc="left").endswith("\nthe largest effects; 202 smaller ones not shown")
    assert figure.get_figheight() > 25
    few, _ = drawn(gate(synthetic.verdict(benchmarks=rows[:30])))
    assert 9 < few.get_figheight() < 12


def test_no_benchmark_at_all_is_a_figure_that_says_so(gate):
    verdict = gate(synthetic.verdict("ERROR", [], control=None, why=["nothing\nis common"]))
    _, axes = drawn(verdict)
    assert [text.get_text() for text in axes.texts] == ["no benchmark was compared:\nnothing is common"]
    assert caption(verdict) == "ERROR: no benchmark was compared (0 rows)."


def test_nulls_and_nan_are_no_numbers(gate):
    rows = [
        synthetic.row("a", 0.02, low=None, high=None, floor=None, adjusted=None),
        synthetic.row("b", math.nan, low=math.nan, high=math.inf, floor=math.nan),
        synthetic.row("c", 0.01, floor=10**400),
    ]
    verdict = gate(synthetic.verdict(benchmarks=rows, control=None))
    _, axes = drawn(verdict)
    assert labels(axes) == ["a", "c", "b"]
    assert [label.get_text() for label in axes.child_axes[0].get_yticklabels()] == ["+2.0", "+1.0 [-0.2, +2.3]", ""]
    assert caption(verdict) == "PASS: of 3 benchmarks 3 PASS; the largest effect is +2.0 %, of a."
    nothing = gate(synthetic.verdict("NEW", [synthetic.nothing("a", "NEW", "only the head has it")], control=None))
    _, axes = drawn(nothing)
    assert axes.get_xlim()[0] < 0 < 3 < axes.get_xlim()[1]
    assert caption(nothing) == "NEW: of 1 benchmark 1 NEW."


def test_names_are_only_text_and_not_too_long(gate):
    names = ["$\\frac{", "x" * 200 + "-end", "a\nb\x1b\u202e"]
    rows = [synthetic.row(name, -place / 100) for place, name in enumerate(names)]
    _, axes = drawn(gate(synthetic.verdict(benchmarks=rows, control=None)))
    dollar, long, lines = labels(axes)
    assert (dollar, lines) == ("$\\frac{", "a b")
    assert len(long) <= LONGEST
    assert long.endswith("x-end")


def test_effects_are_drawn_on_given_axes(gate):
    verdict = gate(synthetic.verdict())
    figure = new_figure(5, 4)
    left, right = figure.subplots(1, 2)
    gate_effects(verdict.frame, right, threshold=0.015, least=0.03)
    assert right.has_data()
    assert not left.has_data()


def test_captions_have_the_planted_numbers(gate):
    assert caption(gate(synthetic.inconclusive())) == (
        "INCONCLUSIVE: of 16 benchmarks 1 ERROR, 6 INCONCLUSIVE, 1 NEW, 8 PASS; the largest effect is +6.0 % "
        "[-11.0, 24.7], of half-1x16."
    )


def test_both_files_are_written_beside_the_verdict(tmp_path, capsys):
    (tmp_path / "verdict.json").write_text(json.dumps(synthetic.regressed()), encoding="utf-8")
    main([str(tmp_path)])
    names = ["effects.png", "effects.svg", "figure-files.json", "verdict.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert capsys.readouterr().out == (
        f"{tmp_path / 'effects.svg'} and {tmp_path / 'effects.png'}: REGRESSED: of 14 benchmarks 1 REGRESSED, 13 PASS; "
        "the largest effect is +10.0 % [8.5, 11.7], of dense-4x64.\n"
    )
    with Image.open(tmp_path / "effects.png") as image:
        assert image.size[0] == 1200
    svg = (tmp_path / "effects.svg").read_bytes()
    assert svg.rstrip().endswith(b"</svg>")
    write(tmp_path / "verdict.json", tmp_path / "else" / "where")
    assert (tmp_path / "else" / "where" / "effects.svg").read_bytes() == svg  # the same verdict, the same file


def test_what_was_there_stays_where_drawing_fails(tmp_path, monkeypatch):
    (tmp_path / "verdict.json").write_text(json.dumps(synthetic.verdict()), encoding="utf-8")
    write(tmp_path)
    old = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "verdict.json").write_text(json.dumps(synthetic.regressed()), encoding="utf-8")
    monkeypatch.setattr(
        "reports.site.single_figures.svg.text", Mock(side_effect=OSError(28, "No space left on device"))
    )
    with pytest.raises(ReportError, match=r"made or written \(No space left on device\); give another with -o$"):
        write(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != "verdict.json"} == {
        path: content for path, content in old.items() if path.name != "verdict.json"
    }
    monkeypatch.undo()
    write(tmp_path)
    assert (tmp_path / "effects.svg").read_bytes() != old[tmp_path / "effects.svg"]


def test_a_figure_of_ones_own_is_not_drawn_over(tmp_path):
    (tmp_path / "verdict.json").write_text(json.dumps(synthetic.verdict()), encoding="utf-8")
    (tmp_path / "effects.png").write_text("mine")
    with pytest.raises(ReportError, match=r"effects\.png: no report wrote this file, or it was changed since"):
        write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"effects.png", "verdict.json"}
    assert (tmp_path / "effects.png").read_text() == "mine"


def without(document: dict, *keys: str) -> dict:
    return {key: value for key, value in document.items() if key not in keys}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (json.dumps(synthetic.verdict())[:-100], r"expected a JSON object, but it is cut off or not of that format \("),
        ("[]", "expected a JSON object, got list; copy the run directory again"),
        ({"schema": 1, "tasks": {}}, r"expected the verdict of the regression gate \('kind': 'gate'\), got None; give"),
        (synthetic.verdict(schema=2), "expected schema 1, got 2; use the reports that came with the benchmark"),
        (without(synthetic.verdict(), "rules", "control"), "missing 'rules', 'control', found 'schema', 'kind'"),
        (synthetic.verdict(benchmarks={}), r"expected list for 'benchmarks', got \{\}; copy the run directory again"),
        (synthetic.verdict(rules={"threshold": 0.1}), "missing 'least' in rules, found 'threshold'"),
        (synthetic.verdict(rules={"threshold": "3 %", "least": 1}), "int or float for 'threshold' in rules, got '3 %'"),
        (synthetic.verdict(benchmarks=["a"]), r"expected an object for benchmarks\[0\], got 'a'"),
    ],
)  # fmt: skip
def test_what_is_no_verdict_is_refused(tmp_path, document, why):
    path = tmp_path / "verdict.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    with pytest.raises(ReportError, match=why) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"effect": "1"}, "expected int or float or null for 'effect' in {}, got '1'; copy the run directory again"),
        ({"low": True}, "expected int or float or null for 'low' in {}, got True"),
        ({"verdict": "FINE"}, "expected one of REGRESSED, .*, PASS for 'verdict' in {}, got 'FINE'"),
        ({"screen": {"p": 1}}, r"missing 'effect' in {}\.screen, found 'p'"),
        ({"name": None}, "expected str for 'name' in {}, got None"),
    ],
)
def test_a_row_that_is_none_is_refused(gate, change, why):
    row = synthetic.row("a", 0.0) | change
    with pytest.raises(ReportError, match=why.format(r"benchmarks\[0\]")):
        gate(synthetic.verdict(benchmarks=[row]))
    with pytest.raises(ReportError, match=why.format("control")):
        gate(synthetic.verdict(control=row))


def test_no_verdict_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path)])
    assert capsys.readouterr().err.endswith(
        f"{tmp_path / 'verdict.json'}: there is no such file; expected the directory of a gate run that has ended, or "
        "its verdict.json\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_output_is_said(tmp_path):
    (tmp_path / "verdict.json").write_text(json.dumps(synthetic.verdict()), encoding="utf-8")
    with pytest.raises(
        ReportError, match=r"verdict\.json: expected a directory to write effects\.svg and effects\.png into"
    ):
        write(tmp_path, tmp_path / "verdict.json")
