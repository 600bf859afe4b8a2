"""The cases of each preset: what they are called, what they hold, and that options narrow them."""

from pathlib import Path

import pytest
import torch

from bench.settings.layer_cases import GRIDS, LayerCase, sliced, whole
from bench.settings.options import RunSettings


def settings(**changes):
    usual = {
        "directory": Path("run"),
        "tasks": (),
        "criteria": (),
        "keep": (0.5,),
        "batch_sizes": None,
        "devices": ("cpu",),
    }
    return RunSettings(**usual | changes)


@pytest.mark.parametrize("preset", GRIDS)
def test_no_two_cases_have_the_same_name(preset):
    asked = settings(preset=preset, dtypes=("float32", "bfloat16"), modes=("eager", "compile"), keep=(0.75, 0.5))
    names = [case.id for cases in (whole, sliced) for case in cases(asked)]
    assert names
    assert len(names) == len(set(names))


def test_a_name_says_what_is_unusual():
    assert LayerCase(12, 4, 128, "cpu").id == "attention-h12-b4-s128-cpu"
    unusual = LayerCase(8, 1, 16, "cuda:1", "bfloat16", 32, 0.5, "padded", "compile", "cold")
    assert unusual.id == "attention-h8-b1-s16-d32-keep0.5-padded-bfloat16-compile-cold-cuda1"


def test_the_full_preset_has_the_twelve_cases_that_peers_were_measured_in():
    cases = [case for case in whole(settings(preset="full")) if (case.mask, case.head_dim) == ("none", 64)]
    sizes = {(case.batch, case.length) for case in cases}
    assert sizes == {(batch, length) for batch in (1, 4, 16, 64) for length in (16, 128, 1024)}
    assert {(case.heads, case.width) for case in cases} == {(12, 768)}


def test_sizes_of_the_command_line_take_the_place_of_the_presets():
    asked = settings(batch_sizes=(3,), lengths=(5, 7), head_dims=(32, 128))
    for cases in (whole, sliced):
        assert {(case.batch, case.length) for case in cases(asked)} == {(3, 5), (3, 7)}
        assert {case.head_dim for case in cases(asked)} == {32, 128}
    assert [case.mask for case in whole(asked)].count("causal") == 0  # the default preset has none


def test_few_sizes_have_another_mode_width_or_cache_and_none_has_two():
    asked = settings(preset="full", modes=("eager", "compile"), dtypes=("float32", "bfloat16"))
    for cases in (whole, sliced):
        for case in cases(asked):
            unusual = [case.mode != "eager", case.head_dim != 64, case.cache != "warm"].count(True)
            assert unusual <= 1
            assert not unusual or (case.batch, case.length) in GRIDS["full"].few
    assert {case.cache for case in sliced(asked)} == {"warm", "cold"}


def test_what_is_asked_for_together_is_measured_together():
    (way,) = {(case.mode, case.head_dim) for case in whole(settings(modes=("compile",), head_dims=(32,)))}
    assert way == ("compile", 32)


def test_what_is_left_out_on_a_device_has_no_case():
    asked = settings(dtypes=("float32", "float16"), left_out={("cpu", "float16"): "slow"})
    assert {case.dtype for case in whole(asked)} == {"float32"}


def test_a_case_keeps_whole_heads_and_at_least_one():
    assert [len(LayerCase(12, 1, 16, "cpu", keep=keep).kept) for keep in (1.0, 0.75, 0.5, 0.25, 0.01)] == [
        12,
        9,
        6,
        3,
        1,
    ]


@pytest.mark.parametrize(("batch", "length"), [(32, 128), (64, 16), (8, 512)])
def test_a_padded_batch_is_half_padding_and_one_example_is_the_longest(batch, length):
    case = LayerCase(12, batch, length, "cpu", mask="padded")
    assert case.lengths.max() == length
    assert case.lengths.min() == 1
    assert case.tokens / (batch * length) == pytest.approx(0.5, abs=0.01)
    assert case.tokens == int(case.lengths.sum())
    assert not case.lengths.equal(case.lengths.sort().values)


def test_inputs_differ_and_weights_do_not():
    case = LayerCase(2, 3, 5, "cpu", head_dim=7, mask="padded", dtype="bfloat16")
    first, second, *_ = case.inputs()
    assert first.x.shape == (3, 5, 14)
    assert first.x.dtype == torch.bfloat16
    assert not first.x.equal(second.x)
    assert first.lengths.equal(case.lengths)
    assert case.layer().W_o.weight.equal(case.layer().W_o.weight)
    assert case.layer().W_q.weight.shape == (14, 14)
