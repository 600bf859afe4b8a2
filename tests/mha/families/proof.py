"""What has to hold for a module of any library: sliced is masked, whatever plan, and nothing else has changed."""

import copy
import importlib.util
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import mha
from mha import HeadPlan
from mha.pruning import cut
from mha.pruning.equivalence import tensors_in
from mha.pruning.resolve import kept_entries

LIKE = Path(__file__).parent / "like"


def drawn(model: nn.Module) -> nn.Module:
    """The model in float64 and eval mode, every parameter and statistic drawn, so that each of them matters."""
    draw = torch.Generator().manual_seed(4)
    model = model.double().eval()
    for parameter in model.parameters():
        around = 1.0 if parameter.dim() == 1 else 0.0
        parameter.data = around + 0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=draw, dtype=torch.float64) + 0.5)
    return model


def plans(layers: mha.families.AttentionMap) -> list[HeadPlan]:
    """Three plans: random heads of random groups, different in each layer; heads of one group; no head."""
    chance = random.Random(7)

    def some(layer: mha.families.AttentionLayer, groups: int) -> list[int]:
        per_group = layer.num_heads // layer.num_kv_heads
        each = chance.randint(1, per_group)
        kept = chance.sample(range(layer.num_kv_heads), groups)
        return [group * per_group + head for group in kept for head in chance.sample(range(per_group), each)]

    mixed = {name: some(layer, chance.randint(1, layer.num_kv_heads - 1)) for name, layer in layers.items()}
    one = {name: some(layer, 1) for name, layer in layers.items()}
    return [HeadPlan(mixed), HeadPlan(one), HeadPlan(dict.fromkeys(layers, ()))]


def prove(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, *, directory: Path
) -> dict[str, mha.families.AttentionLayer]:
    """Check that all of this holds of the model, and that the check can fail; returns the layers that were found."""
    model, given = drawn(model), dict(kwargs or {})
    layers = mha.find_attention(model)
    assert layers
    assert layers.unsupported == {}
    dense, before = outputs(model, args, given), copy.deepcopy(model.state_dict())
    with mha.masked(model, HeadPlan({name: layer.heads for name, layer in layers.items()})):
        close(outputs(model, args, given), dense)  # a class of its own computes what the library's does
    for place, plan in enumerate(plans(layers)):
        assert mha.check(model, plan, args, given, atol=1e-9) < 1e-9
        smaller = mha.prune(model, plan)
        expected = outputs(smaller, args, given)
        assert mha.plan_of(smaller) == plan
        close(outputs(copy.deepcopy(smaller), args, given), expected)
        mha.save_pruned(smaller, directory / str(place))
        close(outputs(mha.load_pruned(directory / str(place), model), args, given), expected)
        half = HeadPlan(
            {
                name: sorted({*heads, *layers[name].heads[: len(layers[name].heads) // 2]})
                for name, heads in plan.keep.items()
            }
        )
        if all(layer.num_heads == layer.num_kv_heads for layer in layers.values()):
            assert mha.check(mha.prune(model, half), plan, args, given, atol=1e-9) < 1e-9
            close(outputs(mha.prune(mha.prune(model, half), plan), args, given), expected)
        if all(plan.keep.values()):
            assert parameters(smaller) == parameters(model) - lost(model, plan)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    _can_fail(model, layers, args, given)
    return dict(layers)


def outputs(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return tensors_in(model(*args, **kwargs))


def close(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-9, rtol=0)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def lost(model: nn.Module, plan: HeadPlan) -> int:
    """How many parameters the plan takes away, counted from the indices that stay."""
    total, held = 0, dict(model.named_parameters())
    for name, kept in kept_entries(model, plan).items():
        if name in held:  # and not a buffer
            sizes = [len(kept[dim]) if dim in kept else size for dim, size in enumerate(held[name].shape)]
            total += held[name].numel() - torch.Size(sizes).numel()
    return total


def _can_fail(model: nn.Module, layers: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    honest = cut.kept_indices
    name, layer = next((name, layer) for name, layer in layers.items() if layer.num_kv_heads > 1)
    last = layer.heads[-layer.num_heads // layer.num_kv_heads :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            cut,
            "kept_indices",
            lambda axis, sizes, heads, groups: honest(axis, sizes, range(len(heads)), range(len(groups))),
        )
        with pytest.raises(mha.EquivalenceError, match="sliced differs from masked"):
            mha.check(model, HeadPlan({name: last}), args, kwargs, atol=1e-9)


def load_as(name: str, path: Path) -> ModuleType:
    """Import a file as if it were a library's module of that name, which is not installed."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_like(patch: pytest.MonkeyPatch, file: str, name: str) -> ModuleType:
    """Load a file of `like` as a module of a library that is not installed, for as long as the patch holds."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        package = ".".join(parts[:depth])  # pickle imports these too
        patch.setitem(sys.modules, package, sys.modules.get(package) or ModuleType(package))
    patch.setitem(sys.modules, name, ModuleType(name))  # what is there is put back at the end
    return load_as(name, LIKE / file)
