"""A table of costs as a value: its predictions by arithmetic, its file, and what it refuses."""

import json
import math

import pytest

import mha
from mha.costs import CostTable, LayerCosts, Shape, ShapeCost, WholeModel, feasible_shapes
from mha.values.errors import CostsError


def layer(heads, groups, factor):
    """Costs that any mix-up of heads and groups changes."""
    whole = Shape(len(heads), groups)
    costs = {
        shape: ShapeCost(
            factor * (7 * shape.heads + 3 * shape.groups), 11 * shape.heads, 13 * shape.heads + shape.groups
        )
        for shape in feasible_shapes(whole)
    }
    costs[whole] = costs[whole]._replace(low=0.25, high=31.5)
    return LayerCosts(heads, groups, costs)


@pytest.fixture
def table():
    layers = {"plain": layer((0, 2, 5), 3, 1.0), "grouped": layer((0, 1, 2, 3, 4, 5), 2, 0.5)}
    dense = ShapeCost(100.0, 1000, 2000, 97.0, 103.0)
    seconds = 7 * 3 + 3 * 3 + 0.5 * (7 * 6 + 3 * 2)
    return CostTable(
        layers, dense, 100.0 - seconds, 1.25, (WholeModel((1, 3), 0.5, 0.4, 0.6, 0.55),), {"threads": 2}, "time spent"
    )


def test_predictions_are_the_rest_and_the_sum_over_layers(table):
    plan = mha.HeadPlan({"plain": (0, 5), "grouped": (0, 1)})
    assert table.latency(plan) == pytest.approx((46.0 + 2 * 7 + 2 * 3 + 0.5 * (2 * 7 + 3), 0.745))
    assert table.flops(plan) == (1000 - 11 * 1 - 11 * 4, 0.945)
    assert table.parameters(plan) == (2000 - 13 - 1 - 13 * 4 - 1, 0.9665)


def test_as_many_heads_in_more_groups_cost_more(table):
    one, two = (table.latency(mha.HeadPlan({"grouped": heads})) for heads in ((0, 1), (0, 3)))
    assert two.value - one.value == 1.5


def test_a_layer_that_is_not_named_stays_whole(table):
    assert table.latency(mha.HeadPlan({"plain": (0, 2, 5)})) == (100.0, 1.0)
    assert table.latency(mha.HeadPlan({"plain": ()})) == (70.0, 0.7)


def test_a_plan_that_names_nothing_is_the_dense_model(table):
    slower = CostTable(table.layers, table.dense, table.rest + 5.0)
    assert slower.latency(mha.HeadPlan({})) == (100.0, 1.0)
    assert slower.latency(mha.HeadPlan({"plain": (0, 2, 5)})) == (105.0, 1.05)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"x": (0,)}, r"layers without measured costs: \['x'\]; the table has \['plain', 'grouped'\]"),
        ({"plain": (0, 1)}, r"layer 'plain': the costs are of heads \[0, 2, 5\], and the plan keeps \[1\]"),
        ({"grouped": (0, 1, 3)}, r"layer 'grouped': every key/value group that stays must keep the same number"),
    ],
)
def test_plans_that_do_not_belong(table, keep, message):
    with pytest.raises(mha.MhaError, match=message):
        table.latency(mha.HeadPlan(keep))


def test_the_file_gives_it_back(table, tmp_path):
    table.to_json(tmp_path / "costs.json")
    again = CostTable.from_json(tmp_path / "costs.json")
    assert again == table
    assert again != CostTable(table.layers, table.dense, table.rest + 1.0)
    assert again.latency(mha.HeadPlan({"grouped": (2, 5)})) == table.latency(mha.HeadPlan({"grouped": (2, 5)}))
    assert [path.name for path in tmp_path.iterdir()] == ["costs.json"]


def test_a_table_that_can_not_be_written_leaves_the_old_file(table, tmp_path):
    table.to_json(tmp_path / "costs.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        CostTable(table.layers, table.dense, math.nan).to_json(tmp_path / "costs.json")
    assert CostTable.from_json(tmp_path / "costs.json") == table
    assert [path.name for path in tmp_path.iterdir()] == ["costs.json"]


def without(key):
    return lambda document: document.pop(key)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda document: document.update(format="other"), r'expected a JSON object with "format": "mha.CostTable"'),
        (
            lambda document: document.update(version=2),
            r"a table of costs in version 2 of its format; this release",
        ),
        (without("rest"), r"damaged table of costs \('rest' is missing\); measure again"),
        (
            lambda document: document["layers"]["plain"]["costs"].pop(),
            r"damaged .*layer 'plain': costs that are missing, .*: \[Shape\(heads=3, groups=3\)\]",
        ),
        (lambda document: document.update(layers=[]), r"damaged table of costs"),
    ],
)
def test_damaged_files(table, tmp_path, damage, message):
    path = tmp_path / "costs.json"
    table.to_json(path)
    document = json.loads(path.read_text())
    damage(document)
    path.write_text(json.dumps(document))
    with pytest.raises(CostsError, match=message):
        CostTable.from_json(path)


@pytest.mark.parametrize("text", ["", '{"format": "mha.Cos', "[1, 2]", "\x00"])
def test_foreign_files(tmp_path, text):
    (tmp_path / "costs.json").write_text(text)
    with pytest.raises(CostsError, match=r"costs.json: not a table of costs"):
        CostTable.from_json(tmp_path / "costs.json")


def test_the_frame(table):
    frame = table.to_frame()
    assert list(frame.columns) == ["layer", "heads", "groups", "seconds", "flops", "parameters", "low", "high"]
    assert len(frame) == 4 + 7
    row = frame.set_index(["layer", "heads", "groups"]).loc[("grouped", 4, 2)]
    assert row[["seconds", "flops", "parameters"]].tolist() == [17.0, 44, 54]
    assert frame["low"].notna().sum() == 2


def test_a_table_prints_in_a_few_lines(table):
    assert repr(table).splitlines() == [
        "CostTable: dense 1e+05 ms, 1e+03 FLOPs, 2,000 parameters; beside attention 4.6e+04 ms (time spent)",
        "  'plain': 3 heads: 3e+04 ms, without any 0 ms",
        "  'grouped': 6 heads in 2 groups: 2.4e+04 ms, without any 0 ms",
    ]
    many = CostTable({str(name): table.layers["plain"] for name in range(97)}, table.dense, 0.001)
    assert len(repr(many).splitlines()) == 10
    assert "… 89 more layers …" in repr(many)


def test_of_what_costs_nothing_nothing_is_saved():
    free = CostTable(
        {"plain": LayerCosts((0, 1), 2, {shape: ShapeCost(1.0, 0, 0) for shape in feasible_shapes(Shape(2, 2))})},
        ShapeCost(3.0, 0, 0),
        2.0,
    )
    assert free.flops(mha.HeadPlan({"plain": (0,)})) == (0, 1.0)
