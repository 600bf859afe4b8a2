"""From a ladder to a certificate: which model comes back, what it says, and what is refused.

The judge of these tests knows how many heads a model has, and which of its made-up examples each number gets wrong.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import mha
from mha import CertificateError, PlanError
from mha.certifying.evidence import Comparison
from mha.certifying.judge import Metric
from mha.costs import CostTable, LayerCosts, Shape, ShapeCost

HEADS = 12  # two layers of six
WRONG = {12: 5, 10: 6, 8: 9, 6: 40, 4: 9, 0: 300}  # heads -> how many of the examples are wrong, the first ones


def build():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.ModuleList(mha.MultiHeadAttention.square(6, 6, head_dim=1) for _ in range(2)).eval()


def heads_of(model):
    return sum(layer.num_heads for layer in mha.find_attention(model).values())


def keeping(heads):
    return mha.HeadPlan({"0": range(heads // 2), "1": range(heads - heads // 2)})


class Counting:
    """A judge whose examples are wrong by the number of heads."""

    metric, higher_is_better = "accuracy", True

    def __init__(self, examples=1000, wrong=WRONG):
        self.examples, self.wrong, self.asked = examples, wrong, []

    def evaluate(self, model):
        self.asked.append(heads_of(model))
        return np.arange(self.examples) >= self.wrong[self.asked[-1]]


@pytest.fixture
def model():
    return build()


def test_the_smallest_before_the_first_that_fails_is_returned(model):
    judge = Counting()
    certificate = mha.certify(model, [keeping(heads) for heads in (4, 10, 6, 8)], judge)
    assert judge.asked == [12, 10, 8, 6]  # dense first, then mild to bold; 4 is never run
    assert [row.heads for row in certificate.rows] == [10, 8, 6]
    assert [row.shown for row in certificate.rows] == [True, True, False]
    assert heads_of(certificate.model) == 8
    assert certificate.plan == keeping(8)
    assert not certificate.is_dense
    assert [(row.worse, row.better) for row in certificate.rows] == [(1, 0), (4, 0), (35, 0)]
    assert [row.loss for row in certificate.rows] == pytest.approx([0.001, 0.004, 0.035])


def test_it_prints_as_a_sentence(model):
    certificate = mha.certify(model, [keeping(heads) for heads in (10, 8, 6)], Counting())
    assert str(certificate) == (
        "At 95 % confidence, 4 of 12 heads removed costs at most 1.0 points of accuracy (seen: 0.4 points on 1,000 "
        "examples, 4 flips to the worse, 0 to the better); the next step of the ladder, 6 removed, could not be shown: "
        "upper bound 4.6 points. (exact test of flips, for any number of examples)"
    )


def test_bounds_agree_with_verdicts(model):
    rows = mha.certify(model, [keeping(heads) for heads in (10, 8, 6)], Counting()).rows
    assert all((row.upper <= 0.01) == row.shown == (row.p <= 0.05) for row in rows)
    assert all(row.upper > row.loss for row in rows)
    assert rows[2].upper == pytest.approx(0.0462, abs=5e-4)  # of 35 losses in 1,000, by the score interval


def test_where_nothing_is_shown_the_dense_model_comes_back_and_it_says_so(model):
    certificate = mha.certify(model, [keeping(6), keeping(0)], Counting())
    assert certificate.model is model
    assert certificate.is_dense
    assert certificate.plan == mha.HeadPlan({"0": range(6), "1": range(6)})
    assert str(certificate).startswith(
        "At 95 % confidence, no step of the ladder was shown to cost at most 1.0 points of accuracy, and the dense "
        "model is returned; the first step, 6 of 12 heads removed, has the upper bound 4.6 points (seen: 3.5 points"
    )


def test_holm_finds_what_lies_beyond_a_bad_step(model):
    certificate = mha.certify(model, [keeping(heads) for heads in (10, 8, 6, 4)], Counting(2000), testing="holm")
    assert [row.shown for row in certificate.rows] == [True, True, False, True]
    assert heads_of(certificate.model) == 4
    assert "3 of 4 candidates were shown, by Holm's procedure" in str(certificate)
    assert all((row.upper <= 0.01) == row.shown for row in certificate.rows)


def test_candidates_may_be_models_and_functions_that_are_called_when_their_turn_comes(model):
    called = []

    def making(heads):
        def make():
            called.append(heads)
            return mha.prune(model, keeping(heads)) if heads == 8 else keeping(heads)

        return make

    own = mha.prune(model, keeping(10))
    certificate = mha.certify(model, [own, making(8), making(6), making(4)], Counting())
    assert called == [8, 6]
    assert [row.heads for row in certificate.rows] == [10, 8, 6]
    assert mha.certify(model, [own], Counting()).model is own


def test_the_last_step_is_said_to_be_the_last(model):
    assert "; it is the last step of the ladder. (" in str(mha.certify(model, [keeping(10)], Counting()))


def test_with_costs_the_ladder_goes_by_latency(model):
    def layer(seconds):
        costs = {Shape(heads, heads): ShapeCost(seconds * heads, heads, heads) for heads in range(7)}
        return LayerCosts(heads=tuple(range(6)), groups=6, costs=costs)

    table = CostTable({"0": layer(1e-3), "1": layer(1e-6)}, ShapeCost(6.006e-3, 12, 12), rest=0.0)
    plans = [mha.HeadPlan({"0": range(2)}), mha.HeadPlan({"1": range(0)})]  # 8 and 6 heads; the former is faster
    judge = Counting(wrong={12: 5, 8: 5, 6: 5})
    assert heads_of(mha.certify(model, plans, judge).model) == 6
    certificate = mha.certify(model, plans, judge, costs=table)
    assert heads_of(certificate.model) == 8
    assert certificate.rows[0].latency > certificate.rows[1].latency == pytest.approx(1 / 3, abs=0.01)


def test_a_share_of_the_dense_metric_is_what_it_says(model):
    rng = np.random.default_rng(0)
    dense = rng.uniform(4, 6, 900)

    class Loss:
        metric, higher_is_better = "loss", False

        def evaluate(self, model):
            return dense * {12: 1.0, 10: 1.02, 8: 1.06}[heads_of(model)]

    certificate = mha.certify(model, [keeping(10), keeping(8)], Loss(), at_most=0.05, relative=True)
    assert [row.loss for row in certificate.rows] == pytest.approx([0.02, 0.06])
    assert [row.upper for row in certificate.rows] == pytest.approx([0.02, 0.06], abs=1e-4)
    assert certificate.test == "asymptotic"
    assert "2 of 12 heads removed costs at most 5.0 % of loss (seen: 2.0 %" in str(certificate)


def test_slices_are_told_the_worst_first_with_intervals_that_hold_them(model):
    slices = {"late": np.arange(500) >= 250, "early": np.arange(500) < 100}
    certificate = mha.certify(model, [keeping(6)], Counting(500), slices=slices)
    early, late = certificate.rows[0].slices
    assert (early.name, early.examples, early.loss) == ("early", 100, pytest.approx(0.35))
    assert 0.2 < early.low < 0.35 < early.high < 0.5
    assert (late.name, late.loss) == ("late", 0.0)
    assert late.low < 0 < late.high < 0.03
    assert list(certificate.slices()["name"]) == ["early", "late"]


def test_the_frame_has_a_row_for_each_that_was_tested(model):
    frame = mha.certify(model, [keeping(10), keeping(6)], Counting()).to_frame()
    assert list(frame["heads"]) == [10, 6]
    assert {"latency", "value", "loss", "upper", "p", "level", "shown", "worse", "better"} <= set(frame.columns)


def test_a_certificate_is_read_as_it_was_written(model, tmp_path):
    slices = {"early": np.arange(1000) < 100}
    certificate = mha.certify(model, [keeping(10), keeping(6)], Counting(), slices=slices)
    certificate.to_json(tmp_path / "certificate.json")
    read = mha.Certificate.from_json(tmp_path / "certificate.json")
    assert read == certificate
    assert read.model is None
    assert str(read) == str(certificate)


def test_bounds_that_are_infinite_are_written_and_read_too(model, tmp_path):
    class Shares(Counting):
        def evaluate(self, model):
            return super().evaluate(model) / 2 + np.linspace(0, 0.1, 1000)

    slices = {"few": np.arange(1000) < 7}
    certificate = mha.certify(model, [keeping(10)], Shares(), slices=slices)
    certificate.to_json(tmp_path / "certificate.json")
    (few,) = mha.Certificate.from_json(tmp_path / "certificate.json").rows[0].slices
    assert (few.low, few.high) == (-np.inf, np.inf)
    assert mha.Certificate.from_json(tmp_path / "certificate.json") == certificate


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"chosen": 0', '"chosen": 7', "chosen: expected the place of one of 2 rows, got 7"),
        ('"test": "exact"', '"test": "magic"', "expected one of exact, betting, asymptotic, got 'magic'"),
        ('"heads": 10', '"heads": -1', "row 0: expected a whole number"),
        ('"at_most"', '"at_least"', "'at_most' is missing"),
    ],
)
def test_a_damaged_certificate_is_refused(model, tmp_path, old, new, message):
    path = tmp_path / "certificate.json"
    mha.certify(model, [keeping(10), keeping(6)], Counting()).to_json(path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CertificateError, match=f"a damaged certificate .*{message}"):
        mha.Certificate.from_json(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.0}, "confidence: expected a share between 0 and 1, such as 0.95, got 1.0"),
        ({"confidence": 0}, "confidence: expected"),
        ({"at_most": 0}, "at_most: expected a loss above 0, got 0; that nothing at all is lost can't be shown"),
        ({"at_most": float("nan")}, "at_most: expected"),
        ({"at_most": 1.0}, "allows everything"),
        ({"testing": "all"}, "testing: expected sequence or holm, got 'all'"),
        ({"test": "t"}, "test: expected exact, betting or asymptotic"),
        ({"test": "exact", "relative": True}, "an absolute at_most"),
        ({"candidates": []}, "there are no candidates"),
        ({"candidates": keeping(4)}, "expected a list of plans"),
        ({"candidates": [3]}, "candidate 0: expected a HeadPlan, a pruned model, or a function"),
        ({"candidates": [lambda: lambda: None]}, "the function made a function"),
        (
            {"slices": {"some": np.ones(3, bool)}},
            r"slice 'some': expected a boolean .* 1000 examples, got bool of shape",
        ),
        ({"slices": {"none": np.zeros(1000, bool)}}, "slice 'none' has no examples"),
        ({"calibration": [torch.ones(2)]}, "the judge is a Counting, whose examples can't be looked at"),
        ({"judge": Counting(100)}, "can't be shown with 100 examples .*it takes at least 299, and more for a model"),
        ({"judge": Counting(600), "testing": "holm", "candidates": [keeping(10)] * 40}, "it takes at least 8"),
    ],
)
def test_what_can_not_be_promised_is_refused(model, options, message):
    arguments = {"candidates": [keeping(10)], "judge": Counting()} | options
    with pytest.raises(CertificateError, match=message):
        mha.certify(model, arguments.pop("candidates"), arguments.pop("judge"), **arguments)


def test_another_number_of_rows_is_refused(model):
    class Shrinking(Counting):
        def evaluate(self, model):
            return super().evaluate(model)[: 1000 if heads_of(model) == 12 else 999]

    with pytest.raises(CertificateError, match=r"with 10 heads: .* shape \(999,\), and \(1000,\) for the dense model"):
        mha.certify(model, [keeping(10)], Shrinking())


def test_values_that_turn_out_to_be_no_answers_need_bounds(model):
    class Shares(Counting):
        def evaluate(self, model):
            return super().evaluate(model) * (1.0 if heads_of(model) == 12 else 0.999)

    with pytest.raises(CertificateError, match="values other than 0 and 1, where the dense model has none; say with"):
        mha.certify(model, [keeping(10)], Shares())
    assert mha.certify(model, [keeping(10)], Shares(), bounds=(0, 1), test="betting").test == "betting"


@pytest.mark.parametrize("change", ["heads", "layers", "made otherwise"])
def test_a_candidate_of_another_model_is_refused(model, change):
    other = copy.deepcopy(model)
    if change == "layers":
        other = nn.ModuleList([*other, other[0]])[1:]
        other.add_module("9", build()[0])
    elif change == "made otherwise":
        other[1] = mha.MultiHeadAttention.square(6, 5, head_dim=1)
    else:
        model = mha.prune(model, keeping(10))
    with pytest.raises(PlanError, match="candidate 0 is not pruned from this model"):
        mha.certify(model, [other], Counting())


def test_a_plan_of_other_layers_is_refused(model):
    with pytest.raises(PlanError, match=r"candidate 0: the model has no layers \['7'\]"):
        mha.certify(model, [mha.HeadPlan({"7": ()})], Counting())


def test_a_judge_that_knows_the_calibration_set_is_refused(model):
    x = torch.randn(400, 5, 6)
    judge = mha.Judge([x], lambda _, batch: torch.ones(len(batch)))
    with pytest.raises(mha.CalibrationError, match="2 of the 400 examples to judge by are in the calibration set too"):
        mha.certify(model, [keeping(10)], judge, calibration=[x[7:9]])
    assert mha.certify(model, [keeping(10)], judge, calibration=[torch.randn(3, 5, 6)]).plan == keeping(10)


def test_the_model_and_random_numbers_stay_as_they_were(model):
    def values(_, batch):
        return (torch.rand(len(batch)) < 2).float()

    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    mha.certify(model.train(), [keeping(10)], mha.Judge([torch.ones(400, 2)], values))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize(("higher_is_better", "relative"), [(True, False), (True, True), (False, False), (False, True)])
def test_no_example_exceeds_what_the_bounds_allow(higher_is_better, relative):
    metric = Metric(lambda _: None, None, higher_is_better, "m", (0.0, 1.0))
    comparison = Comparison(metric, "betting", relative)
    ends = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0])
    evidence = comparison.evidence(*ends)
    excess = evidence.losses - 0.13 * evidence.scale
    assert excess.max() == pytest.approx(evidence.highest(0.13))
