"""Tables from records whose truth can be counted on the fingers."""

import numpy as np
import pytest
import torch

from bench.importance import tables
from bench.importance.curves import area_frame, curve_frame, curves, over_seeds
from bench.importance.findings import SENSITIVE, UNNOTICED, finding_frame
from bench.importance.records import pack, unpack
from bench.importance.results import BEST, Results, mask_of
from bench.importance.subjects import LIKELIHOOD
from bench.importance.summary import fronts, left, trust

# Three heads; the loss of each subset. Bit 0 is head 0. Head 2 hurts; 0 and 1 are worth 3 and 1.
LOSSES = [4.0, 1.0, 3.0, 0.0, 4.5, 1.5, 3.5, 0.5]
VALUES = [0.0, 0.75, 0.25, 1.0, 0.0, 0.75, 0.25, 1.0]  # the same for each of four examples, but in quarters
RANKS = {"good": [2, 1, 0], "bad": [0, 1, 2]}  # position of each head, the first one kept first is the largest


def values(share, examples=4):
    """The first examples are right, the others wrong."""
    return (torch.arange(examples) < round(share * examples)).float()


def plans(scores):
    ranked = sorted(range(len(scores)), key=lambda head: -scores[head])
    return {str(kept): sorted(ranked[:kept]) for kept in range(len(scores) + 1)}


def record(subject, seed, what, detail="", **found):
    return {"subject": subject, "seed": seed, "what": what, "detail": detail, "status": "ok", **found}


def truth(subject, section, seed, planted=(), **more):
    ends = {"0": {"loss": 4.0, "values": pack(values(0.0))}, "3": {"loss": 0.5, "values": pack(values(1.0))}}
    halves = [{"scores": [3.0, 1.0, -0.4], "examples": 3}, {"scores": [3.0, 1.0, -0.8], "examples": 1}]
    return record(
        subject, seed, "truth", metric="accuracy", about="", section=section, heads=[["a", 0], ["a", 1], ["b", 0]],
        planted=list(planted), examples=4, calibration=8, passes=2, halves=halves, ends=ends, kind_heads={}, kinds={},
        **more,
    )  # fmt: skip


def model(subject, section, seed, planted=()):
    """The records of one seed, with two criteria: one right about everything, one about nothing."""
    found = [truth(subject, section, seed, planted)]
    for part in range(2):
        some = slice(4 * part, 4 * part + 4)
        packed = pack(torch.stack([values(value) for value in VALUES[some]]))
        found.append(record(subject, seed, "subsets", str(part), losses=LOSSES[some], values=packed))
    for label, scores in RANKS.items():
        spent = [4, 2, 0.5] if label == "good" else [0, 0, 0.1]
        found.append(
            record(subject, seed, "scores", label, scores=[float(x) for x in scores], plans=plans(scores), spent=spent)
        )
    draws = [{"scores": [0.0, 1.0, 2.0], "plans": plans([0.0, 1.0, 2.0])}]
    found.append(record(subject, seed, "resamples", "good", draws=draws))
    sizes = {"4": [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]}
    found.append(record(subject, seed, "stability", "good", sizes=sizes))
    return found


@pytest.fixture
def results():
    records = [*model("small", "exhaustive", 0), *model("small", "exhaustive", 1)]
    records += model("planted_x", "planted", 0, planted=[2])
    return Results({str(number): one for number, one in enumerate(records)})


def test_numbers_come_out_as_they_went_in():
    array = torch.tensor([[0.25, 1.0, 0.0]])
    assert unpack(pack(array)).tolist() == array.tolist()


def test_a_subset_is_numbered_by_its_heads():
    assert [mask_of([]), mask_of([0]), mask_of([1, 2])] == [0, 1, 6]


def test_where_a_subset_stands_among_those_of_its_size(results):
    frame = tables.exhaustive(results).query("task == 'small' and seed == 0 and draw == 0")
    frame = frame.set_index(["criterion", "heads_kept"]).sort_index()
    assert frame.loc[("good", 1), ["loss", "regret", "rank", "of", "overlap"]].tolist() == [1.0, 0.0, 1, 3, 1.0]
    assert frame.loc[("bad", 1), ["loss", "regret", "rank", "overlap"]].tolist() == [4.5, 3.5, 3, 0.0]
    assert frame.loc[("bad", 2), ["loss", "regret", "rank", "overlap"]].tolist() == [3.5, 3.5, 3, 0.5]
    assert frame.loc[("bad", 1), "regret_value"] == 0.75
    assert frame.loc[("random", 1), "loss"] == pytest.approx((1.0 + 3.0 + 4.5) / 3)
    assert frame.loc[("random", 2), "regret"] == pytest.approx((0.0 + 1.5 + 3.5) / 3)
    assert (frame.loc[BEST, "regret"] == 0).all()


def test_a_calibration_sample_that_misleads_has_a_row_of_its_own(results):
    frame = tables.exhaustive(results).query("task == 'small' and seed == 0 and criterion == 'good' and draw == 1")
    assert frame["regret"].tolist() == [0.0, 3.5, 3.5, 0.0]


def test_planted_heads_are_kept_as_often_as_by_a_best_subset(results):
    frame = tables.planted(results).set_index("criterion")
    assert frame["right"].to_dict() == pytest.approx({"good": 1.0, "bad": 0.0, "random": (2 / 3 + 1 / 3) / 2})
    assert frame["regret"].to_dict() == pytest.approx({"good": 0.0, "bad": 3.5, "random": (5.5 / 3 + 5.0 / 3) / 2})


def test_tied_subsets_are_all_best(results):
    table = results.subsets("small", 0)
    table.losses[:] = [4.0, 1.0, 1.0, 0.0, 1.000001, 1.5, 3.5, 0.5]
    assert tables.planted_in_best(table, table.of_size(1), 0b100) == {0, 1}
    assert tables.planted_in_best(table, table.of_size(2), 0b100) == {0}


def test_agreement_with_the_truth_and_of_the_truth_with_itself(results):
    frame = tables.agreement(results).query("task == 'small' and seed == 0").set_index(["criterion", "other"])
    assert frame.loc[("good", "held out"), ["spearman", "kendall"]].tolist() == pytest.approx([1.0, 1.0])
    assert frame.loc[("bad", "held out"), ["spearman", "kendall"]].tolist() == pytest.approx([-1.0, -1.0])
    assert frame.loc[("held out", "held out"), "spearman"] == pytest.approx(1.0)
    # of three heads one is gone at 25 %, two at 75 %
    assert frame.loc[("good", "bad"), ["overlap_0.25", "overlap_0.75"]].tolist() == [0.0, 0.5]
    assert frame.loc[("good", "held out"), "overlap_0.25"] == 1.0


def test_the_truth_weighs_its_halves_by_their_examples(results):
    assert results.increases("small", 0).tolist() == pytest.approx([3.0, 1.0, -0.5])


def test_correlations_of_constants_are_not_a_number():
    assert np.isnan(tables.correlations(np.ones(3), np.arange(3.0))).all()
    spearman, kendall = tables.correlations(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 3.0]))
    assert (spearman, kendall) == (pytest.approx(0.8), pytest.approx(4 / 6))


def test_a_truth_without_any_scores_yet_agrees_with_itself():
    frame = tables.agreement(Results({"a": truth("dates", "held_out", 0)})).iloc[0]
    assert frame[["criterion", "other", "spearman"]].tolist() == ["held out", "held out", pytest.approx(1.0)]
    assert np.isnan(frame["overlap_0.5"])


def test_leave_one_out_of_the_truths_halves_is_as_near_to_it_as_they_are_to_one_another():
    whole = truth("sentences", "held_out", 0)
    whole["halves"] = [{"scores": [3.0, 1.0, 2.0], "examples": 2}, {"scores": [1.0, 2.0, 3.0], "examples": 2}]
    packed = {"loss": 1.0, "values": pack(values(0.5))}
    whole["crossed"] = {
        "scores": [2.0, 1.5, 2.5], "spent": [6.0, 0.0, 9.0], "plans": plans([3.0, 1.0, 2.0]),
        "curve": {"1": packed, "2": packed},
    }  # fmt: skip
    curve = {"1": packed, "2": packed}
    bad = record("sentences", 0, "scores", "bad", scores=RANKS["bad"], plans=plans([0, 1, 2]), spent=None, curve=curve)
    found = Results({"a": whole, "b": bad})
    assert found.labels("sentences") == ("bad", "leave_one_out")
    frame = tables.agreement(found).set_index(["criterion", "other"])["spearman"]
    assert frame["leave_one_out", "held out"] == frame["held out", "held out"] == pytest.approx(-0.5)
    assert frame["leave_one_out", "leave_one_out"] == pytest.approx(1.0)
    assert frame["bad", "held out"] == pytest.approx(0.5)  # both halves' mean is 2, 1.5, 2.5
    assert tables.cost(found).set_index("criterion").loc["leave_one_out", "readings"] == 3.0
    drawn = curve_frame(found, curves(found)).query("criterion == 'leave_one_out'")
    assert drawn["value"].tolist() == [0.0, 0.5, 0.5, 1.0]


def test_agreement_within_layers_is_the_mean_over_layers_of_several_heads(results):
    layers = np.array(["a", "a", "a", "b", "b", "c"])
    first = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 5.0])
    assert tables.within_layers(first, first * np.array([1, 1, 1, -1, -1, 1]), layers) == pytest.approx(0.0)
    assert tables.within_layers(first, first[::-1], layers) == pytest.approx((0.5 - 1.0) / 2)
    assert np.isnan(tables.within_layers(first[3:], first[3:], np.array(["a", "b", "c"])))
    frame = tables.agreement(results).query("task == 'small' and seed == 0").set_index(["criterion", "other"])
    assert frame.loc[("bad", "held out"), "within"] == pytest.approx(-1.0)  # heads 0 and 1 are of one layer


def test_curves_and_the_area_beneath_them(results):
    drawn = curves(results)
    frame = curve_frame(results, drawn).set_index(["criterion", "heads_kept"])
    assert frame.loc["good", "value"].tolist() == [0.0, 0.75, 1.0, 1.0]
    assert frame.loc["bad", "value"].tolist() == [0.0, 0.0, 0.25, 1.0]
    assert frame.loc["random", "value"].tolist() == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
    assert frame.loc[("bad", 2), "difference"] == -0.75
    assert frame.loc[("random", 1), ["draws_low", "draws_high"]].tolist() == pytest.approx([0.0, 0.75])
    low, high = frame.loc[("good", 1), ["low", "high"]]
    assert 0 < low < 0.75 < high <= 1.0
    assert frame.loc[("good", 3), ["low", "high"]].tolist() == [1.0, 1.0]

    areas = area_frame(results, drawn).query("task == 'small'").set_index("criterion")
    assert areas.loc["good", "area"] == pytest.approx((0.375 + 0.875 + 1.0) / 3)
    assert areas.loc["bad", "area"] == pytest.approx((0.0 + 0.125 + 0.625) / 3)
    assert areas.loc["random", "area"] == pytest.approx(0.5)
    assert areas.loc["good", "share"] == pytest.approx((0.75 - 0.5) / (1.0 - 0.5))
    assert areas.loc[["random", "dense"], "share"].tolist() == [0.0, 1.0]
    # the misleading calibration sample makes of "good" what "bad" is
    assert areas.loc["good", ["calibration_low", "calibration_high"]].tolist() == pytest.approx([0.25, 0.75])
    assert np.isnan(areas.loc["bad", "calibration_low"])


def test_the_interval_over_seeds_is_students():
    low, high = over_seeds(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == (pytest.approx(2 - 4.302653 / 3**0.5), pytest.approx(2 + 4.302653 / 3**0.5))
    assert np.isnan(over_seeds(np.array([1.0]))).all()


def test_stability_is_told_against_all_examples_and_between_parts(results):
    frame = tables.stability(results).query("task == 'small' and seed == 0")
    assert frame["spearman"].tolist() == pytest.approx([1.0, -1.0])
    assert frame["between"].tolist() == pytest.approx([-1.0, -1.0])


def test_a_backward_pass_costs_two_readings(results):
    frame = tables.cost(results).set_index("criterion")
    assert frame.loc["good", ["forward", "backward", "readings", "seconds"]].tolist() == [4, 2, 4.0, 0.5]


def test_heads_go_unnoticed_until_the_first_loss_beyond_its_interval(results):
    frame = finding_frame(results, curves(results)).query(f"finding == '{UNNOTICED}'").set_index("criterion")
    assert frame.loc["good", "kept_fraction"] == pytest.approx(1 / 3)  # a loss of one example in four is not beyond it
    assert frame.loc["good", ["value", "holds"]].tolist() == [0.25, True]
    assert frame.loc["bad", "kept_fraction"] == 1.0
    assert not frame.loc["bad", "holds"]


def test_the_most_sensitive_kind_is_told_by_paired_differences():
    kinds = {
        kind: {"1": {"loss": 0.0, "values": pack(values(share, 40))}}
        for kind, share in (("cross", 0.25), ("encoder", 0.75), ("decoder", 0.25))
    }
    dense = {"3": {"loss": 0.0, "values": pack(values(1.0, 40))}}
    whole = truth("dates", "held_out", 0) | {"ends": dense, "kind_heads": dict.fromkeys(kinds, 2)}
    scored = record("dates", 0, "scores", "good", scores=[0.0, 1.0, 2.0], plans={}, spent=None, kinds=kinds)
    frame = finding_frame(Results({"a": whole, "b": scored}), [])
    frame = frame[frame["finding"] == SENSITIVE].set_index("what")
    assert (frame["kept_fraction"] == 0.5).all()
    assert frame.loc["loss without cross", "value"] == 0.75
    assert frame.loc["cross more than encoder", ["value", "holds"]].tolist() == [0.5, "yes"]
    assert frame.loc["cross more than decoder", ["value", "holds"]].tolist() == [0.0, "undecided"]
    assert frame.loc["cross more than encoder", "low"] > 0


def test_the_summary_puts_the_best_on_top_and_names_what_no_cheaper_one_beats(results):
    drawn = curves(results)
    frames = {
        "areas": area_frame(results, drawn), "agreement": tables.agreement(results), "cost": tables.cost(results),
        "planted": tables.planted(results), "stability": tables.stability(results),
    }  # fmt: skip
    lines = trust(frames).splitlines()
    assert lines[0].startswith("| criterion | price | seconds | share | share, small | ρ, small | planted |")
    assert lines[2].startswith("| **good** | 4 | 0.5 | 0.50 [")
    assert "| 1.00 | 1.00 |" in lines[2]
    assert lines[3].startswith("| bad | 0 | 0.1 | -0.50 [")
    assert "`good` (share 0.50 at 4 readings)" in fronts(frames)


def test_what_is_left_is_told_for_each_task_with_its_price(results):
    drawn = curves(results)
    frames = {
        "areas": area_frame(results, drawn), "agreement": tables.agreement(results), "cost": tables.cost(results),
        "curves": curve_frame(results, drawn).assign(kept_fraction=lambda frame: frame["heads_kept"].map(KEPT)),
    }  # fmt: skip
    lines = left(frames).splitlines()
    assert lines[0] == (
        "On `small`: what is left of the accuracy, 1.000 with all heads. Leave-one-out on one half of the held-out "
        "data agrees with that on the other to ρ = 1.00."
    )
    assert lines[2] == "| criterion | price | seconds | ρ | ρ within layers | 50% kept | 25% kept |"
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| good", "| best subset", "| random", "| bad"]
    assert lines[4].startswith("| good | 4 | 0.5 | 1.00 | 1.00 | 1.000, +0.000 [+0.000, +0.000] | 0.750, -0.250 [")
    assert lines[-1].startswith("| bad | 0 | 0.1 | -1.00 | -1.00 | 0.250, -0.750 [")

    frames["curves"]["metric"] = LIKELIHOOD
    lines = left(frames).splitlines()
    assert lines[0].startswith("On `small`: what is left of the perplexity, 0.3679 with all heads.")  # exp(-1)
    assert "| 0.7788, ×2.12 [" in lines[-1]  # exp(-0.25), and that over exp(-1)


KEPT = {0: 0.0, 1: 0.25, 2: 0.5, 3: 1.0}  # as if the model had more heads


def test_a_run_with_nothing_done_yet_has_tables_without_rows(tmp_path):
    tables.write_tables(tmp_path, {})
    assert (tmp_path / "planted.csv").read_text() == "task,seed,criterion,right,regret\n"
    assert len(list(tmp_path.glob("*.csv"))) == 9
