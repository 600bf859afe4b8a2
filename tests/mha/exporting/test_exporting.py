"""Exports are proved in their runtime, and whatever is not what it should be is found out there."""

import copy
import dataclasses
import json
import shutil
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import nn

import mha
from mha.exporting import exported as on_disk
from mha.exporting.check_export import ExportCheck, Try
from mha.exporting.ways import Calls
from mha.values.errors import CheckpointError, EquivalenceError, ExportError, MissingPackageError
from tests.mha.exporting.runtimes import OTHERS, RUNTIMES, needs_packages
from tests.mha.exporting.stack import PLAN, B, D, E, S
from tests.mha.support.language_models import GROUPED, IDS, alike, build, first


def swapped(pruned):
    """The pruned model with two heads of its first layer in each other's place, in the output projection alone."""
    broken = copy.deepcopy(pruned)
    with torch.no_grad():
        columns = broken.layers[0].W_o.weight.unflatten(1, (-1, D))
        columns[:, [0, 1]] = columns[:, [1, 0]].clone()
    return broken


def scaled(pruned):
    """The pruned model with one head's part of the output projection off by a percent."""
    broken = copy.deepcopy(pruned)
    with torch.no_grad():
        broken.layers[2].W_o.weight.unflatten(1, (-1, D))[:, 0] *= 1.01
    return broken


def test_a_traced_program_computes_what_the_masked_model_computes_at_any_size(case, exported):
    found = mha.check_export(exported, case.model, case.plan, [case.example])
    assert found.equal
    assert found.worst.share < 1e-6
    assert [each.inputs for each in found.tries] == [
        f"x {B}×{S}×{E}, lens {B}", f"x 1×3×{E}, lens 1", f"x 2×17×{E}, lens 2", f"x 5×8×{E}, lens 5",
    ]  # fmt: skip
    assert "computes what the masked dense model computes" in str(found)


def test_what_was_written_prints_itself_and_is_found_again(exported):
    again = mha.Exported.read(exported.directory)
    assert again == exported
    assert set(exported.files) == {"export.json", "model.pt2"}
    assert exported.constants == {"scale": "0.5"}
    assert str(exported).startswith("torch: export.json, model.pt2 in ")
    assert exported.bytes == sum((exported.directory / name).stat().st_size for name in exported.files)


@pytest.mark.parametrize(
    ("name", "sabotage"),
    [("torch", swapped), *((name, sabotage) for name in OTHERS for sabotage in (swapped, scaled))],
)
def test_a_sabotaged_export_is_found_out(case, tmp_path, name, sabotage):
    needs_packages(name)
    files = mha.export(sabotage(case.pruned), name, tmp_path / "out", example=case.example)
    with pytest.raises(EquivalenceError, match=r"does NOT compute what .* does: at most \S+, allowed 0\.0001"):
        mha.check_export(files, case.model, case.plan, [case.example])


@pytest.mark.parametrize(
    ("name", "int8"),
    [*((name, int8) for name in RUNTIMES for int8 in (False, True)), ("executorch", False), ("torch", True)],
)
def test_other_runtimes_compute_it_too(case, tmp_path, name, int8):
    needs_packages(f"{name} int8" if int8 else name)
    files = mha.export(case.pruned, name, tmp_path / "out", example=case.example, int8=int8)
    found = mha.check_export(files, case.model, case.plan, [case.example])
    assert len(found.tries) == 4
    assert (found.worst.share > 1e-5) == int8
    assert files.int8 is int8


def test_a_check_says_what_is_beyond_what_is_allowed(tmp_path):
    found = ExportCheck("onnx", "onnxruntime 1.0", (Try("x 1", 1e-5, 1e-6), Try("x 2", 0.5, 0.2)), 1e-4)
    assert not found.equal
    assert str(found).splitlines() == [
        "x 1: off by 1e-05, 1e-06 of the largest",
        "x 2: off by 0.5, 0.2 of the largest",
        "onnx in onnxruntime 1.0 does NOT compute what the masked dense model does: at most 0.2, allowed 0.0001",
    ]
    found.save(tmp_path)
    document = json.loads((tmp_path / "mha-check.json").read_text())
    assert not document["equal"]
    assert document["tries"][1] == {"inputs": "x 2", "difference": 0.5, "share": 0.2, "padding": 0.0}


def test_a_file_that_was_changed_or_lost_and_another_version_are_refused(case, exported, tmp_path, monkeypatch):
    def check(directory):
        return mha.check_export(directory, case.model, case.plan, [case.example])

    with pytest.raises(ExportError, match=r"holds no export: there is no mha-export\.json"):
        check(tmp_path)
    copied = tmp_path / "copied"
    shutil.copytree(exported.directory, copied)
    with (copied / "model.pt2").open("ab") as file:
        file.write(b"0")
    with pytest.raises(ExportError, match=r"model\.pt2 was changed after the model was exported"):
        check(copied)
    (copied / "model.pt2").unlink()
    with pytest.raises(ExportError, match=r"model\.pt2 is missing"):
        check(copied)
    (copied / "mha-export.json").write_text("{")
    with pytest.raises(ExportError, match=r"mha-export\.json is damaged"):
        check(copied)
    monkeypatch.setattr(on_disk, "version_of", mock.Mock(return_value="99.0"))
    with pytest.raises(ExportError, match=r"was exported for torch \S+, and 99\.0 is installed"):
        check(exported.directory)


def test_inputs_that_do_not_fit_are_told(case, exported):
    narrow = torch.randn(2, 5, E + 1)
    with pytest.raises((ExportError, mha.ShapeError)):
        mha.check_export(exported, case.model, case.plan, [((narrow,), {"lens": torch.tensor([1, 2])})])
    with pytest.raises(ExportError, match="no example was given"):
        mha.check_export(exported, case.model, case.plan, [])


def test_what_a_runtime_would_leave_out_in_silence_is_refused(case, exported):
    run, (args, kwargs) = exported.load(), case.example
    inputs = dict(zip(("x", "lens"), args, strict=False)) | kwargs
    assert run(inputs)["hidden"].shape == (B, S, E)
    with pytest.raises(ExportError, match=r"exported with x, lens, and would leave out mask; export it again"):
        run({**inputs, "mask": torch.ones(B, S)})
    with pytest.raises(ExportError, match=r"exported with scale=0\.5, and can't be called with 0\.25"):
        run({**inputs, "scale": 0.25})


def test_more_than_memory_was_planned_for_is_refused(exported):
    planned = dataclasses.replace(exported, largest={"x": [8, 256, E], "lens": [8]})
    planned.check_inputs({"x": torch.ones(8, 256, E), "lens": torch.ones(8), "scale": 0.5})
    with pytest.raises(ExportError, match=r"x has shape \(2, 257, \d+\), and torch has planned its memory for at most"):
        planned.check_inputs({"x": torch.ones(2, 257, E), "lens": torch.ones(2)})
    assert str(planned).endswith(f"for x (up to 8, up to 256, up to {E}), lens (up to 8)")


def test_executorch_plans_its_memory_for_the_largest_of_an_example(case, tmp_path):
    needs_packages("executorch")
    x, lens = torch.randn(11, 3, E), torch.randint(1, 3, (11,))
    files = mha.export(case.pruned, "executorch", tmp_path / "out", example=((x, lens), {"scale": 0.5}))
    assert files.largest == {"x": [11, 256, 256], "lens": [11]}
    run = files.load()
    largest = {"x": torch.randn(11, 256, E), "lens": torch.full((11,), 256), "scale": 0.5}
    torch.testing.assert_close(run(largest)["hidden"], case.pruned(**largest)["hidden"], atol=1e-4, rtol=1e-4)
    with pytest.raises(ExportError, match="at most"):
        run({**largest, "x": torch.randn(12, 256, E)})


class Fused(nn.Module):
    """Projects queries, keys and values at once, and splits them; what it returns is numbered along the batch."""

    def __init__(self):
        super().__init__()
        self.fused = nn.Linear(E, 3 * E)
        self.attention = mha.MultiHeadAttention.square(E, 5)

    def forward(self, x):
        return self.attention(*self.fused(x).split(E, dim=-1)) + torch.arange(x.shape[0])[:, None, None]


def test_executorch_takes_any_batch_of_a_model_that_splits(tmp_path):
    needs_packages("executorch")
    torch.manual_seed(0)
    model, x = Fused().eval(), torch.randn(3, 7, E)
    plan = mha.HeadPlan({"attention": (1, 4)})
    files = mha.export(mha.prune(model, plan), "executorch", tmp_path / "out", example=x)
    assert [each.inputs for each in mha.check_export(files, model, plan, [x]).tries] == [
        f"x {B}×{S}×{E}", f"x 1×3×{E}", f"x 2×17×{E}", f"x 5×8×{E}",
    ]  # fmt: skip


class Deciding(nn.Module):
    """Goes one way or another by what is in the data."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_can_not_be_exported_leaves_nothing_and_says_why(case, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ExportError, match=r"Deciding can't be exported to torch: .*data-dependent"):
        mha.export(Deciding(), "torch", out, example=torch.randn(2, 3))
    with pytest.raises(ExportError, match=r"unknown format 'onx'; did you mean 'onnx'\?.*openvino"):
        mha.export(case.model, "onx", out, example=case.example)
    with pytest.raises(ExportError, match="transformers has no 8-bit weights here"):
        mha.export(case.model, "transformers", out, example=case.example, int8=True)
    with pytest.raises(ExportError, match=r"W_q\.weight is on the meta device"):
        mha.export(copy.deepcopy(case.model).to("meta"), "torch", out, example=case.example)
    with pytest.raises(ExportError, match="Stack is no model of transformers"):
        mha.export(case.model, "transformers", out, example=case.example)
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    (out / "kept").touch()
    with pytest.raises(CheckpointError, match="exists and holds kept"):
        mha.export(case.model, "torch", out, example=case.example)
    assert (out / "kept").exists()


def test_a_missing_package_is_named_with_its_extra(case, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match=r"onnx\w* is needed to export to onnx.*mha\[export\]"):
        mha.export(case.model, "onnx", tmp_path / "out", example=case.example)


def test_plain_transformers_loads_what_its_configuration_can_say(tmp_path):
    model = build("llama", **GROUPED).float()
    plan = alike(model)
    files = mha.export(mha.prune(model, plan), "transformers", tmp_path / "out", example={"input_ids": IDS})
    found = mha.check_export(files, model, plan, [{"input_ids": IDS, "use_cache": False}])
    assert found.equal
    assert "mha" not in (tmp_path / "out" / "config.json").read_text()


def test_plans_that_its_configuration_can_not_say_are_refused_with_what_to_change(tmp_path):
    model = build("llama", **GROUPED).float()
    uneven = mha.prune(model, first(model, (0, 1, 2)))
    with pytest.raises(ExportError, match=r"model\.layers\.\d+\.self_attn: \d in \d; keep as many in every layer"):
        mha.export(uneven, "transformers", tmp_path / "out", example={"input_ids": IDS})
    bert = build("bert", "AutoModel", hidden_size=84, num_hidden_layers=2, intermediate_size=17, vocab_size=97,
                 pad_token_id=0, num_attention_heads=6)  # fmt: skip
    with pytest.raises(ExportError, match=r"BertModel can't say how many heads are left"):
        mha.export(mha.prune(bert, alike(bert)), "transformers", tmp_path / "out", example={"input_ids": IDS})
    assert list(tmp_path.iterdir()) == []


def test_the_original_is_left_as_it_was(case, tmp_path):
    pruned = case.pruned
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    pruned.train()
    with pytest.raises(ExportError):
        mha.export(pruned, "torch", tmp_path / "out", example=(torch.randn(2, 5, E), 3))
    assert pruned.training
    assert all(value.equal(before[name]) for name, value in pruned.state_dict().items())
    assert mha.plan_of(pruned) == PLAN


def test_an_export_is_a_value(exported):
    with pytest.raises(dataclasses.FrozenInstanceError):
        exported.format = "onnx"


class Limited(nn.Module):
    """Takes at most as many tokens as it knows positions."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = mha.MultiHeadAttention.square(E, 5)
        self.positions = nn.Parameter(torch.randn(9, E))

    def forward(self, x):
        x = x + self.positions[: x.shape[1]]
        return self.attention(x, x, x)


def test_sizes_that_the_model_does_not_take_are_said_to_be_untried(tmp_path):
    torch.manual_seed(0)
    model, x = Limited().eval(), torch.randn(3, 7, E)
    plan = mha.HeadPlan({"attention": (1, 4)})
    files = mha.export(mha.prune(model, plan), "torch", tmp_path / "out", example=x)
    found = mha.check_export(files, model, plan, [x])
    assert found.untried == (f"x 2×17×{E}",)
    sizes = [each.inputs for each in found.tries]
    assert sizes == [f"x 3×7×{E}", f"x 1×3×{E}", f"x 2×7×{E}", f"x 5×8×{E}"]  # as long as the example instead
    assert f"x 2×17×{E}: the model itself does not take that" in str(found)
    with pytest.raises(RuntimeError, match="must match"):
        mha.check_export(files, model, plan, [torch.randn(3, 17, E)])


class Padded(nn.Module):
    """Takes (b, n, e) of tokens and their mask (b, n), and has noise where there is padding."""

    def __init__(self, noise):
        super().__init__()
        self.attention = mha.MultiHeadAttention.square(E, 5)
        self.noise = noise

    def forward(self, x, attention_mask):
        y = self.attention(x, x, x, attention_mask.sum(dim=1))
        return y + self.noise * (1 - attention_mask).unsqueeze(-1)


def like_transformers(model):
    """The model with a configuration: a mask is known to tell padding by zeros."""
    model.config = SimpleNamespace(model_type="padded")
    return model


def test_padding_is_held_to_nothing_where_a_mask_is_known_to_tell_it(tmp_path):
    torch.manual_seed(0)
    model, x = Padded(0.0).eval(), torch.randn(3, 7, E)
    example = (x, torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5]))
    plan = mha.HeadPlan({"attention": (1, 4)})
    pruned = mha.prune(model, plan)
    pruned.noise = 0.5  # what a runtime makes of padding
    files = mha.export(pruned, "torch", tmp_path / "out", example=example)
    off = mha.export(swapped_outputs(pruned), "torch", tmp_path / "off", example=example)
    with pytest.raises(EquivalenceError, match="does NOT compute"):
        mha.check_export(files, model, plan, [example])
    like_transformers(model)
    found = mha.check_export(files, model, plan, [example])
    assert found.worst.share < 1e-6
    assert found.tries[0].padding > 0.1
    assert "of the largest; 0." in str(found).splitlines()[0]
    assert str(found).splitlines()[0].endswith(" where there is padding")
    with pytest.raises(EquivalenceError, match="does NOT compute"):
        mha.check_export(off, model, plan, [example])


def swapped_outputs(pruned):
    """The model with two columns of its output projection in each other's place."""
    broken = copy.deepcopy(pruned)
    with torch.no_grad():
        broken.attention.W_o.weight[:, [0, 1]] = broken.attention.W_o.weight[:, [1, 0]].clone()
    return broken


def test_the_mask_of_an_encoder_is_not_taken_for_that_of_what_a_decoder_returns():
    way = Calls(lambda inputs: inputs, {}, {})
    inputs = {"attention_mask": torch.tensor([[1, 1, 0]]), "input_ids": torch.tensor([[4, 2, 1]])}
    model = like_transformers(Padded(0.0))
    assert way.padding(model, inputs).tolist() == [[False, False, True]]
    assert way.padding(model, {**inputs, "decoder_input_ids": torch.tensor([[4, 2, 1]])}) is None


def test_a_mask_of_nothing_but_padding_does_not_keep_a_check_from_comparing():
    way = Calls(lambda inputs: inputs, {}, {})
    model = like_transformers(Padded(0.0))
    assert way.padding(model, {"attention_mask": torch.zeros(2, 3)}) is None
