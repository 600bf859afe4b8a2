"""Two sides beside each other: planted ratios, what only one has, and what is said where something is missing."""

from itertools import count
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

from reports.analyse.compare.comparison import compare
from reports.analyse.compare.matching import OTHER_SHAPE, SAME_HEADS, SAME_SHAPE
from reports.analyse.compare.sides import pairs, sides
from reports.analyse.compare.tables import MOST_ROWS, summaries
from reports.read.load import load
from reports.site.compare_findings import findings
from tests.reports.synthetic import DENSE_SECONDS, fill_minimal, paired

TAYLOR = {"kind": "pruning", "kept_fraction": 0.5, "batch": 2, "criterion": "magnitude, taylor"}
MEDIAN_DRIFT = 2.0  # of 1, 1.2 … 3
SEEDS = count()


def spread(dense: float, speedup: float, rounds: int = 21, sigma: float = 0.05) -> list[dict]:
    """Samples whose ratios lie about `speedup`, no two times the same."""
    logs = np.random.default_rng(next(SEEDS)).normal(np.log(speedup), sigma, rounds)
    times = [("dense", np.full(rounds, dense)), ("pruned", dense / np.exp(logs))]
    return [{"arm": arm, "round": turn, "seconds": float(s)} for arm, all_ in times for turn, s in enumerate(all_)]


def faster(run):
    """Half of the heads: 3 times instead of twice as fast. Another revision, and another torch."""
    run.case("digits", "taylor", 0.5, 2, paired(5 * DENSE_SECONDS, 3.0))
    run.layer_case(4, 3, 16, 1.0, paired(0.002, 1.6, arms=("torch", "mha")))
    run.environment |= {"revision": "beef", "packages": {"torch": "2.14.0", "numpy": "2.4.6"}, "code": "1"}


def both(*paths):
    one, other = sides([load(path) for path in paths])
    return compare(one, other)


@pytest.fixture
def write_pair(write_run):
    """write_pair(change, other) -> the comparison of two runs as `fill` writes them, each with its change."""

    def write(change=None, other=None, **options):
        return both(write_run("A", change=change, **options), write_run("B", change=other, **options))

    return write


def row(table, **where):
    found = table[np.logical_and.reduce([table[name] == value for name, value in where.items()])]
    assert len(found) == 1, found
    return found.iloc[0]


def test_a_run_on_two_devices_is_two_sides(write_run):
    def change(run):
        run.case("digits", "taylor", 0.5, 2, paired(0.004, 8.0), case="on-cuda", device="cuda")

    one, two, three = sides([load(write_run("A", change=change)), load(write_run("B"))])
    assert [(side.name, side.device) for side in (one, two, three)] == [
        ("A, cpu", "cpu"), ("A, cuda", "cuda"), ("B", "cpu"),
    ]  # fmt: skip
    assert list(two.cases["case"]) == ["on-cuda"]
    found = compare(one, two)
    assert (found.first, found.second) == ("A, cpu", "A, cuda")
    assert len(found.environments) == 1  # the device
    assert row(found.speedups, criterion="taylor")["ratio"] == pytest.approx(4.0)
    assert found.accuracies.empty
    assert "Both are of one run, which measures accuracy once: it is the same on both sides." in found.notes


def test_up_to_four_sides_are_compared_each_with_each_and_more_with_the_first():
    assert pairs("abc") == (("a", "b"), ("a", "c"), ("b", "c"))
    assert len(pairs("abcd")) == 6
    assert pairs("abcde") == (("a", "b"), ("a", "c"), ("a", "d"), ("a", "e"))


def test_speedups_are_compared_and_times_are_not(write_pair):
    found = write_pair(None, faster)
    taylor = row(found.speedups, **TAYLOR)
    assert tuple(taylor[["first", "second", "ratio", "ratio_low", "ratio_high"]]) == pytest.approx(
        (2, 3, 1.5, 1.5, 1.5)
    )
    assert taylor["differs"]
    assert (taylor["first_rounds"], taylor["second_rounds"], taylor["first_processes"]) == (11, 11, 1)
    others = found.speedups.drop(index=taylor.name)
    assert others["ratio"].to_numpy(float) == pytest.approx(1.0)
    assert not others["differs"].any()
    assert {*others["kind"]} == {"pruning", "attention", "generation"}
    dense = row(found.dense, kind="pruning", batch=1)
    assert tuple(dense[["first", "second"]]) == pytest.approx((DENSE_SECONDS * MEDIAN_DRIFT,) * 2)
    assert not [name for name in found.dense if "ratio" in name or "speedup" in name]


def test_criteria_that_share_a_measurement_are_one_row_and_those_timed_apart_are_two(write_pair):
    def apart(run):
        run.case("digits", "magnitude", 0.5, 2, paired(0.01, 2.5))

    found = write_pair(None, apart).speedups
    assert row(found, kind="pruning", criterion="taylor", kept_fraction=0.5, batch=2)["ratio"] == pytest.approx(1.0)
    assert row(found, criterion="magnitude", kept_fraction=0.5, batch=2)["ratio"] == pytest.approx(1.25)
    assert len(found[(found["criterion"] == "magnitude, taylor")]) == 3  # as shared in both


def test_what_is_measured_another_way_does_not_match(write_pair):
    def change(run):
        run.case("digits", "taylor", 0.5, 2, paired(0.01, 2.0), dtype="bfloat16")
        run.case("digits", "random", 0.5, 1, paired(0.01, 2.0), case="cold", cache="cold")

    found = write_pair(None, change)
    assert row(found.speedups, criterion="magnitude", kept_fraction=0.5, batch=2)["ratio"] == pytest.approx(1.0)
    assert {*found.speedups["dtype"], *found.speedups["cache"]} == {"float32", "warm"}
    assert "1 case only in A: 1 of digits." in found.notes
    assert "2 cases only in B: 2 of digits." in found.notes


def test_it_is_said_whether_both_keep_the_same_heads(write_pair):
    def change(run):
        next(plan for plan in run.plans if plan["plan"] == "digits-taylor-keep0.25-0")["keep"] = '{"a": [1]}'
        run.case("digits", "random", 0.5, 2, paired(0.01, 1.6), shape=[4, 4])

    found = write_pair(None, change)
    pruned = found.speedups[found.speedups["kind"] == "pruning"]
    heads = pruned.set_index(["criterion", "kept_fraction", "batch"])["heads"]
    assert heads["magnitude, taylor", 0.5, 2] == SAME_HEADS
    assert heads["magnitude, taylor", 0.25, 2] == SAME_SHAPE
    assert heads["random", 0.5, 2] == OTHER_SHAPE
    assert row(found.accuracies, criterion="taylor", kept_fraction=0.25)["heads"] == "other heads"
    assert row(found.accuracies, criterion="taylor", kept_fraction=0.5)["heads"] == SAME_HEADS
    assert any(note.startswith("1 of 7 plans in common keep other heads in B than in A") for note in found.notes)
    assert "1 of 14 speedups in common are of another shape in each." in found.notes


def test_the_bare_layer_is_compared_by_ours_over_its_peer(write_pair):
    found = write_pair(None, faster).peers
    one = row(found, heads_total=4, seq_len=16)
    assert tuple(one[["first", "second", "ratio"]]) == pytest.approx((1 / 1.25, 1 / 1.6, 1.25 / 1.6))
    assert one["peer"] == "torch"
    assert row(found, heads_total=8, seq_len=64)["ratio"] == pytest.approx(1.0)


def test_accuracies_stand_beside_each_other_and_draws_as_their_mean_and_range(write_pair):
    def change(run):
        plan = next(plan for plan in run.plans if plan["plan"] == "digits-taylor-keep0.5-0")
        plan |= {"value": 0.9, "difference": -0.07, "difference_low": -0.08, "difference_high": -0.06}

    found = write_pair(None, change).accuracies
    taylor = row(found, criterion="taylor", kept_fraction=0.5)
    assert tuple(taylor[["first_difference", "second_difference"]]) == pytest.approx((-0.005, -0.07))
    assert tuple(taylor[["second_difference_low", "second_difference_high"]]) == pytest.approx((-0.08, -0.06))
    random = row(found, criterion="random")
    assert (random["first_draws"], random["second_draws"]) == (21, 21)
    assert tuple(random[["first_value", "first_value_low", "first_value_high"]]) == pytest.approx((0.6, 0.505, 0.695))


def test_both_fronts_are_there_each_of_its_own_dense_model(write_pair):
    found = write_pair(None, faster)
    assert list(found.fronts) == [f"digits, batch {batch}, cpu, float32, 7 tokens" for batch in (2, 1)]
    table = found.fronts["digits, batch 2, cpu, float32, 7 tokens"]
    taylor = table[(table["criterion"] == "taylor") & (table["kept_fraction"] == 0.5)].set_index("side")
    assert taylor["share"].to_dict() == pytest.approx({"A": 1 / 2, "B": 1 / 3})
    assert taylor["front"].all()


def test_what_differs_is_listed_and_what_does_not_is_not(write_pair):
    found = write_pair(None, faster)
    assert found.environments.to_numpy().tolist() == [
        ["revision", "0f3c2aa, clean", "beef, clean"],
        ["package torch", "2.13.0", "2.14.0"],
        ["code", "not there", "1"],
    ]
    assert any(
        note.startswith("The two differ in revision, package torch and code: a difference") for note in found.notes
    )
    same = write_pair()
    assert same.environments.empty
    assert not any("differ in" in note for note in same.notes)
    *_, table = summaries(same)
    assert table.note == "Nothing that is recorded differs: neither machine, code, packages nor settings."


def test_a_noisy_machine_and_few_processes_are_said_of_each_side(write_pair):
    def noisy(run):
        run.environment["machine"] = {"checks": [], "noisy": ["Others used 0.4 cores."]}

    notes = write_pair(None, noisy).notes
    assert "The machine of B was noisy: Others used 0.4 cores." in notes
    assert not any("of A was noisy" in note for note in notes)
    assert sum("was timed in one process, whose" in note for note in notes) == 2


def test_several_processes_are_resampled_as_such(write_pair):
    def several(run):
        for process in range(1, 5):
            run.case("digits", "taylor", 0.25, 2, paired(0.01, 3.6 + 0.2 * process), process=process)

    found = write_pair(several, several)
    quarter = row(found.speedups, kind="pruning", kept_fraction=0.25, batch=2)
    assert quarter["first_processes"] == 5
    assert quarter["ratio"] == pytest.approx(1.0)
    assert quarter["ratio_low"] < 0.95
    assert quarter["ratio_high"] > 1.05
    assert not quarter["differs"]


def test_of_many_that_are_the_same_about_one_in_twenty_differs_and_the_planted_one_comes_first(write_pair):
    def many(planted):
        def change(run):
            for batch in range(10, 70):
                run.case("digits", "taylor", 0.5, batch, spread(0.01, planted if batch == 40 else 1.3))

        return change

    found = write_pair(many(1.3), many(1.6))
    drawn = found.speedups[found.speedups["batch"] >= 10]
    assert len(drawn) == 60
    assert 1 <= drawn["differs"].sum() <= 9
    first = findings(found)[0]
    assert first.startswith(
        f"Of 74 speedups in common {drawn['differs'].sum()} differ beyond their 95 % intervals (about"
    )
    assert "(about 4 would by chance, more where a side has one process); the largest difference: digits, " in first
    assert "digits, 50 % kept, taylor, batch 40: 1.3" in first
    assert " in A, 1.6" in first or " in A, 1.5" in first


def test_runs_of_other_tasks_have_nothing_in_common_and_the_notes_say_so(write_run):
    def other(run):
        run.task("letters", {"attention": 2})
        run.plan("letters", "dense", 1.0, 0.9)
        run.case("letters", "taylor", 0.5, 2, paired(0.01, 2.0))

    found = both(write_run("A", fill=fill_minimal), write_run("B", fill=other))
    assert found.nothing
    assert findings(found) == ()
    assert "No case was timed in both, so no speedups are compared." in found.notes
    assert "No plan is in both, so no accuracies are compared." in found.notes
    assert "1 plan only in B: 1 of letters." in found.notes
    assert [table.title for table in summaries(found)] == ["What was not the same"]


def test_a_run_without_latencies_and_one_without_plans(write_run):
    def untimed(run):
        for file in (run.path / "cases").iterdir():
            file.unlink()

    def unjudged(run):
        run.plans = []

    accuracy = both(write_run("A"), write_run("B", change=untimed))
    assert accuracy.speedups.empty
    assert len(accuracy.accuracies) == 7
    assert not accuracy.nothing
    assert "B has no latencies of pruned models, so no speedups are compared." in accuracy.notes
    latency = both(write_run("C"), write_run("D", change=unjudged))
    assert latency.accuracies.empty
    assert len(latency.speedups) == 14
    assert latency.fronts == {}
    assert "D has no plans.csv, so no accuracies are compared." in latency.notes
    neither = both(write_run("E", change=untimed), write_run("F", change=unjudged))
    assert neither.nothing


def test_a_task_that_only_one_has_judged_leaves_the_others(write_pair):
    def letters(run):
        run.task("letters", {"attention": 2})

    def judged(run):
        letters(run)
        run.plan("letters", "taylor", 0.5, 0.9)

    found = write_pair(letters, judged)
    assert {*found.accuracies["task"]} == {"digits"}
    assert "1 plan only in B: 1 of letters." in found.notes


def test_the_same_run_twice_differs_nowhere_and_its_intervals_have_a_width(write_pair):
    samples = spread(0.01, 1.7)

    def change(run):
        run.case("digits", "taylor", 0.5, 2, samples)

    taylor = row(write_pair(change, change).speedups, **TAYLOR)
    assert taylor["ratio"] == 1
    assert taylor["ratio_low"] < 0.98 < 1.02 < taylor["ratio_high"]


def test_single_rounds_have_no_interval_and_never_differ(write_pair):
    def change(run):
        run.case("digits", "taylor", 0.5, 2, paired(DENSE_SECONDS, 4.0, rounds=1))

    found = write_pair(None, change, fill=fill_minimal)
    taylor = row(found.speedups, kind="pruning", criterion="taylor", batch=2)
    assert taylor["ratio"] == pytest.approx(2.0)
    assert np.isnan(taylor["ratio_low"])
    assert not found.speedups["differs"].any()
    assert "5 speedups in common rest on a single round of one side: they have no interval." in found.notes
    assert findings(found)[0].startswith("5 speedups in common, none with an interval on both sides; the largest")


def test_accuracies_that_are_not_known_against_dense_are_dashes(write_pair):
    def change(run):
        for plan in run.plans:
            plan |= {"difference": "", "difference_low": "", "difference_high": ""}

    found = write_pair(None, change)
    table = next(table for table in summaries(found) if table.title == "digits: accuracy of both")
    taylor = next(cells for cells in table.rows if (cells[0].text, cells[1].text) == ("taylor", "50 %"))
    assert [cell.text for cell in taylor[3:]] == ["96.5 %", "96.5 %", "−0.5 points", "–"]
    assert all("nan" not in sentence for sentence in findings(found))


def test_a_task_judged_by_another_metric_is_not_compared(write_pair):
    found = write_pair(None, lambda run: run.environment["tasks"]["digits"].update(metric="F1"))
    assert found.accuracies.empty
    assert "digits is judged by accuracy in A and by F1 in B: it is not compared." in found.notes
    assert len(found.speedups) == 14


def test_the_tables_have_the_numbers_and_dense_models_no_ratio(write_pair):
    found = write_pair(None, faster)
    speedups, accuracies, dense, environments = summaries(found)
    first = [cell.text for cell in speedups.rows[0]]
    assert first == ["digits, 50 % kept, magnitude and taylor, batch 2", "2.00×", "3.00×", "1.500", "yes", "same heads"]
    assert accuracies.columns[3:5] == ("accuracy, A", "accuracy, B")
    assert dense.columns == ("what", "A (ms)", "B (ms)")
    assert "There is no ratio" in dense.note
    assert [cells[0].text for cells in environments.rows] == ["revision", "package torch", "code"]


def test_long_tables_are_cut_and_say_how_much(write_pair):
    def many(run):
        for batch in range(10, 10 + MOST_ROWS):
            run.case("digits", "taylor", 0.5, batch, paired(0.01, 2.0, rounds=2))

    speedups = next(summaries(write_pair(many, many)))
    assert len(speedups.rows) == MOST_ROWS
    assert speedups.note.endswith("14 rows more are in the data.")


def test_a_comparison_can_be_sent_to_another_process(write_pair):
    found = write_pair(None, faster)
    assert findings(ForkingPickler.loads(ForkingPickler.dumps(found))) == findings(found)


def test_findings_name_both_sides_with_intervals(write_pair):
    assert findings(write_pair(None, faster)) == (
        "Of 14 speedups in common 1 differs beyond its 95 % interval (less than 1 would by chance, more where a "
        "side has one process); the largest difference: digits, 50 % kept, magnitude and taylor, batch 2: "
        "2.00× (2.00–2.00) in A, 3.00× (3.00–3.00) in B.",
        "Of 5 choices of heads in common 5 keep the very same heads on both sides, and 5 of these have the same value "
        "to the last digit.",
        "The bare layer beside its peers: Of 4 ratios in common 1 differs beyond its 95 % interval (less than 1 would "
        "by chance, more where a side has one process); the largest difference: bare layer, 4 heads, 100 % kept, "
        "batch 3, 16 tokens, beside torch: 0.80× (0.80–0.80) in A, 0.62× (0.62–0.62) in B.",
    )
