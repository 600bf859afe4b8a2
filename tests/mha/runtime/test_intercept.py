"""Forwards that stand in instances: accelerate's hooks stay on, others are refused where they would hide another.

And classes that are made while the program runs: whatever their family, models of them can be pickled and copied.
"""

import ast
import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mha
from mha import HeadPlan
from mha.runtime.generated_classes import RECIPE
from mha.runtime.intercept import become, becoming, intercepted
from mha.runtime.undoing import hooked
from tests.mha.families.like.older_llama import Older
from tests.mha.families.proof import load_like
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


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_class_for_a_time_and_for_good():
    linear, x = nn.Linear(3, 5), torch.randn(2, 3)
    expected = linear(x)
    with becoming(linear, Doubled):
        assert torch.equal(linear(x), 2 * expected)
    assert type(linear) is nn.Linear
    assert torch.equal(linear(x), expected)
    become(linear, Doubled)
    assert torch.equal(linear(x), 2 * expected)


def test_calls_that_are_intercepted_are_left_to_the_handler():
    own = lambda x: x + 7  # noqa: E731
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(2, 3)
    model[1].forward = own
    expected, calls = model(x), []

    def handle(call: functools.partial, run: Callable[[], Any]) -> Any:
        calls.append((call.func, call.args, call.keywords))
        return run()

    with intercepted(model, handle):
        assert torch.equal(model(input=x), expected)
    assert [module for module, *_ in calls] == list(model)
    assert torch.equal(calls[0][1][0], x)
    with intercepted(model, lambda call, _: call.args[0]):  # nothing is run
        assert model(x) is x
    assert "forward" not in vars(model[0])
    assert model[1].forward is own


def test_an_intercepted_module_may_change_its_class_meanwhile():
    linear, x = nn.Linear(3, 5), torch.randn(2, 3)
    expected = linear(x)
    with intercepted([linear], lambda _, run: run() + 1):
        assert mha.runtime.intercept.why_stuck(linear, "") is None
        with becoming(linear, Doubled):
            assert torch.equal(linear(x), 2 * expected + 1)
    assert torch.equal(linear(x), expected)


def test_a_hook_cannot_keep_a_forward_from_running():
    """Why calls are intercepted at all: a forward hook replaces the output only once it has been computed."""
    ran = []
    module = patch(nn.Linear(3, 5), lambda output: ran.append("forward") or output)
    with hooked(module, lambda *_: 0.0):
        assert module(torch.randn(2, 3)) == 0.0
    assert ran == ["forward"]


@pytest.fixture
def like(monkeypatch):
    """Loads a file of `like` as a module of a library that is not installed, for as long as the test runs."""
    return functools.partial(load_like, monkeypatch)


def stand_in(file: str, name: str, kind: str, *sizes: Any, **options: int) -> Callable[[Any], nn.Module]:
    return lambda like: getattr(like(file, name), kind)(*sizes, **options)


def of_diffusers(like) -> nn.Module:
    library = like("diffusers.py", "diffusers.models.attention_processor")
    return library.Attention(15, 5, library.Processor())


def of_the_zoo(name: str) -> Callable[[Any], nn.Module]:
    return lambda _: other_case(name).model


MAXVIT = "torchvision.py", "torchvision.models.maxvit"
SWIN = "torchvision.py", "torchvision.models.swin_transformer"
TIMM = "timm.py", "timm.models.levit"
CONVENTIONS = {
    "masks per head, an alias of the output": of_the_zoo("bert"),
    "no heads, a slot of the cache": of_the_zoo("llama"),
    "features selected": of_the_zoo("olmo2"),
    "any width": of_the_zoo("pvt_v2"),
    "a bias that layers share": of_the_zoo("t5"),
    "a bias that is gated": lambda _: other_case("wavlm").model.encoder.layers,  # another part can't be pickled
    "keys that layers share": of_the_zoo("gemma3n_text"),
    "the cache is returned": lambda _: Older(36, 6, 3),
    "torchvision": stand_in(*MAXVIT, "RelativePositionalMultiHeadAttention", 15, 3, 7),
    "torchvision, a helper": stand_in(*SWIN, "ShiftedWindowAttention", 15, [2, 3], 5),
    "diffusers": of_diffusers,
    "LeViT": stand_in(*TIMM, "LevitAttention", 13, 2, 3, 5, tokens=7),
    "a class token": stand_in(*TIMM, "ClassAttn", 15, 5),
}


def pruned_in(model: nn.Module) -> Iterator[nn.Module]:
    """The model with some heads, and with none, in each layer."""
    layers = mha.find_attention(model)
    assert layers
    for count in (1, 0):
        keep = {name: layer.heads[: count * layer.num_heads // layer.num_kv_heads] for name, layer in layers.items()}
        yield mha.prune(model, HeadPlan(keep))


def generated(model: nn.Module) -> set[type]:
    return {kind for module in model.modules() for kind in type(module).__mro__ if RECIPE in vars(kind)}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_models_of_every_convention_can_be_pickled_and_copied(like, name):
    for pruned in pruned_in(CONVENTIONS[name](like)):
        classes = [type(module) for module in pruned.modules()]
        for again in (copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned))):
            assert [type(module) for module in again.modules()] == classes
            assert again.state_dict().keys() == pruned.state_dict().keys()
            assert all(torch.equal(tensor, pruned.state_dict()[key]) for key, tensor in again.state_dict().items())
            assert mha.plan_of(again) == mha.plan_of(pruned)
        for kind in generated(pruned):
            assert copy.deepcopy(kind) is pickle.loads(pickle.dumps(kind)) is kind


def test_every_function_that_makes_classes_is_among_the_conventions(like):
    root = Path(mha.__file__).parent
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in root.rglob("*.py")]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    makers = {
        function.name
        for function in functions
        if any(ast.unparse(decorator) == "making_class" for decorator in function.decorator_list)
    }
    models = (pruned for make_model in CONVENTIONS.values() for pruned in pruned_in(make_model(like)))
    used = {vars(kind)[RECIPE][0].__name__ for model in models for kind in generated(model)}
    assert used | {"losing_heads"} == makers  # of that, below, no module stays an instance


def test_a_class_that_loses_its_heads_as_it_is_made_can_be_pickled():
    from transformers import LlamaModel

    from mha.pruning.checkpoint.pretrained_directory import losing_heads

    kind = losing_heads(LlamaModel, HeadPlan({"layers.0.self_attn": (0,)}))
    assert pickle.loads(pickle.dumps(kind)) is copy.deepcopy(kind) is kind
    assert (kind.__name__, kind.__module__) == (LlamaModel.__name__, LlamaModel.__module__)
