"""What is drawn is what the frame has."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from reports.analyse import bounds
from reports.draw.style import BOUND_LOOKS, theme
from reports.figures import (
    generation,
    layer_peers,
    layer_pruning,
    memory_timeline,
    operators,
    predictions,
    roofline,
    speedup_bounds,
)
from reports.read.load import load
from reports.read.run import GENERATION, LAYER
from tests.reports.synthetic import COPY, MATMUL, fill_generation, paired

MIB = 2**20


@pytest.fixture(scope="module")
def run(full_run):
    return load(full_run)


def drawn(module, panel):
    with theme():
        return module.draw(panel.frame).axes


def points(axes):
    """(label, x, y, colour) of all marks with a label of their own, lines between two ends aside."""
    lines = {line: line.get_label() for line in axes.lines if not line.get_label().startswith("_")}
    lines |= {container.lines[0]: container.get_label() for container in axes.containers if container.lines[0]}
    return [(label, *map(np.asarray, line.get_data()), line.get_color()) for line, label in lines.items()]


def marks(axes):
    return {label: (x.tolist(), y.tolist()) for label, x, y, _ in points(axes)}


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_roofline_has_both_ceilings_and_every_point_below_them(run):
    (panel,) = roofline.panels(run, "digits")
    (axes,) = drawn(roofline, panel)
    roof = axes.lines[[line.get_linewidth() for line in axes.lines].index(1.6)]
    x, y = roof.get_data()
    assert (x[1], y[1]) == pytest.approx((MATMUL / COPY, MATMUL))
    assert y[0] / x[0] == pytest.approx(COPY)
    assert texts(axes) == ["matrix products: 1.00 TFLOP/s", "copy: 100 GB/s"]
    found = {label: (x, y, color) for label, x, y, color in points(axes)}
    assert set(found) == {"compute-bound, dense", "memory-bound, pruned", "overhead-bound, pruned"}
    for label, (x, y, color) in found.items():
        bound, arm = label.split("-bound, ")
        rows = panel.frame[(panel.frame["bound"] == bound) & (panel.frame["arm"] == arm)]
        assert x.tolist() == rows["intensity"].tolist()
        assert y.tolist() == rows["achieved"].tolist()
        assert to_hex(color) == to_hex(BOUND_LOOKS[bound].color)
        assert (y <= np.minimum(MATMUL, COPY * x)).all()
    assert roofline.caption(panel.frame) == (
        "Of 4 points 2 are compute-bound, 1 is memory-bound and 1 is overhead-bound; dense at batch 2, 7 tokens "
        "reaches 80 % of its ceiling, pruned at batch 2, 7 tokens reaches 10 %. The machine multiplies matrices at "
        "1.00 TFLOP/s and copies at 100 GB/s."
    )


def test_the_roofline_shows_the_caches_where_they_were_measured(write_run):
    def change(run):
        columns, _ = run.tables["ceilings.csv"]
        run.table("ceilings.csv", columns, [("cpu", "float32", "cached copy", 5e11, 4e11, 6e11, 31, 0)])

    (panel,) = roofline.panels(load(write_run(change=change)), "digits")
    (axes,) = drawn(roofline, panel)
    x, y = marks(axes)["from the caches: 500 GB/s"]
    assert np.divide(y, x) == pytest.approx([5e11] * 2)


def test_speedups_are_drawn_beside_amdahls_bound(run):
    (panel,) = speedup_bounds.panels(run, "digits")
    one, two = drawn(speedup_bounds, panel)
    for axes, batch, share in ((one, 1, 0.2), (two, 2, 0.875)):
        rows = panel.frame[panel.frame["batch"] == batch]
        found = marks(axes)
        x, y = map(np.array, found["Amdahl's bound: only attention shrinks"])
        assert y == pytest.approx(1 / (1 - share * (1 - x)))
        x, y = map(np.array, found["ideal: 1 / kept heads"])
        assert x * y == pytest.approx(np.ones(len(x)))
        measured = [value for label, (_, ys) in found.items() if label.startswith("measured") for value in ys]
        assert sorted(measured) == pytest.approx(sorted(rows["speedup"]))
        assert axes.get_title("left") == f"batch {batch}: attention takes {100 * share:.0f} %"
    assert marks(two)["measured, overhead-bound"][1] == pytest.approx([4.0])
    assert marks(two)["measured, memory-bound"][1] == pytest.approx([2.0])


def test_the_sentences_on_bounds_say_where_each_point_is_held_back(run):
    (panel,) = speedup_bounds.panels(run, "digits")
    assert speedup_bounds.caption(panel.frame) == (
        "At batch 1 attention takes 20 % of the dense time, so 50 % of the heads can give 1.11× by Amdahl's law, and "
        "1.00× (1.00–1.00) was measured. At batch 2 attention takes 88 % of the dense time, so 50 % of the heads can "
        "give 1.78× by Amdahl's law, and 2.00× (2.00–2.00) was measured; of 3 pruned shapes 1 is memory-bound "
        "and 1 is overhead-bound."
    )
    (table,) = panel.tables
    rows = [[cell.text for cell in row] for row in table.rows]
    assert rows[-1] == ["2", "25 %", "4 of 16", "4.00×", "2.91×", "4.00×", "compute", "80 %", "overhead", "10 %"]
    assert ["1", "50 %", "8 of 16", "1.00×", "1.11×", "2.00×", "unknown", "–", "unknown", "–"] in rows


def test_peers_are_drawn_as_the_time_of_ours_over_theirs(run):
    (panel,) = layer_peers.panels(run, LAYER)
    (axes,) = drawn(layer_peers, panel)
    x, y = marks(axes)["torch.nn.MultiheadAttention"]
    assert x == pytest.approx([0.8] * 4)
    assert y == pytest.approx([0, 1, 2, 3])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"{heads} heads, batch 3 × {tokens} tokens" for heads in (4, 8) for tokens in (16, 64)]
    assert marks(axes)["target: at most 1.03"][0] == [1.03, 1.03]
    assert layer_peers.caption(panel.frame) == (
        "Over 4 sizes ours takes 0.80 (0.80–0.80; 4 heads, batch 3 × 16 tokens) to 0.80 (0.80–0.80; 8 heads, batch 3 × "
        "64 tokens) times as long as the fastest peer there; the upper bound is above 1.03 in 0. By peer, geometric "
        "means (faster or slower: beyond the interval): torch.nn.MultiheadAttention 0.80 (faster in 4, slower in 0)."
    )


def test_padded_batches_are_shown_apart_and_the_floor_is_no_peer(write_run):
    def change(run):
        samples = [*paired(0.002, 1.25, arms=("torch", "mha")), *paired(0.0008, 1.0, arms=("products", "linears"))]
        run.layer_case(4, 3, 16, 1.0, samples, case="padded", mask="padded", head_dim=17)

    whole, padded = layer_peers.panels(load(write_run(change=change)), LAYER)
    assert (whole.title, padded.title) == ("cpu, float32", "cpu, float32, padded batches")
    assert padded.slug == "cpu-float32-padded"
    ratios = padded.frame.set_index("peer")["ratio"].to_dict()
    assert ratios == pytest.approx({"torch": 0.8, "products": 2.0, "linears": 2.0})
    assert layer_peers.caption(padded.frame).startswith(
        "Over 1 size ours takes 2.00 (2.00–2.00; 4 heads × 17, batch 3 × 16 tokens) times as long as the fastest peer "
        "there; the upper bound is above 1.03 in 1."
    )


def test_a_pruned_layer_is_drawn_by_what_it_takes_beyond_its_heads(run):
    (panel,) = layer_pruning.panels(run, LAYER)
    (axes,) = drawn(layer_pruning, panel)
    x, y = marks(axes)["50 % of the heads"]
    assert x == pytest.approx([2.0 * tokens * heads for tokens, heads in ((16, 4), (16, 8), (64, 4), (64, 8))])
    assert y == pytest.approx([1 / 1.8 / 0.5] * 4)


def test_operators_are_drawn_dearest_first_with_what_is_left(run):
    (panel,) = operators.panels(run, "digits")
    (axes,) = drawn(operators, panel)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["aten::addmm", "aten::softmax", "aten::view"]
    dense, half = ([bar.get_width() for bar in container] for container in axes.containers)
    assert dense == pytest.approx([4.0, 0.75, 0.25])
    assert half == pytest.approx([2.0, 0.75, 0.25])
    (table,) = panel.tables
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["aten::addmm", "4.00", "2.00", "50 %"],
        ["aten::softmax", "0.750", "0.750", "100 %"],
        ["aten::view", "0.250", "0.250", "100 %"],
        ["sum", "5.00", "3.00", "60 %"],
    ]
    assert operators.caption(panel.frame) == (
        "Of 5.00 ms of the dense pass 3.00 remain with 50 % of the heads (60 %); aten::addmm gives most of it, 4.00 to "
        "2.00 ms, and aten::softmax gives least, 100 % of it is left."
    )


def test_cheap_operators_share_a_row_and_a_devices_own_time_counts(write_run):
    def change(run):
        columns, rows = run.tables["operators.csv"]
        rows.clear()
        run.table("operators.csv", columns, [
            ("digits", "cuda", "dense", 1.0, 2, f"op{place}", 1, 100.0, (20 - place) / 1e3, 0) for place in range(13)
        ])  # fmt: skip

    (panel,) = operators.panels(load(write_run(change=change)), "digits")
    assert panel.frame.index.tolist() == [*(f"op{place}" for place in range(10)), "all others"]
    assert panel.frame[1.0].tolist() == pytest.approx([*range(20, 10, -1), 10 + 9 + 8])


def test_memory_is_drawn_in_steps_from_the_start_of_the_pass(run):
    (panel,) = memory_timeline.panels(run, "digits")
    dense, half = drawn(memory_timeline, panel)
    for axes, peak, title in ((dense, 6, "dense: at most 6.00 MiB"), (half, 4, "50 % of the heads: at most 4.00 MiB")):
        x, y = axes.lines[0].get_data()
        assert x == pytest.approx([0, 1, 3, 4])
        assert y == pytest.approx([0, peak, 1, 0])
        assert axes.lines[0].get_drawstyle() == "steps-post"
        assert axes.get_title("left") == title
    assert memory_timeline.caption(panel.frame) == (
        "On top of what was there when it began a pass allocates at most 6.00 MiB in the dense model and 4.00 MiB with "
        "50 % of the heads."
    )


def test_of_many_steps_the_peaks_stay(write_run):
    def change(run):
        columns, rows = run.tables["memory.csv"]
        rows.clear()
        steps = [(step / 1e4, (step % 7) * MIB + (step == 1234) * 50 * MIB) for step in range(3000)]
        run.table("memory.csv", columns, [("digits", "cpu", "dense", 1.0, 2, *step) for step in steps])

    (panel,) = memory_timeline.panels(load(write_run(change=change)), "digits")
    (axes,) = drawn(memory_timeline, panel)
    x, y = axes.lines[0].get_data()
    assert len(x) <= memory_timeline.STEPS
    assert (x[y.argmax()], y.max()) == pytest.approx((123.4, (1234 % 7) + 50))
    assert axes.get_title("left") == f"dense: at most {(1234 % 7) + 50}.0 MiB"


def test_predictions_are_drawn_against_what_was_measured(run):
    (panel,) = predictions.panels(run, "digits")
    (axes,) = drawn(predictions, panel)
    assert marks(axes)["a plan"] == ([0.5, 0.618, 0.77], [0.5, 0.6, 0.7])
    x, y = marks(axes)["as predicted"]
    assert x == y
    assert predictions.caption(panel.frame) == (
        "Of 3 plans 2 lie within 5 % of their prediction; the median error is 3.0 %, the largest 10.0 % (plan-2: "
        "predicted 0.770, measured 0.700 (0.690–0.710))."
    )


def test_tokens_per_second_are_drawn_for_both_phases(run):
    (panel,) = generation.panels(run, GENERATION)
    assert panel.title == "llama, cpu, float32, causal mask"
    prefill, decode = drawn(generation, panel)
    for axes, dense, speedup in ((prefill, 3 * 19 / 0.02, 2.0), (decode, 3 / 0.01, 1.25)):
        x, y = marks(axes)["batch 3, 19 tokens"]
        assert x == [0.5, 1.0]
        assert y == pytest.approx([dense * speedup, dense])
    assert generation.caption(panel.frame) == (
        "Prefill gains at most 2.00× (2.00–2.00), with 50 % of the heads at batch 3, 19 tokens: 5700 tokens/s instead "
        "of 2850; decode gains at most 1.25× (1.25–1.25), with 50 % of the heads at batch 3, 19 tokens: 375 tokens/s "
        "instead of 300."
    )
    (table,) = panel.tables
    assert [[row[0].text, row[3].text, row[-1].text] for row in table.rows] == [
        ["prefill", "100 %", "2.00 MiB"], ["prefill", "50 %", "1.00 MiB"],
        ["decode", "100 %", "2.00 MiB"], ["decode", "50 %", "1.00 MiB"],
    ]  # fmt: skip


def test_generation_has_a_section_of_its_own_only_where_it_was_measured(write_run):
    bare = load(write_run(change=lambda run: [file.unlink() for file in (run.path / "cases").glob("generation-*")]))
    assert list(generation.panels(bare, GENERATION)) == []
    assert list(generation.panels(load(write_run("only", change=fill_generation)), GENERATION))


def test_a_bound_is_told_by_marker_as_well_as_by_colour():
    assert len({BOUND_LOOKS[bound].marker for bound in bounds.BOUNDS}) == 3
