"""What bounds a point, by arithmetic by hand."""

import numpy as np
import pandas as pd
import pytest

from reports.analyse import bounds
from reports.read.load import load
from reports.read.run import LAYER
from tests.reports.synthetic import COPY, DENSE_SECONDS, MATMUL, counted, paired

DENSE = 2 * DENSE_SECONDS * 2  # at batch 2, the median of a drift from 1 to 3


@pytest.fixture(scope="module")
def run(full_run):
    return load(full_run)


def frame(**columns):
    one = {"seconds": 1.0, "flops": 0.0, "bytes": 0.0, "matmul": 100.0, "copy": 10.0, "cached copy": np.nan}
    return pd.DataFrame([one | columns])


@pytest.mark.parametrize(
    ("columns", "bound", "share"),
    [
        ({"flops": 80.0, "bytes": 3.0}, "compute", 0.8),
        ({"flops": 20.0, "bytes": 7.0}, "memory", 0.7),
        ({"flops": 49.0, "bytes": 4.9}, "overhead", 0.49),
        ({"flops": 50.0, "bytes": 1.0}, "compute", 0.5),
        ({"flops": 20.0, "bytes": 14.0}, "memory", 1.4),
        ({"flops": 20.0, "bytes": 14.0, "cached copy": 20.0}, "memory", 0.7),
        ({"flops": 20.0, "bytes": 14.0, "cached copy": 140.0}, "overhead", 0.2),
        ({"flops": 20.0, "bytes": 14.0, "cached copy": 5.0}, "memory", 1.4),
        ({"flops": 20.0, "bytes": 9.0, "cached copy": 140.0}, "memory", 0.9),
    ],
)
def test_a_point_is_bound_by_its_longer_ceiling_or_by_neither(columns, bound, share):
    (row,) = bounds.judged(frame(**columns)).to_dict("records")
    assert row["bound"] == bound
    assert row["share"] == pytest.approx(share)
    assert row["achieved"] == columns["flops"]
    assert row["intensity"] == pytest.approx(columns["flops"] / columns["bytes"])


def test_points_stand_under_the_median_ceilings_of_their_machine(run):
    points = bounds.points(run, "digits").set_index(["case", "arm"])
    assert points[["matmul", "copy"]].drop_duplicates().values.tolist() == [[MATMUL, COPY]]
    for kept, arm, bound, share in (
        (0.5, "dense", "compute", 0.8), (0.5, "pruned", "memory", 0.75), (0.25, "pruned", "overhead", 0.1)
    ):  # fmt: skip
        point = points.loc[f"digits-taylor-keep{kept}-b2-cpu", arm]
        assert point["bound"] == bound
        assert point["share"] == pytest.approx(share)
    assert points.loc["digits-taylor-keep0.5-b2-cpu", "dense"]["seconds"] == pytest.approx(DENSE)
    assert len(points) == 4  # at batch 1 and by chance nothing was counted


def test_of_the_layer_ours_stands_under_the_ceilings_not_its_peers(write_run):
    def change(run):
        counts = counted((0.001, 0.001), (0.001, 0.001), arms=("torch", "mha"))
        run.layer_case(4, 3, 16, 1.0, paired(0.002, 1.25, arms=("torch", "mha")), counts=counts)

    assert bounds.points(load(write_run(change=change)), LAYER)["arm"].tolist() == ["mha"]


def test_nothing_stands_under_ceilings_of_another_dtype(write_run):
    run = load(write_run(change=lambda run: run.tables["ceilings.csv"][1].clear()))
    assert bounds.points(run, "digits").empty
    (_, found), = bounds.speedups(run, "digits")  # fmt: skip
    assert set(found["pruned_bound"]) == {"unknown"}
    assert found["pruned_share"].isna().all()


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (["unknown"], ""),
        (["memory"], "the point is memory-bound"),
        (["memory"] * 2, "all 2 points are memory-bound"),
        (["memory", "unknown"], "of 2 points 1 is memory-bound"),
        (["memory", "compute", "memory"], "of 3 points 1 is compute-bound and 2 are memory-bound"),
    ],
)
def test_bounds_in_words(found, sentence):
    assert bounds.clause(pd.Series(found), "point") == sentence


def test_amdahl():
    kept = pd.Series([1.0, 0.5, 0.0])
    assert bounds.amdahl(pd.Series([0.6] * 3), kept).tolist() == pytest.approx([1.0, 1 / 0.7, 1 / 0.4])


def test_speedups_stand_beside_the_bound_of_attentions_share(run):
    ((setting, found),) = bounds.speedups(run, "digits")
    assert setting.text == "cpu, float32, 7 tokens"
    attention = found.groupby("batch")["attention"].first()
    assert attention.to_dict() == pytest.approx({1: 1 - 1 / 1.25, 2: 1 - 1 / 8})
    quarter = found[(found["batch"] == 2) & (found["kept"] == 0.25)].iloc[0]
    assert quarter["amdahl"] == pytest.approx(1 / (1 - 7 / 8 * 3 / 4))
    assert (quarter["ideal"], quarter["speedup"]) == pytest.approx((4.0, 4.0))
    assert (quarter["dense_bound"], quarter["pruned_bound"]) == ("compute", "overhead")
    assert not (found["heads_kept"] == 0).any()


def test_without_a_model_without_heads_there_is_no_bound(write_run):
    def change(run):
        for file in (run.path / "cases").glob("digits-none-*"):
            file.unlink()

    assert list(bounds.speedups(load(write_run(change=change)), "digits")) == []
