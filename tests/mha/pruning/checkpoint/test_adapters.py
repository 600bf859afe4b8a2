"""peft's LoRA before and after pruning: what works computes the same, and the rest is refused with what to do."""

import copy

import pytest
import torch

import mha
from mha import HeadPlan
from mha.values.errors import CheckpointError, UnsupportedModule
from tests.mha.support.language_models import IDS, UNEVEN, build, logits

peft = pytest.importorskip("peft", reason="peft is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft reads it

LAYERS = [f"model.layers.{number}.self_attn" for number in range(3)]
PLAN = HeadPlan({LAYERS[0]: (1, 2, 3, 5), LAYERS[1]: ()})
ATTENTION, REST = ["q_proj", "k_proj", "v_proj", "o_proj"], ["up_proj", "down_proj"]
PREFIX = "base_model.model."


@pytest.fixture
def dense():
    return build("llama", **UNEVEN)


def adapted(model, modules):
    """The model under adapters that say something: their weights are drawn, none is zero."""
    lora = peft.LoraConfig(r=3, lora_alpha=5, target_modules=modules, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora).eval()
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("modules", [ATTENTION, "all-linear"], ids=["attention", "all linears"])
def test_after_pruning_they_are_trained_saved_and_merged(dense, modules, tmp_path):
    pruned = mha.prune(dense, PLAN)
    before = logits(pruned)
    mha.save_pruned(pruned, tmp_path / "smaller")
    model = adapted(mha.from_pretrained(tmp_path / "smaller"), modules)
    assert not any(f"{LAYERS[1]}." in name for name, _ in model.named_parameters())  # there is nothing to adapt
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=0.01)
    losses = []
    for _ in range(4):
        losses.append(model(input_ids=IDS, labels=IDS).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    after = logits(model)
    assert (after - before).abs().max() > 0.1
    model.save_pretrained(tmp_path / "adapter")
    over = peft.PeftModel.from_pretrained(mha.from_pretrained(tmp_path / "smaller"), tmp_path / "adapter")
    torch.testing.assert_close(logits(over), after, rtol=0, atol=1e-6)  # peft saves what it trains as it is
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), after, rtol=0, atol=1e-12)
    mha.save_pruned(merged, tmp_path / "merged")
    loaded = mha.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(loaded), logits(merged))
    assert mha.plan_of(loaded) == PLAN
    further = HeadPlan({LAYERS[0]: (2, 5)})
    assert mha.check(loaded, further, (IDS,)) < 1e-12


def test_before_pruning_they_are_merged(dense):
    """The merged model, pruned, computes what the adapted one computes without the contexts of the lost heads."""
    model = adapted(dense, ATTENTION)
    with pytest.raises(UnsupportedModule, match=r"0.self_attn': q_proj is a peft.*adapted\?\); merge it or"):
        mha.prune(model, HeadPlan({f"{PREFIX}{LAYERS[0]}": (1, 2, 3, 5)}))
    merged = copy.deepcopy(model).merge_and_unload()
    pruned = mha.prune(merged, PLAN)
    for name, heads in PLAN.items():
        output = model.get_submodule(f"{PREFIX}{name}.o_proj")
        lost = [head for head in range(6) if head not in heads]
        output.register_forward_pre_hook(without(lost))
    torch.testing.assert_close(logits(pruned), logits(model), rtol=0, atol=1e-12)


def without(lost):
    """A hook that sets to zero what an output projection reads of these heads, adapter and all."""

    def hook(_, arguments):
        context = arguments[0].unflatten(-1, (6, 14)).clone()
        context[..., lost, :] = 0
        return (context.flatten(-2),)

    return hook


def test_adapters_outside_of_attention_stay(dense, tmp_path):
    model = adapted(dense, REST)
    plan = HeadPlan({f"{PREFIX}{name}": heads for name, heads in PLAN.items()})
    pruned = mha.prune(model, plan)
    expected = logits(mha.prune(copy.deepcopy(model).merge_and_unload(), PLAN))
    torch.testing.assert_close(logits(pruned), expected, rtol=0, atol=1e-12)
    mha.save_pruned(pruned, tmp_path)
    assert torch.equal(logits(mha.load_pruned(tmp_path, model)), logits(pruned))
    merged = pruned.merge_and_unload()
    assert mha.plan_of(merged) == PLAN
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-12)


def test_over_pruned_layers_they_are_known_and_not_saved(dense, tmp_path):
    model = adapted(mha.prune(dense, PLAN), ATTENTION)
    assert mha.plan_of(model.get_base_model()) == PLAN
    listed = mha.find_attention(model)
    assert [name.removeprefix(PREFIX) for name in listed] == [LAYERS[1]]
    assert [name.removeprefix(PREFIX) for name in listed.unsupported] == [LAYERS[0], LAYERS[2]]
    for call in (mha.prune, mha.check):
        with pytest.raises(UnsupportedModule, match=r"0.self_attn': q_proj is a peft.*; merge it or turn it back"):
            call(model, HeadPlan({f"{PREFIX}{LAYERS[0]}": (1, 5)}), *([(IDS,)] if call is mha.check else []))
    with pytest.raises(CheckpointError, match=r"0.self_attn' was pruned and then changed.*\(peft: merge_and"):
        mha.save_pruned(model, tmp_path / "smaller")
    assert not (tmp_path / "smaller").exists()
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"it holds an adapter, which goes over the model that it was trained on"):
        mha.from_pretrained(tmp_path / "adapter")
