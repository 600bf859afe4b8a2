"""Level with the dense model: by an interval within the margin, never by one that is wide."""

import pandas as pd
import pytest

from reports.analyse.level import examples_needed, is_level, is_open, none_level, verdict
from reports.read.run import Metric

ACCURACY = Metric("accuracy", True, 0.1, True)
PERPLEXITY = Metric("perplexity", False, 100.0, False)


def plan(difference: float, low: float, high: float, dense: float = 0.9, examples: float = 200) -> pd.DataFrame:
    return pd.DataFrame([{
        "value": dense + difference, "difference": difference, "difference_low": low, "difference_high": high,
        "examples": examples, "repair": "none",
    }])  # fmt: skip


def states(plans: pd.DataFrame, metric: Metric) -> tuple[bool, bool]:
    return is_level(plans, metric).item(), is_open(plans, metric).item()


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((-0.055, -0.120, 0.005), (False, True)),  # an interval that includes 0 because it is wide
        ((-0.002, -0.009, 0.005), (True, False)),
        ((-0.004, -0.007, -0.001), (True, False)),  # surely some loss, and surely below the margin
        ((0.03, 0.01, 0.05), (True, False)),
        ((0.03, -0.02, 0.08), (False, True)),
        ((-0.055, -0.060, -0.050), (False, False)),
        ((-0.02, -0.03, -0.0101), (False, False)),
        ((-0.01, -0.01, -0.01), (False, False)),
        ((-0.005, float("nan"), float("nan")), (False, False)),
    ],
)
def test_of_a_share_the_interval_stays_within_a_point(numbers, expected):
    assert states(plan(*numbers), ACCURACY) == expected


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.1, -0.1, 0.19), (True, False)),  # of 20: 0.2 is the margin
        ((0.1, -0.1, 0.21), (False, True)),
        ((0.5, 0.3, 0.7), (False, False)),
        ((-1.0, -2.0, -0.1), (True, False)),
    ],
)
def test_of_another_metric_it_stays_within_a_share_of_the_dense_models(numbers, expected):
    assert states(plan(*numbers, dense=20.0), PERPLEXITY) == expected


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((-0.055, -0.1175, 0.0075), 200 * 6.25**2),  # ± 6.25 points to ± 1
        ((0.0, -0.02, 0.02), 200 * 2**2),
        ((0.02, -0.02, 0.06), 200 * 4**2),
        ((-0.005, -0.015, 0.005), 200 * 2**2),  # half a point from the margin, so ± 0.5
    ],
)
def test_how_many_examples_it_takes(numbers, expected):
    assert examples_needed(plan(*numbers), ACCURACY).item() == pytest.approx(expected)
    bad = [-1 * number for number in (numbers[0], numbers[2], numbers[1])]
    scaled = plan(*(2000 * number for number in bad), dense=2000.0)
    assert examples_needed(scaled, PERPLEXITY).item() == pytest.approx(expected)


def test_what_is_said_of_one_plan():
    def said(*numbers, metric=ACCURACY, **more):
        return verdict(plan(*numbers, **more).iloc[0], metric)

    assert said(-0.055, -0.120, 0.005) == (
        " Whether its accuracy is level with the dense model's, within 1 point, is open: 200 examples are "
        "too few to tell, about 7,900 would."
    )
    assert said(-0.001, -0.004, 0.002) == " Its accuracy is level with the dense model's, within 1 point."
    assert said(0.1, -0.1, 0.19, metric=PERPLEXITY, dense=20.0) == (
        " Its perplexity is level with the dense model's, within 1 %."
    )
    assert said(-0.055, -0.060, -0.050) == ""
    why = "the loss may be the margin itself"
    unknown = f" Whether its accuracy is level with the dense model's, within 1 point, is open: {why}."
    assert said(-0.0101, -0.012, -0.008) == unknown
    assert said(-0.055, -0.120, 0.005, examples=float("nan")) == unknown.replace(
        why, "too few examples were judged to tell"
    )


def test_what_is_said_of_several_of_which_none_is_level():
    lossy, wide, wider = plan(-0.3, -0.31, -0.29), plan(0.0, -0.02, 0.02), plan(0.0, -0.09, 0.09)
    plain = "no pruned plan, none of them repaired, is shown to be level with the dense model, within 1 point"
    assert none_level(lossy, ACCURACY) == plain
    assert none_level(pd.concat([lossy, wider, wide], ignore_index=True), ACCURACY) == (
        f"{plain} (2 plans may be: 200 examples are too few to tell, about 800 would)"
    )
    repaired = pd.concat([lossy, lossy.assign(repair="compensate")], ignore_index=True)
    assert none_level(repaired, ACCURACY) == plain.replace(", none of them repaired,", "")
