"""Attention heatmaps and importance maps: what is drawn, and how it is labelled."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from mha.values.errors import MhaError, ScoresError, ShapeError
from mha.values.plan import HeadScores
from mha.visualize.heatmap import COLUMNS, show_attention, show_importance

BATCH, HEADS, QUERIES, KEYS = 2, 3, 5, 7


def weights(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).softmax(-1)


def heatmaps(figure):
    return [axes for axes in figure.axes if axes.images]


def drawn(figure):
    return np.stack([axes.images[0].get_array().data for axes in heatmaps(figure)])


def bars(figure):
    return [axes for axes in figure.axes if not axes.images]


def test_every_head_of_every_example_is_drawn_in_order():
    given = weights(BATCH, HEADS, QUERIES, KEYS)
    figure = show_attention(given)
    assert np.array_equal(drawn(figure), given.double().numpy().reshape(-1, QUERIES, KEYS))
    assert [axes.get_title() for axes in heatmaps(figure)] == [
        f"example {example}, head {head}" for example in range(BATCH) for head in range(HEADS)
    ]


def test_heads_of_one_example():
    given = weights(HEADS, QUERIES, KEYS)
    figure = show_attention(given)
    assert np.array_equal(drawn(figure), given.double().numpy())
    assert [axes.get_title() for axes in heatmaps(figure)] == ["head 0", "head 1", "head 2"]


def test_batch_times_heads_is_read_batch_first():
    given = weights(BATCH, HEADS, QUERIES, KEYS)
    old = show_attention(given.reshape(BATCH * HEADS, QUERIES, KEYS), num_heads=HEADS)
    new = show_attention(given)
    assert np.array_equal(drawn(old), drawn(new))
    assert [axes.get_title() for axes in heatmaps(old)] == [axes.get_title() for axes in heatmaps(new)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_any_dtype_with_or_without_gradient(dtype):
    given = weights(HEADS, QUERIES, KEYS).to(dtype).requires_grad_()
    assert np.array_equal(drawn(show_attention(given)), given.detach().double().numpy())


def test_numpy_arrays_even_read_only():
    given = np.broadcast_to(weights(QUERIES, KEYS).numpy(), (HEADS, QUERIES, KEYS))
    assert np.array_equal(drawn(show_attention(given)), given)


def test_axes_are_labelled_and_the_outer_ones_show_it():
    figure = show_attention(weights(BATCH, HEADS, QUERIES, KEYS))
    maps = np.array(heatmaps(figure)).reshape(BATCH, HEADS)
    assert {axes.get_xlabel() for axes in maps.flat} == {"Keys"}
    assert {axes.get_ylabel() for axes in maps.flat} == {"Queries"}
    shows_keys = [[axes.xaxis.label.get_visible() for axes in row] for row in maps]
    shows_queries = [[axes.yaxis.label.get_visible() for axes in row] for row in maps]
    assert shows_keys == [[False, False, False], [True, True, True]]
    assert shows_queries == [[True, False, False], [True, False, False]]


def test_one_scale_from_zero_to_the_largest_weight_and_one_bar():
    given = weights(BATCH, HEADS, QUERIES, KEYS)
    figure = show_attention(given)
    assert {axes.images[0].get_clim() for axes in heatmaps(figure)} == {(0.0, given.max().item())}
    assert [axes.get_ylabel() for axes in bars(figure)] == ["Attention weight"]


def test_all_zero_weights_have_a_scale():
    figure = show_attention(torch.zeros(HEADS, QUERIES, KEYS))
    assert {axes.images[0].get_clim() for axes in heatmaps(figure)} == {(0.0, 1.0)}


def test_original_head_numbers():
    figure = show_attention(weights(HEADS, QUERIES, KEYS), heads=(1, 5, 11))
    assert [axes.get_title() for axes in heatmaps(figure)] == ["head 1", "head 5", "head 11"]


def test_token_labels():
    queries, keys = list("abcde"), ["<bos>", *"vwxyz", "<eos>"]
    figure = show_attention(weights(HEADS, QUERIES, KEYS), queries=queries, keys=keys)
    first, *others = heatmaps(figure)
    assert [label.get_text() for label in first.get_yticklabels()] == queries
    for axes in (first, *others):
        assert [label.get_text() for label in axes.get_xticklabels()] == keys
        assert (list(axes.get_xticks()), list(axes.get_yticks())) == (list(range(KEYS)), list(range(QUERIES)))


def test_many_heads_wrap_and_every_column_ends_with_its_label():
    figure = show_attention(weights(COLUMNS + HEADS, QUERIES, KEYS))
    places = [axes.get_subplotspec() for axes in heatmaps(figure)]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [divmod(head, 6) for head in range(11)]
    shows_keys = [axes.xaxis.label.get_visible() for axes in heatmaps(figure)]
    assert shows_keys == [False] * 5 + [True] * 6


def test_each_example_starts_a_row():
    figure = show_attention(weights(BATCH, COLUMNS + 1, QUERIES, KEYS))
    starts = [axes for axes in heatmaps(figure) if axes.get_title().endswith("head 0")]
    assert [axes.get_subplotspec().rowspan.start for axes in starts] == [0, 2]
    assert [axes.get_subplotspec().colspan.start for axes in starts] == [0, 0]


def test_saves_without_a_display_and_leaves_no_pyplot_state(tmp_path):
    code = """
import sys, torch
from mha.visualize.heatmap import show_attention
assert "matplotlib" not in sys.modules
show_attention(torch.full((3, 5, 7), 1 / 7)).savefig(sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
"""
    path = tmp_path / "attention.png"
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(path)], check=True)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((QUERIES, KEYS), {}, r"expected shape \(batch, head, query, key\).*got \(5, 7\)"),
        ((2, 2, HEADS, QUERIES, KEYS), {}, r"got \(2, 2, 3, 5, 7\)"),
        ((0, QUERIES, KEYS), {}, r"got \(0, 5, 7\); a layer that keeps no head"),
        ((BATCH, 0, QUERIES, KEYS), {}, r"got \(2, 0, 5, 7\); a layer that keeps no head"),
        ((HEADS, 0, KEYS), {}, r"none of them 0, got \(3, 0, 7\)$"),
        ((BATCH * HEADS, QUERIES, KEYS), {"num_heads": 5}, r"multiple of num_heads=5 in front, got \(6, 5, 7\)"),
        ((HEADS, QUERIES, KEYS), {"num_heads": 0}, "multiple of num_heads=0 in front"),
        ((BATCH, HEADS, QUERIES, KEYS), {"num_heads": 5}, r"num_heads=5, but weights .* have 3 heads"),
        ((HEADS, QUERIES, KEYS), {"heads": [0, 1]}, r"heads: expected 3, .*got 2: \[0, 1\]"),
        ((HEADS, QUERIES, KEYS), {"queries": ["a"]}, "queries: expected 5, .*got 1"),
        ((HEADS, QUERIES, KEYS), {"keys": list("abcde")}, "keys: expected 7, .*got 5"),
    ],
)
def test_what_does_not_fit_is_refused(shape, options, message):
    with pytest.raises(ShapeError, match=message):
        show_attention(torch.zeros(shape), **options)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(bad):
    given = weights(HEADS, QUERIES, KEYS)
    given[2, 3, 5] = bad
    with pytest.raises(MhaError, match=r"1 of 105 are NaN or infinite, the first at \(2, 3, 5\)"):
        show_attention(given)


def test_importance_has_a_row_per_layer_and_a_column_per_original_head():
    scores = HeadScores(
        {"encoder": torch.tensor([0.25, 0.5, 1.0]), "decoder": torch.tensor([0.125, 0.75])}, heads={"decoder": [1, 4]}
    )
    figure = show_importance(scores)
    (axes,) = heatmaps(figure)
    nan = np.nan
    expected = [[0.25, 0.5, 1.0, nan, nan], [nan, 0.125, nan, nan, 0.75]]
    assert np.array_equal(axes.images[0].get_array().filled(nan), expected, equal_nan=True)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["encoder", "decoder"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Head", "Layer")
    assert axes.images[0].get_clim() == (0.0, 1.0)
    assert [bar.get_ylabel() for bar in bars(figure)] == ["Importance"]


def test_importance_of_both_signs_is_coloured_around_zero():
    figure = show_importance(HeadScores({"": torch.tensor([-0.5, 0.25])}))
    (axes,) = heatmaps(figure)
    assert axes.images[0].get_clim() == (-0.5, 0.5)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["(root)"]


def test_a_layer_without_heads_stays_blank():
    figure = show_importance(HeadScores({"whole": torch.tensor([0.5]), "gone": torch.zeros(0)}))
    (axes,) = heatmaps(figure)
    assert axes.images[0].get_array().mask.tolist() == [[False], [True]]


@pytest.mark.parametrize(
    ("names", "heads"),
    [
        (["layer"], 4),
        ([f"model.decoder.layers.{layer}.self_attention_with_a_long_name" for layer in range(3)], 2),
        (["encoder.layer.0." * 7], 1),
        ([f"encoder.layer.{layer}" for layer in range(31)], 13),
    ],
)
def test_nothing_of_the_map_is_clipped(names, heads):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = show_importance(HeadScores({name: torch.arange(1.0, heads + 1) for name in names}))
    FigureCanvasAgg(figure).draw()
    axes, bar = figure.axes
    labels = [axes.xaxis.label, axes.yaxis.label, bar.yaxis.label, *axes.get_yticklabels()]
    assert [label.get_text() for label in labels] == ["Head", "Layer", "Importance", *names]
    for label in labels:
        box = label.get_window_extent()
        assert box.x0 >= 0, label.get_text()
        assert box.y0 >= 0, label.get_text()
        assert box.x1 <= figure.bbox.x1, label.get_text()
        assert box.y1 <= figure.bbox.y1, label.get_text()


def test_no_score_at_all_is_refused():
    with pytest.raises(ScoresError, match=r"at least one head, got none for layers \['gone'\]"):
        show_importance(HeadScores({"gone": torch.zeros(0)}))
