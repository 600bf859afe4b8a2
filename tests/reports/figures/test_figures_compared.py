"""The criteria compared, the layer's map and all attention at a glance: what is drawn is what was planted."""

from io import BytesIO

import numpy as np
import pytest
from scipy.stats import spearmanr

from reports.draw.style import theme
from reports.figures import attention_maps, attention_overview, criteria, layer_map, layer_peers, speedup_map
from reports.read.load import load
from reports.read.run import LAYER, AttentionExample
from tests.reports.synthetic import attention_arrays, paired

ELSEWHERE = criteria.ELSEWHERE


@pytest.fixture(scope="module")
def run(full_run):
    return load(full_run)


def drawn(module, frame):
    with theme():
        return module.draw(frame)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def example(heads: int, kept: list[int], queries: int, keys: int, **changes) -> AttentionExample:
    weights = np.random.default_rng(7).dirichlet(np.full(keys, 0.3), (heads, queries))
    about = {
        "task": "digits", "example": "", "layer": "attention", "plan": "plan", "dense": weights,
        "pruned": weights[kept] * 0.5, "heads": tuple(kept), "queries": tuple(map(str, range(queries))),
        "keys": tuple(map(str, range(keys))),
    }  # fmt: skip
    return AttentionExample(**about | changes)


def test_criteria_stand_beside_random_draws_the_best_on_top(run):
    (panel,) = criteria.panels(run, "digits")
    advantage, seconds = drawn(criteria, panel.frame).axes  # leave_one_out was not scored
    assert [label.get_text() for label in advantage.get_yticklabels()] == ["taylor", "magnitude"]
    marks = [container.lines[0].get_xdata()[0] for container in advantage.containers]
    assert marks == pytest.approx([0.965 - 0.6, 0.87 - 0.6])
    bars = [container.lines[2][0].get_segments()[0][:, 0] for container in advantage.containers]
    assert np.array(bars) == pytest.approx(np.array([[0.355, 0.375], [0.26, 0.28]]))
    (band,) = advantage.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((0.505 - 0.6, 0.19))
    assert [container.lines[0].get_xdata()[0] for container in seconds.containers] == [1.5, 1.5]
    assert criteria.caption(panel.frame) == (
        "With 50 % of the heads taylor is best at 96.5 %, +36.5 points against the mean of random draws (95 % interval "
        "35.5 to 37.5); it is also the cheapest, at 1.50 s; 21 random draws reach "
        "60.0 % on average, 95 % of them 50.5 to 69.5. leave_one_out was not scored, so no ranks are compared with "
        f"it. {ELSEWHERE}"
    )


@pytest.mark.parametrize(
    ("half", "said"),
    [
        (0.008, "; taylor is the cheapest whose interval stays within 1 point of that, at 9.00 s;"),
        (0.01, "; no cheaper one's interval stays within 1 point of that, at 70.0 s;"),  # a wide one shows nothing
    ],
)
def test_ranks_are_compared_with_those_of_leave_one_out(write_run, half, said):
    numbers = np.random.default_rng(11)
    one, other = numbers.normal(size=16), numbers.normal(size=16)
    other = one + other

    def change(run):
        run.scores = [
            ("digits", name, f"blocks.{place // 8}.attention", place % 8, score, cost)
            for name, scores, cost in (("taylor", one, 9.0), ("leave_one_out", other, 70.0), ("magnitude", -one, 0.01))
            for place, score in enumerate(scores)
        ]
        run.plan("digits", "leave_one_out", 0.5, 0.966)
        for plan in run.plans:
            plan["low"] = plan["value"] - half

    (panel,) = criteria.panels(load(write_run(change=change)), "digits")
    table = panel.frame.table.set_index("criterion")
    assert table.index.tolist() == ["leave_one_out", "taylor", "magnitude"]
    expected = spearmanr(one, other).statistic
    row = table.loc["taylor"]
    assert row["spearman"] == pytest.approx(expected)
    assert row["spearman_low"] < expected < row["spearman_high"] < 1
    assert table.loc["magnitude", "spearman"] == pytest.approx(-expected)
    assert table.loc["leave_one_out", "spearman"] == pytest.approx(1)
    assert np.isnan(table.loc["leave_one_out", "spearman_low"])  # by definition
    _, spearman, seconds = drawn(criteria, panel.frame).axes
    assert [one.lines[0].get_xdata()[0] for one in spearman.containers] == pytest.approx([1, expected, -expected])
    assert seconds.get_xscale() == "log"
    assert said in criteria.caption(panel.frame)


def test_of_a_metric_where_less_is_better_the_least_is_best(write_run):
    def change(run):
        run.environment["tasks"]["digits"] |= {"metric": "perplexity", "higher_is_better": False}

    (panel,) = criteria.panels(load(write_run(change=change)), "digits")
    assert panel.frame.table["criterion"].tolist() == ["magnitude", "taylor"]
    assert criteria.caption(panel.frame).startswith(
        "With 50 % of the heads magnitude is best at 0.870, +0.270 against the mean of random draws"
    )


def test_the_layers_map_has_a_cell_for_each_size(run):
    (panel,) = layer_map.panels(run, LAYER)
    four, eight = (axes for axes in drawn(layer_map, panel.frame).axes if axes.get_label() != "<colorbar>")
    assert (four.get_title("left"), eight.get_title("left")) == ("4 heads, 50 % kept", "8 heads, 50 % kept")
    assert [label.get_text() for label in four.get_xticklabels()] == ["16", "64"]
    assert [label.get_text() for label in four.get_yticklabels()] == ["3"]
    assert texts(four) == ["1.80×\n1.80–1.80\n128→71.1 ms", "1.80×\n1.80–1.80\n512→284 ms"]
    np.testing.assert_allclose(four.collections[0].get_array().ravel(), np.log2([1.8, 1.8]))
    assert layer_map.caption(panel.frame) == (
        "The bare layer's median paired speedup goes from 1.80× (1.80–1.80; 4 heads, 50 % kept, batch 3 × 16 tokens, "
        "128 to 71.1 ms) to 1.80× (1.80–1.80; 4 heads, 50 % kept, batch 3 × 16 tokens, 128 to 71.1 ms); 44 rounds "
        "in all."
    )


def test_the_map_of_speedups_has_the_planted_cells(run):
    (panel,) = speedup_map.panels(run, "digits")
    axes = drawn(speedup_map, panel.frame).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["50", "25", "0"]
    assert texts(axes)[2:4] == ["1.00×\n1.00–1.00", "4.00×\n4.00–4.00"]
    np.testing.assert_allclose(axes.collections[0].get_array()[1:].ravel(), [0, 2, np.log2(1.25), 3], atol=1e-9)


def test_of_two_thousand_sizes_the_slowest_are_shown(write_run):
    def change(run):
        for place in range(45):
            samples = paired(0.002, 2.0 - place / 100, rounds=3, arms=("torch", "mha"))
            run.layer_case(16, place + 5, 16, 1.0, samples, case=f"many-{place}")

    (panel,) = layer_peers.panels(load(write_run(change=change)), LAYER)
    axes = drawn(layer_peers, panel.frame).axes[0]
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert len(shown) == layer_peers.SHOWN
    assert shown[0] == "4 heads, batch 3 × 16 tokens"  # 0.8, the slowest
    assert shown[-1] == "16 heads, batch 49 × 16 tokens"
    assert layer_peers.caption(panel.frame).endswith(
        " Shown are 32 of 49 sizes, those at which ours is slowest beside the fastest peer; the data has all."
    )


def test_all_attention_stands_at_a_glance_with_cut_heads_left_out(run):
    (panel,) = attention_overview.panels(run, "digits")
    axes = drawn(attention_overview, panel.frame).axes[0]
    image = np.ma.filled(axes.images[0].get_array(), np.nan)
    step, cells = attention_overview.STEP, attention_overview.CELLS
    right = image.shape[1] - 8 * step
    for row, layer in enumerate(panel.frame.layers):
        for head in range(8):
            down, across = slice(row * step, row * step + cells), slice(head * step, head * step + cells)
            dense = image[down, across]
            most = layer.dense[head].max()
            assert dense[0, 0] * most == pytest.approx(layer.dense[head][0, 0])
            assert dense[-1, -1] * most == pytest.approx(layer.dense[head][-1, -1])
            assert dense.max() == pytest.approx(1)
            pruned = image[down, slice(right + across.start, right + across.stop)]
            if head in layer.heads:
                assert pruned[0, 0] * most == pytest.approx(layer.pruned[layer.heads.index(head)][0, 0])
            else:
                assert np.isnan(pruned).all()
    (cut,) = axes.patches
    assert len(cut.get_path().vertices) == 5 * (5 + 8)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["blocks.0.attention", "blocks.1.attention"]
    assert texts(axes) == ["dense", "pruned"]
    change = np.abs(panel.frame.layers[0].pruned - panel.frame.layers[0].dense[[1, 4, 6]]).mean()
    assert attention_overview.caption(panel.frame) == (
        "On one held-out example, 3 of 16 heads are kept (3 of 8 in blocks.0.attention and 0 of 8 in "
        f"blocks.1.attention); their weights move by {change:.3f} on average."
    )


def test_each_example_has_its_own_overview_and_layers_may_differ_in_size(write_run):
    def change(run):
        run.attention = {}
        for place, name in enumerate(("first", "second")):
            for layer, queries, keys in (("self", 9, 9), ("cross", 10, 25)):
                arrays = attention_arrays("digits", layer, 9, [0, 8], queries, keys)
                run.attention |= {key.replace("digits/", f"digits/{place}/"): value for key, value in arrays.items()}
            run.attention[f"digits/{place}/name"] = np.array(name)

    panels = list(attention_overview.panels(load(write_run(change=change)), "digits"))
    assert [panel.title for panel in panels] == ["digits, first", "digits, second"]
    for panel, name in zip(panels, ("first", "second"), strict=True):
        assert {layer.layer for layer in panel.frame.layers} == {"self", "cross"}
        axes = drawn(attention_overview, panel.frame).axes[0]
        assert len(axes.get_yticks()) == 4  # more heads than fit side by side: the pruned ones are below
        sentence = attention_overview.caption(panel.frame)
        assert sentence.startswith(f"On the held-out example “{name}”, 4 of 18 heads are kept (2 of 9 in ")
        assert ", least in " in sentence


def test_attention_of_many_heads_and_tokens_says_what_it_leaves_out():
    weights = np.random.default_rng(3).random((64, 512, 512))
    kept = list(range(0, 64, 2))
    moved = weights[kept].copy()
    moved[[3, 30]] += 0.5  # heads 6 and 60
    frame = example(64, kept, 512, 512, dense=weights, pruned=moved)
    figure = drawn(attention_maps, frame)
    with theme():
        figure.savefig(BytesIO())
    assert len(figure.findobj()) < 6_000  # what takes the time
    names = texts(figure.axes[0])
    assert {"head 6", "head 60"} <= {*names}
    assert sum(name.startswith("head ") for name in names) == attention_maps.HEADS
    image = figure.axes[0].images[0].get_array()
    assert image[0, 0] == weights[int(names[0].split()[1]), :6, :6].max()
    sentence = attention_maps.caption(frame)
    assert sentence.startswith("attention keeps 32 of 64 heads under plan; on this held-out example their weights")
    assert sentence.endswith(
        " A cell is the largest weight of 6 × 6 tokens. Shown are 12 of 64 heads, the kept ones that change most "
        "first; the data has all."
    )
