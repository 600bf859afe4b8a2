"""Figures stand in one order on all pages, and those that it doesn't name come last."""

from reports import figures
from reports.figures import compare, importance_run, runtimes_run
from reports.read.run import GENERATION, LAYER
from reports.site import layout


def test_every_name_in_the_order_is_a_figure():
    for names, modules in (
        (layout.RUN, figures.registry()),
        (layout.COMPARE, compare.registry()),
        (layout.IMPORTANCE_RUN, importance_run.registry()),
        (layout.RUNTIMES_RUN, runtimes_run.registry()),
    ):
        assert len(set(names)) == len(names)
        assert {*names} <= {*modules}


def test_what_is_not_named_comes_last_by_name():
    assert list(layout.in_order({"c": 1, "b": 2, "d": 3, "a": 4}, ["d", "absent", "b"])) == ["d", "b", "a", "c"]


def test_pages_keep_the_order_and_a_new_figure_comes_last():
    named = [name for name in layout.of_task(LAYER) if name in layout.RUN]
    assert named == ["layer_peers", "layer_pruning", "layer_map", "roofline", "predictions"]
    for modules, names in (
        (layout.of_run(), layout.RUN),
        (layout.of_comparison(), layout.COMPARE),
        (layout.of_importance_run(), layout.IMPORTANCE_RUN),
        (layout.of_runtimes_run(), layout.RUNTIMES_RUN),
    ):
        assert tuple(modules)[: len(names)] == names
    assert list(layout.of_task(GENERATION)) == [name for name in layout.of_run() if name in layout.of_task(GENERATION)]
