"""What can't be pruned, in every kind of family: refused by name, and nothing is half-pruned."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import mha
from mha import HeadPlan
from mha.pruning import indices
from mha.pruning.equivalence import tensors_in
from mha.values.errors import PlanError
from tests.mha.support.cases import CASES, Case, make

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning"),
]


@pytest.fixture(scope="module")
def made() -> dict[str, Case]:
    return {}


@pytest.fixture(params=CASES)
def case(request, made) -> Case:
    if request.param not in made:
        made[request.param] = make(request.param)
    return copy.deepcopy(made[request.param])


@contextmanager
def refused(model: nn.Module, message: str, error: type[Exception] = mha.MhaError) -> Iterator[None]:
    """The block raises, and leaves every tensor, class and attribute of the model as it was."""
    before = snapshot(model)
    with pytest.raises(error, match=message):
        yield
    assert snapshot(model) == before


def snapshot(model: nn.Module) -> dict[str, object]:
    plain = int | float | str | bool | None
    found: dict[str, object] = {}
    for name, module in model.named_modules():
        found[name] = type(module)
        found |= {f"{name}.{key}": value for key, value in vars(module).items() if isinstance(value, plain)}
        held = {**module._parameters, **module._buffers}
        found |= {f"{name}.{key}": (id(value), getattr(value, "_version", 0)) for key, value in held.items()}
    return found


def test_the_cases_are_pruned_as_they_are(case):
    assert mha.check(case.model, case.plan, (), case.inputs, atol=1e-5) < 1e-5


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ((6,), r"heads \[6\] do not exist; it was made with 6 heads"),
        ((0, 99), r"heads \[99\] do not exist"),
    ],
)
def test_heads_that_are_not_there(case, keep, message):
    first, second = case.layers
    with refused(case.model, rf"layer '{second}': {message}", PlanError):
        mha.prune(case.model, HeadPlan({first: (0,), second: keep}), inplace=True)


def test_layers_that_are_not_there(case):
    first, second = case.layers
    wrong = second.replace("layer", "lyer").replace("h.", "hh.")
    with refused(case.model, rf"layer '{wrong}' is not in the model; did you mean '", PlanError):
        mha.prune(case.model, HeadPlan({first: (0,), wrong: (0,)}), inplace=True)


def test_heads_that_were_pruned_before(case):
    first, second = case.layers
    pruned = mha.prune(case.model, case.plan)
    with refused(pruned, rf"layer '{second}': heads \[0\] have been pruned before; still present are \[3, 4\]"):
        mha.prune(pruned, HeadPlan({first: (3,), second: (0, 3)}), inplace=True)


def test_modules_that_are_no_attention(case):
    with refused(case.model, rf"layer '{case.layers[1]}.{case.output}' is a .*, which is of no known attention family"):
        mha.prune(case.model, HeadPlan({f"{case.layers[1]}.{case.output}": (0,)}), inplace=True)


def test_a_plan_must_be_a_plan(case):
    with refused(case.model, r"expected a HeadPlan, got dict; wrap it", PlanError):
        mha.prune(case.model, dict(case.plan.keep), inplace=True)


@pytest.mark.parametrize("name", ["ours", "llama"])
def test_groups_left_unequal(name):
    case = make(name)
    with refused(case.model, r"must keep the same number of query heads, got group 0: \[0, 1\], group 1: \[3\]"):
        mha.prune(case.model, HeadPlan({case.layers[0]: (0,), case.layers[1]: (0, 1, 3)}), inplace=True)


def test_weights_cut_by_hand(case):
    owner = case.part(case.query, 1)
    name, dim = ("weight", 1 if type(owner).__name__ == "Conv1D" else 0) if case.query else ("in_proj_weight", 0)
    weight = owner.get_parameter(name).detach()
    setattr(owner, name, nn.Parameter(weight.narrow(dim, 0, weight.shape[dim] - 1)))
    with refused(case.model, rf"layer '{case.layers[1]}': .*\d"):  # each says which sizes
        mha.prune(case.model, case.plan, inplace=True)


def test_counts_changed_by_hand(case):
    owner, _, attribute = case.count.rpartition(".")
    holder = case.part(owner, 1)
    setattr(holder, attribute, getattr(holder, attribute) - 1)
    with refused(case.model, rf"layer '{case.layers[1]}': .*\d"):
        mha.prune(case.model, case.plan, inplace=True)


def test_tied_weights(case):
    name = "weight" if case.query else "in_proj_weight"
    setattr(case.part(case.query, 1), name, case.part(case.query, 0).get_parameter(name))
    tied = ".".join(filter(None, [case.query, name]))
    first, second = case.layers
    with refused(case.model, rf"layers '{first}' and '{second}' share {tied}, and it can't keep heads"):
        mha.prune(case.model, HeadPlan({first: (3, 4)}), inplace=True)
    assert mha.check(case.model, case.plan, (), case.inputs) < 1e-10


class Scaled(Tensor):
    """A tensor that is more than its numbers, as quantised and sharded ones are."""

    def detach(self) -> "Scaled":
        return super().detach().as_subclass(Scaled)


def test_a_weight_of_another_kind_of_tensor(case):
    linear = case.part(case.output, 1)
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Scaled))
    message = rf"'{case.layers[1]}': {case.output}.weight is no plain .*Scaled"
    with refused(case.model, message, mha.UnsupportedModule):
        mha.prune(case.model, case.plan, inplace=True)


def test_a_sharded_weight(case, tmp_path):
    distributed = pytest.importorskip("torch.distributed", reason="torch was built without it")
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        linear = case.part(case.output, 1)
        linear.weight = nn.Parameter(distribute_tensor(linear.weight.detach(), mesh, [Shard(0)]))
        assert isinstance(linear.weight, DTensor)
        with refused(case.model, rf"'{case.layers[1]}': {case.output}.weight is no plain .*DTensor"):
            mha.prune(case.model, case.plan, inplace=True)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("place", ["query", "output"])
def test_a_quantised_linear(case, place):
    from torch.ao.nn.quantized.dynamic import Linear

    name = getattr(case, place)
    if name in ("", "c_attn", "c_proj"):
        pytest.skip("not a linear of its own, or transformers' Conv1D, which has no quantised form")
    plain = case.part(name)
    case.replace(name, Linear(plain.in_features, plain.out_features))
    message = rf"'{case.layers[0]}': .*{name} is a .*Linear"
    with refused(case.model, message, mha.UnsupportedModule):
        mha.prune(case.model, case.plan, inplace=True)
    untouched = HeadPlan({case.layers[1]: (3, 4)})
    assert mha.plan_of(mha.prune(case.model, untouched)) == untouched


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch moves its quantisation elsewhere
def test_a_layer_of_ours_that_is_quantised_has_no_scores():
    layer = torch.ao.quantization.quantize_dynamic(mha.MultiHeadAttention.square(8, 2).eval(), {nn.Linear})
    with pytest.raises(
        mha.UnsupportedModule, match=r"dynamic\S*Linear has no dense weight \(quantised\?\); score, prune"
    ):
        mha.score(layer, None, None, "magnitude")


class Adapted(nn.Module):
    """A linear with a low-rank matrix beside it (Hu et al. 2021)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(2, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, 2))
        self.in_features, self.out_features = linear.in_features, linear.out_features

    @property
    def weight(self) -> Tensor:
        return self.linear.weight + self.up @ self.down

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x @ self.down.T @ self.up.T


@pytest.mark.parametrize("place", ["query", "output"])
def test_an_adapted_linear(case, place):
    name = getattr(case, place)
    if name in ("", "c_attn", "c_proj"):
        pytest.skip("not a linear of its own")
    case.replace(name, Adapted(case.part(name)))
    with refused(case.model, rf"'{case.layers[0]}': .*{name} is a .*Adapted", mha.UnsupportedModule):
        mha.prune(case.model, case.plan, inplace=True)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


PARAMETRIZATIONS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "own": lambda module: parametrize.register_parametrization(module, "weight", Doubled()),
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS.values(), ids=PARAMETRIZATIONS)
def test_a_parametrized_projection(case, parametrization):
    linear = case.part(case.output, 1)
    parametrization(linear)
    with refused(case.model, rf"'{case.layers[1]}': {case.output}", mha.UnsupportedModule):
        mha.prune(case.model, case.plan, inplace=True)


def test_a_parametrized_packed_weight():
    case = make("torch")
    nn.utils.weight_norm(case.part("", 1), "in_proj_weight")  # its class stays: only the parameter is gone
    with refused(case.model, r"'layers.1': in_proj_weight is no plain dense parameter", mha.UnsupportedModule):
        mha.prune(case.model, case.plan, inplace=True)
    case = make("torch")
    parametrize.register_parametrization(case.part("", 1), "in_proj_weight", Doubled())
    with refused(case.model, r"'layers.1': ParametrizedMultiheadAttention is of no known family"):
        mha.prune(case.model, case.plan, inplace=True)


def test_a_parametrization_that_was_removed_is_no_hindrance(case):
    linear = case.part(case.output, 1)
    parametrize.register_parametrization(linear, "weight", Doubled())
    parametrize.remove_parametrizations(linear, "weight")
    assert mha.check(case.model, case.plan, (), case.inputs, atol=1e-5) < 1e-5


@pytest.mark.parametrize("call", [1, 5])
def test_memory_that_runs_out_leaves_the_model_whole(case, monkeypatch, call):
    """The fifth weight is the second layer's, or nearly: by then the first one's are sliced."""
    honest, calls = indices.take, []

    def take(*args):
        calls.append(args)
        if len(calls) == call:
            raise torch.OutOfMemoryError("out of memory")
        return honest(*args)

    monkeypatch.setattr(indices, "take", take)
    with refused(case.model, "out of memory", torch.OutOfMemoryError):
        mha.prune(case.model, case.plan, inplace=True)
    assert mha.plan_of(case.model) == HeadPlan({})


def test_a_model_that_can_not_be_copied():
    case = make("ours")
    case.model.remembered = case.model(case.inputs["x"])  # part of a graph
    with refused(case.model, r"the Ours can't be copied \(Only Tensors created explicitly.*inplace=True"):
        mha.prune(case.model, case.plan)
    assert mha.plan_of(mha.prune(case.model, case.plan, inplace=True)) == case.plan


def test_without_data_shapes_are_right_and_check_says_what_it_needs(case):
    pruned = mha.prune(case.model, case.plan)
    case.model.to("meta")
    empty = mha.prune(case.model, case.plan)
    shapes = {name: parameter.shape for name, parameter in pruned.named_parameters()}
    assert {name: parameter.shape for name, parameter in empty.named_parameters()} == shapes
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert mha.plan_of(empty) == case.plan
    with pytest.raises(mha.MhaError, match=r"check compares outputs, and .* is on the meta device, without data"):
        mha.check(case.model, case.plan, (), case.inputs)


def test_hooks_go_with_what_they_are_on(case):
    called = []

    def note(name, *_):
        called.append(name)

    attention, output = case.part("", 0), case.part(case.output, 0)
    attention.register_forward_pre_hook(partial(note, "into attention"))
    attention.register_forward_hook(partial(note, "out of attention"))
    output.register_forward_pre_hook(partial(note, "into output"))
    output.register_forward_hook(partial(note, "out of output"))
    pruned = mha.prune(case.model, case.plan)
    with torch.no_grad():
        pruned(**case.inputs)
    assert called == ["into attention", "into output", "out of output", "out of attention"]


def test_a_hook_that_changes_things_still_does(case):
    case.part(case.output, 1).register_forward_hook(lambda _module, _args, output: output * 3)
    assert mha.check(case.model, case.plan, (), case.inputs, atol=1e-5) < 1e-5
    plain = mha.prune(case.model, case.plan)
    plain.get_submodule(f"{case.layers[1]}.{case.output}")._forward_hooks.clear()
    with torch.no_grad():
        first, *_ = tensors_in(mha.prune(case.model, case.plan)(**case.inputs)).values()
        other, *_ = tensors_in(plain(**case.inputs)).values()
    assert (first - other).abs().max() > 1e-3


@pytest.fixture
def forget_compiled() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("forget_compiled")
def test_a_compiled_model_has_the_names_of_the_original(case):
    compiled = torch.compile(case.model, backend="eager")
    assert list(mha.find_attention(compiled)) == list(mha.find_attention(case.model))
    with pytest.raises(mha.MhaError, match=r"'_orig_mod.x' is not in the model"):
        mha.prune(compiled, HeadPlan({"_orig_mod.x": (0,)}))
    pruned = mha.prune(compiled, case.plan)
    assert type(pruned) is type(case.model)
    assert mha.plan_of(pruned) == case.plan
    assert mha.plan_of(compiled) == HeadPlan({})


def outputs(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return list(tensors_in(model(**inputs)).values())


def scored(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """By outputs, by gradients and by attention weights."""
    found = [
        mha.score(model, [inputs], lambda model, batch: model(**batch).square().mean(), criterion)
        for criterion in ("leave_one_out", "taylor", "confidence")
    ]
    return [row for scores in found for row in scores.scores.values()]


@pytest.mark.usefixtures("forget_compiled")
@pytest.mark.parametrize(("name", "how"), [("ours", "wrapped"), ("torch", "in place"), ("ours", "a layer")])
def test_masks_hold_for_what_is_compiled(name, how):
    """Compiled code does not look for new hooks: it would go on computing all heads."""
    case = make(name)
    model, plan = case.model, case.plan
    with mha.masked(model, plan):
        expected = outputs(model, case.inputs)
    dense, scores = outputs(model, case.inputs), scored(model, case.inputs)
    if how == "wrapped":
        model = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    else:
        model.layers[1] = torch.compile(model.layers[1], backend="eager")
        plan = HeadPlan({"layers.0": (3, 4), "layers.1._orig_mod": (3, 4)})
    outputs(model, case.inputs)
    with mha.masked(model, plan):
        torch.testing.assert_close(outputs(model, case.inputs), expected)
    torch.testing.assert_close(outputs(model, case.inputs), dense)
    assert mha.check(model, plan, (), case.inputs, atol=1e-9) < 1e-9
    assert all(map(torch.equal, scored(model, case.inputs), scores))


@pytest.mark.usefixtures("forget_compiled")
@pytest.mark.parametrize("name", ["ours", "torch", "llama"])
def test_pruned_in_place_what_is_compiled_is_compiled_anew(name):
    case = make(name)
    compiled = torch.compile(case.model, backend="eager")
    expected = outputs(mha.prune(case.model, case.plan), case.inputs)
    outputs(compiled, case.inputs)
    assert mha.prune(compiled, case.plan, inplace=True) is compiled
    torch.testing.assert_close(outputs(compiled, case.inputs), expected, rtol=0, atol=1e-6)
    assert mha.plan_of(case.model) == case.plan
