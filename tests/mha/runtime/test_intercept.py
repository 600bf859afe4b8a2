"""Forwards that stand in instances: accelerate's hooks stay on, others are refused where they would hide another."""

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mha
from mha import HeadPlan
from tests.mha.support.cases import make


class Recorded:
    """A hook as accelerate has them."""

    no_grad = False

    def __init__(self) -> None:
        self.calls = 0

    def pre_forward(self, _module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.calls += 1
        return args, kwargs

    def post_forward(self, _module: nn.Module, output: Any) -> Any:
        return output


def dispatch(module: nn.Module) -> nn.Module:
    """What accelerate.hooks.add_hook_to_module does, which also every dispatched module has been through."""
    forward = module.forward
    module._old_forward = forward
    module._hf_hook = Recorded()

    def new_forward(module: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = module._hf_hook.pre_forward(module, *args, **kwargs)
        return module._hf_hook.post_forward(module, module._old_forward(*args, **kwargs))

    module.forward = functools.update_wrapper(functools.partial(new_forward, module), forward)
    return module


def patch(module: nn.Module, change: Callable[[Any], Any] = lambda output: output) -> nn.Module:
    forward = module.forward
    module.forward = lambda *args, **kwargs: change(forward(*args, **kwargs))
    return module


def everywhere(model: nn.Module, put: Callable[[nn.Module], nn.Module]) -> nn.Module:
    for module in list(model.modules()):
        if type(module).forward is not nn.Module.forward:
            put(module)
    return model


def other_case(name: str):
    from tools.model_zoo.zoo import build

    return build(name)


FAMILIES = ["t5", "olmo2", "gpt2", "wavlm", "bert", "llama", "opt"]


def plan_for(model: nn.Module, keep: tuple[int, ...]) -> HeadPlan:
    layers = mha.find_attention(model)
    return HeadPlan({name: keep for name, layer in layers.items() if not keep or layer.num_heads > max(keep)})


@pytest.mark.parametrize("keep", [(0,), ()])
@pytest.mark.parametrize("name", FAMILIES)
def test_hooks_of_accelerate_stay_on(name, keep):
    made = other_case(name)
    plan = plan_for(made.model, keep)
    with torch.no_grad():
        expected = mha.pruning.equivalence.tensors_in(mha.prune(made.model, plan)(**made.inputs))
    everywhere(made.model, dispatch)
    assert mha.check(made.model, plan, (), made.inputs) < 1e-9
    for inplace in (False, True):
        pruned = mha.prune(made.model, plan, inplace=inplace)
        for module in pruned.modules():
            if hasattr(module, "_hf_hook"):
                module._hf_hook.calls = 0
        with torch.no_grad():
            found = mha.pruning.equivalence.tensors_in(pruned(**made.inputs))
        torch.testing.assert_close(found, expected)
        hooks = [pruned.get_submodule(layer)._hf_hook for layer in plan.keep]
        assert all(hook.calls for hook in hooks)
    assert mha.plan_of(made.model) == plan


KEEP_THEIR_FORWARD = ("ours", "llama", "gpt2", "bert")  # as long as they have heads, and masks are not per head


@pytest.mark.parametrize("name", KEEP_THEIR_FORWARD)
def test_a_forward_around_the_classs_own_stays_on_in_place(name):
    case = make(name)
    expected = mha.prune(case.model, case.plan)
    for layer in mha.find_attention(case.model).values():
        patch(layer.core)
    with pytest.raises(mha.MhaError, match=r"\) has had its forward replaced by 'patch.* in a copy would go on"):
        mha.prune(case.model, case.plan)  # the closure holds the original's method
    mha.prune(case.model, case.plan, inplace=True)
    with torch.no_grad():
        found, wanted = (mha.pruning.equivalence.tensors_in(model(**case.inputs)) for model in (case.model, expected))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", KEEP_THEIR_FORWARD)
def test_methods_that_stand_in_the_instance_are_copied_with_it(name):
    case = make(name)
    for layer in mha.find_attention(case.model).values():
        layer.core.forward = MethodType(functools.partial(type(layer.core).forward), layer.core)
    assert mha.check(case.model, case.plan, (), case.inputs) < 1e-10


def test_a_forward_that_would_hide_the_new_one_is_refused():
    case = make("torch")
    for layer in mha.find_attention(case.model).values():
        patch(layer.core)
    message = rf"layer '{case.layers[0]}': .* has had its forward replaced by 'patch.<locals>.<lambda>', which would"
    for inplace in (False, True):
        with pytest.raises(mha.UnsupportedModule, match=message):
            mha.prune(case.model, case.plan, inplace=inplace)
    with pytest.raises(mha.UnsupportedModule, match=message), mha.masked(case.model, case.plan):
        pass
    for layer in mha.find_attention(case.model).values():
        del layer.core.forward
    assert mha.check(case.model, case.plan, (), case.inputs) < 1e-10


@pytest.mark.parametrize("name", ["t5", "olmo2"])
def test_families_with_a_forward_of_their_own_are_refused_alike(name):
    made = other_case(name)
    everywhere(made.model, patch)
    before = dict(made.model.named_parameters())
    with pytest.raises(mha.UnsupportedModule, match=r"has had its forward replaced by .* take it off \(del module.for"):
        mha.prune(made.model, plan_for(made.model, (0,)), inplace=True)
    assert all(parameter is before[name] for name, parameter in made.model.named_parameters())


def test_scores_of_a_dispatched_model_are_those_of_the_model():
    case = make("torch")

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean()

    criteria = ("leave_one_out", "taylor")
    expected = [mha.score(case.model, [case.inputs["x"]], loss, criterion) for criterion in criteria]
    everywhere(case.model, dispatch)
    for criterion, scores in zip(criteria, expected, strict=True):
        found = mha.score(case.model, [case.inputs["x"]], loss, criterion)
        for layer, values in scores.scores.items():
            torch.testing.assert_close(found.scores[layer], values)
            assert values.abs().max() > 0
    assert all(isinstance(module._old_forward, MethodType) for module in case.model.layers)


def test_offloaded_weights_are_refused():
    case = make("llama")
    everywhere(case.model, dispatch)
    case.part(case.query, 1).to("meta")
    with pytest.raises(
        mha.UnsupportedModule, match=rf"layer '{case.layers[1]}': {case.query}.weight is offloaded by acc"
    ):
        mha.prune(case.model, case.plan)
