"""The cells of each preset: what they are called, what they hold, and that options narrow them."""

from pathlib import Path

import pytest
import torch

from bench.settings.layer_cases import GRIDS, Cell, sliced, whole
from bench.settings.options import Settings


def settings(**changes):
    usual = {
        "directory": Path("run"),
        "tasks": (),
        "criteria": (),
        "keep": (0.5,),
        "batch_sizes": None,
        "devices": ("cpu",),
    }
    return Settings(**usual | changes)


@pytest.mark.parametrize("preset", GRIDS)
def test_no_two_cells_have_the_same_name(preset):
    asked = settings(preset=preset, dtypes=("float32", "bfloat16"), modes=("eager", "compile"), keep=(0.75, 0.5))
    names = [cell.id for cells in (whole, sliced) for cell in cells(asked)]
    assert names
    assert len(names) == len(set(names))


def test_a_name_says_what_is_unusual():
    assert Cell(12, 4, 128, "cpu").id == "attention-h12-b4-s128-cpu"
    unusual = Cell(8, 1, 16, "cuda:1", "bfloat16", 32, 0.5, "padded", "compile", "cold")
    assert unusual.id == "attention-h8-b1-s16-d32-keep0.5-padded-bfloat16-compile-cold-cuda1"


def test_the_full_preset_has_the_twelve_cells_that_peers_were_measured_in():
    cells = [cell for cell in whole(settings(preset="full")) if (cell.mask, cell.head_dim) == ("none", 64)]
    sizes = {(cell.batch, cell.length) for cell in cells}
    assert sizes == {(batch, length) for batch in (1, 4, 16, 64) for length in (16, 128, 1024)}
    assert {(cell.heads, cell.width) for cell in cells} == {(12, 768)}


def test_sizes_of_the_command_line_take_the_place_of_the_presets():
    asked = settings(batch_sizes=(3,), lengths=(5, 7), head_dims=(32, 128))
    for cells in (whole, sliced):
        assert {(cell.batch, cell.length) for cell in cells(asked)} == {(3, 5), (3, 7)}
        assert {cell.head_dim for cell in cells(asked)} == {32, 128}
    assert [cell.mask for cell in whole(asked)].count("causal") == 0  # the default preset has none


def test_few_sizes_have_another_mode_width_or_cache_and_none_has_two():
    asked = settings(preset="full", modes=("eager", "compile"), dtypes=("float32", "bfloat16"))
    for cells in (whole, sliced):
        for cell in cells(asked):
            unusual = [cell.mode != "eager", cell.head_dim != 64, cell.cache != "warm"].count(True)
            assert unusual <= 1
            assert not unusual or (cell.batch, cell.length) in GRIDS["full"].few
    assert {cell.cache for cell in sliced(asked)} == {"warm", "cold"}


def test_what_is_asked_for_together_is_measured_together():
    (way,) = {(cell.mode, cell.head_dim) for cell in whole(settings(modes=("compile",), head_dims=(32,)))}
    assert way == ("compile", 32)


def test_what_is_left_out_on_a_device_has_no_cell():
    asked = settings(dtypes=("float32", "float16"), left_out={("cpu", "float16"): "slow"})
    assert {cell.dtype for cell in whole(asked)} == {"float32"}


def test_a_cell_keeps_whole_heads_and_at_least_one():
    assert [len(Cell(12, 1, 16, "cpu", keep=keep).kept) for keep in (1.0, 0.75, 0.5, 0.25, 0.01)] == [12, 9, 6, 3, 1]


@pytest.mark.parametrize(("batch", "length"), [(32, 128), (64, 16), (8, 512)])
def test_a_padded_batch_is_half_padding_and_one_example_is_the_longest(batch, length):
    cell = Cell(12, batch, length, "cpu", mask="padded")
    assert cell.lengths.max() == length
    assert cell.lengths.min() == 1
    assert cell.tokens / (batch * length) == pytest.approx(0.5, abs=0.01)
    assert cell.tokens == int(cell.lengths.sum())
    assert not cell.lengths.equal(cell.lengths.sort().values)


def test_inputs_differ_and_weights_do_not():
    cell = Cell(2, 3, 5, "cpu", head_dim=7, mask="padded", dtype="bfloat16")
    first, second, *_ = cell.inputs()
    assert first.x.shape == (3, 5, 14)
    assert first.x.dtype == torch.bfloat16
    assert not first.x.equal(second.x)
    assert first.lengths.equal(cell.lengths)
    assert cell.layer().W_o.weight.equal(cell.layer().W_o.weight)
    assert cell.layer().W_q.weight.shape == (14, 14)
