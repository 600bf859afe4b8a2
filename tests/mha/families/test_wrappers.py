"""Models that are compiled, replicated, sharded or scripted: pruned as what they wrap, or refused by name."""

import copy
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import mha
from mha import HeadPlan
from tests.mha.families.ranks import PLAN, Alone, stack
from tests.mha.support.language_models import UNEVEN, build, logits, uneven

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this build of torch has no gloo")


@pytest.fixture
def one_rank(tmp_path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def model() -> Alone:
    torch.manual_seed(2)
    return Alone().double().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 11, 13, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class DeepSpeedEngine(nn.Module):
    """What matters of DeepSpeed's engine: it holds the model, and its optimizer the model's parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


DeepSpeedEngine.__module__ = "deepspeed.runtime.engine"
WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "both": lambda model: torch.compile(nn.parallel.DistributedDataParallel(model), backend="eager"),
    "DeepSpeed": DeepSpeedEngine,
}


@pytest.fixture(params=WRAPPERS)
def wrapped(request, model) -> Iterator[nn.Module]:
    if request.param in ("DistributedDataParallel", "both"):
        request.getfixturevalue("one_rank")
    yield WRAPPERS[request.param](model)
    torch._dynamo.reset()


def test_what_is_wrapped_is_pruned(wrapped, model, x, tmp_path):
    expected = mha.prune(model, PLAN)
    assert list(mha.find_attention(wrapped)) == ["attention"]
    assert mha.check(wrapped, PLAN, (x,)) < 1e-12
    pruned = mha.prune(wrapped, PLAN)
    assert type(pruned) is Alone
    assert pruned.state_dict().keys() == expected.state_dict().keys()
    assert torch.equal(pruned(x), expected(x))
    assert mha.plan_of(wrapped) == HeadPlan({})
    mha.save_pruned(pruned, tmp_path / "pruned")
    assert torch.equal(mha.load_pruned(tmp_path / "pruned", wrapped)(x), expected(x))


def test_scores_and_repair_go_through_the_wrapper(wrapped, model, x):
    def loss(model, batch):
        return model(batch).square().mean()

    for criterion in ("leave_one_out", "taylor", "magnitude"):
        scores = [mha.score(one, [x], loss, criterion).scores["attention"] for one in (wrapped, model)]
        torch.testing.assert_close(*scores)
    repaired = [
        mha.compensate(mha.prune(one, PLAN), one, [x], lambda model, batch: model(batch))(x) for one in (wrapped, model)
    ]
    torch.testing.assert_close(*repaired)


def test_names_of_what_is_wrapped(wrapped):
    with pytest.raises(mha.MhaError, match=r"'module.attention' is not in the model; did you mean 'attention'\?"):
        mha.prune(wrapped, HeadPlan({"module.attention": (0,)}))


@pytest.mark.parametrize("name", WRAPPERS)
def test_in_place_where_nothing_holds_the_parameters(name, model, x, request):
    request.getfixturevalue("one_rank")
    wrapped, expected = WRAPPERS[name](model), mha.prune(model, PLAN)(x)
    if name in ("DataParallel", "torch.compile"):
        assert mha.prune(wrapped, PLAN, inplace=True) is wrapped
        assert torch.equal(wrapped(x), expected)
        return
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(mha.MhaError, match=r"wrapped in D\w+: it \w+ the parameters that it was made with; prune its"):
        mha.prune(wrapped, PLAN, inplace=True)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("inplace", [False, True])
def test_replicated_within_the_model(model, inplace):
    outer = nn.ModuleDict({"student": nn.parallel.DistributedDataParallel(model)})
    with pytest.raises(
        mha.UnsupportedModule, match=r"layer 'student.module.attention': 'student' is a Distributed\w+: it"
    ):
        mha.prune(outer, HeadPlan({"student.module.attention": (0,)}), inplace=inplace)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("part", ["", "attention", "attention.W_k"])
def test_sharded_by_fully_shard(model, part):
    fully_shard(model.get_submodule(part))
    message = {
        "": r"the model is sharded by fully_shard, so its",
        "attention": r"'attention' is sharded by fully_shard, so its",
        "attention.W_k": r"W_k is a FSDPLinear whose weight",
    }
    for inplace in (False, True):
        with pytest.raises(mha.UnsupportedModule, match=rf"layer 'attention': {message[part]}"):
            mha.prune(model, PLAN, inplace=inplace)


def test_sharded_by_the_former_fsdp(model):
    """FSDP needs an accelerator to be made, so only the name of its class is tested."""
    wrapper = type("FullyShardedDataParallel", (nn.Sequential,), {})
    wrapper.__module__ = "torch.distributed.fsdp.fully_sharded_data_parallel"
    with pytest.raises(mha.UnsupportedModule, match=r"layer '0.attention': the model is sharded by FSDP"):
        mha.prune(wrapper(model), HeadPlan({"0.attention": (0,)}))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_scripted_and_traced(model, x):
    encoder = nn.TransformerEncoderLayer(12, 3, batch_first=True)
    for scripted, name in ((torch.jit.trace(model, (x,)), "attention"), (torch.jit.script(encoder), "self_attn")):
        with pytest.raises(mha.UnsupportedModule, match=rf"layer '{name}': Multi\w+ was scripted or traced"):
            mha.prune(scripted, HeadPlan({name: (0,)}))


@pytest.fixture(scope="module")
def smaller(tmp_path_factory) -> Path:
    """The directory of a model with two of five heads in one layer, and none in another."""
    folder = tmp_path_factory.mktemp("ranks") / "smaller"
    mha.save_pruned(mha.prune(stack(), HeadPlan({"0.attention": (1, 3), "1.attention": ()})), folder)
    return folder


@pytest.fixture(scope="module")
def ranks(smaller) -> list[dict[str, float]]:
    """What two ranks found, started once for all tests."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.mha.families.ranks", smaller.parent / "store", smaller]
    started = [
        subprocess.Popen([*command, str(rank)], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    return [json.loads(rank.communicate(timeout=240)[0]) for rank in started]


def test_two_ranks_stay_in_step_once_the_pruned_model_is_wrapped_anew(ranks):
    assert [one["wrapped anew"] for one in ranks] == [0.0, 0.0]
    assert min(one["not wrapped"] for one in ranks) > 1e-4


@pytest.mark.parametrize("how", ["replicated", "sharded"])
def test_two_ranks_train_a_pruned_model_as_one_process_does(ranks, how):
    """DistributedDataParallel and fully_shard: gradients and steps, and what is saved of the latter."""
    for found in ranks:
        assert found[f"gradients, {how}"] < 1e-12
        assert found[f"parameters, {how}"] < 1e-9


def test_what_was_sharded_is_saved_from_its_whole_weights(ranks, smaller, x):
    assert ranks[0]["saved"] < 1e-9
    first, trained = (mha.load_pruned(smaller.parent / name, stack()) for name in ("smaller", "trained"))
    assert mha.plan_of(trained) == mha.plan_of(first)
    assert (trained(x) - first(x)).abs().max() > 1e-3


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("part", ["layer", "attention"])
def test_a_pruned_model_of_transformers_is_sharded(part, tmp_path):
    """Its layers have classes that are made while the program runs, of which fully_shard makes others."""
    model = build("llama", **UNEVEN, attention_bias=True)
    mha.save_pruned(mha.prune(model, uneven(model)), tmp_path / "smaller")
    pruned = mha.from_pretrained(tmp_path / "smaller")
    expected = logits(pruned)
    for layer in pruned.model.layers:
        fully_shard(layer if part == "layer" else layer.self_attn)
    torch.testing.assert_close(logits(fully_shard(pruned)), expected, rtol=0, atol=1e-12)
    assert mha.plan_of(pruned) == uneven(model)
    with pytest.raises(mha.MhaError, match=r"is no plain dense tensor \(DTensor, .*; turn it into one before saving"):
        mha.save_pruned(pruned, tmp_path / "again")


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Alone() for _ in range(10))
        for layer in self.layers:
            layer.attention = mha.MultiHeadAttention.square(13, 10, head_dim=3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@torch.no_grad()
@pytest.mark.parametrize("remedy", [None, "isolate_recompiles", "recompile_limit"])
def test_layers_of_many_shapes_compiled_one_by_one(x, remedy):
    """torch gives up on the ninth shape, and there are two ways around that, as docs/around-models.md says."""
    if remedy == "isolate_recompiles" and remedy not in inspect.signature(torch.compile).parameters:
        pytest.skip("this torch can't isolate recompiles")
    model = Layers().double().eval()
    plan = HeadPlan({f"layers.{number}.attention": range(number + 1) for number in range(10)})
    pruned = mha.prune(model, plan)
    expected = pruned(x)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    options = {"isolate_recompiles": True} if remedy == "isolate_recompiles" else {}
    for layer in pruned.layers:
        layer.compile(backend="eager", dynamic=False, **options)
    with torch._dynamo.config.patch(recompile_limit=11 if remedy == "recompile_limit" else 8):
        torch.testing.assert_close(pruned(x), expected)
    gave_up = any("recompile limit" in reason for reason in counters["unimplemented"])
    assert (counters["stats"]["unique_graphs"], gave_up) == ((8, True) if remedy is None else (10, False))
    torch._dynamo.reset()
