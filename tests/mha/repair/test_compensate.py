"""Repair: what is reached, what stays as it was, for all kinds of models; and what is refused."""

import copy

import pytest
import torch
from torch import nn

import mha
from mha.families import find_attention
from mha.repair.residual_stream import Sought, goals_of
from tests.mha.support.encoder import Encoder
from tests.thorough import few

METHODS = ("bias", "scale", "least_squares")
SCOPES = ("attention", "stream", "all")


class Block(nn.Module):
    """Pre-norm attention and feed-forward network; 5 heads of width 3 in a model of width 11."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention_norm, self.norm = nn.LayerNorm(11), nn.LayerNorm(11)
        self.attention = attention
        self.up, self.down = nn.Linear(11, 17), nn.Linear(17, 11)

    def forward(self, x, lengths):
        y = self.attention_norm(x)
        if isinstance(self.attention, nn.MultiheadAttention):
            blind = torch.arange(x.shape[1]) >= lengths[:, None]
            x = x + self.attention(y, y, y, key_padding_mask=blind)[0]
        else:
            x = x + self.attention(y, y, y, lengths)
        return x + self.down(torch.tanh(self.up(self.norm(x))))


def encoder_of(make) -> Encoder:
    """Three blocks with attention of that kind."""
    return Encoder(Block(make()) for _ in range(3))


KINDS = {
    "plain": lambda: mha.MultiHeadAttention.square(11, 5, bias=True, head_dim=3),
    "without bias": lambda: mha.MultiHeadAttention.square(11, 5, head_dim=3),
    "grouped": lambda: mha.MultiHeadAttention.square(11, 6, bias=True, head_dim=3, num_kv_heads=3),
    "torch": lambda: nn.MultiheadAttention(11, 11, batch_first=True),
}


def build(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return encoder_of(KINDS[kind]).double().eval()


@pytest.fixture
def teacher():
    return build("plain")


@pytest.fixture
def data():
    """Five batches of x (13, 19, 7) and lengths (13,)."""
    generator = torch.Generator().manual_seed(7)
    return [
        (torch.randn(13, 19, 7, generator=generator, dtype=torch.float64), torch.arange(13) + 7 - (i % 3))
        for i in range(5)
    ]


def forward(model, batch):
    return model(*batch)


def half(model):
    """A plan that keeps about half of each layer, in whole groups."""
    keep = {}
    for name, layer in find_attention(model).items():
        per_group = layer.num_heads // layer.num_kv_heads
        keep[name] = range((layer.num_kv_heads + 1) // 2 * per_group)
    return mha.HeadPlan(keep)


def distance(model, teacher, batches):
    with torch.no_grad():
        pairs = [(forward(model, batch), forward(teacher, batch)) for batch in batches]
    return torch.cat([(one - other).square().sum(-1) for one, other in pairs]).mean().item()


@pytest.mark.parametrize("kind", KINDS)
def test_least_squares_comes_closer_than_the_others_and_than_nothing(kind, data):
    teacher = build(kind)
    pruned = mha.prune(teacher, half(teacher))
    found = {
        method: distance(mha.compensate(pruned, teacher, data[:4], forward, method), teacher, data[4:])
        for method in METHODS
    }
    attention = mha.compensate(pruned, teacher, data[:4], forward, scope="attention")
    nothing = distance(pruned, teacher, data[4:])
    assert found["least_squares"] < 0.5 * nothing
    assert found["least_squares"] < min(found["bias"], found["scale"])
    assert distance(attention, teacher, data[4:]) < nothing


def test_what_can_be_restored_is_restored(teacher, data):
    """Heads 3 and 4 see what head 0 sees: without them W_o can still do all that it did."""
    for block in teacher.blocks:
        for linear in (block.attention.W_q, block.attention.W_k, block.attention.W_v):
            linear.weight.data[9:] = linear.weight.data[:3].repeat(2, 1)
            linear.bias.data[9:] = linear.bias.data[:3].repeat(2)
    plan = mha.HeadPlan({f"blocks.{i}.attention": (0, 1, 2) for i in range(3)})
    pruned = mha.prune(teacher, plan)
    repaired = mha.compensate(pruned, teacher, data, forward)
    assert distance(repaired, teacher, data) < 1e-8 * distance(pruned, teacher, data)


def test_bias_is_the_mean_of_what_left(teacher, data):
    """By hand: the removed heads' contexts and columns, at positions weighted as the output depends on them."""
    plan = mha.HeadPlan({"blocks.1.attention": (0, 2, 3)})
    repaired = mha.compensate(mha.prune(teacher, plan), teacher, data, forward, "bias")
    projection = teacher.blocks[1].attention.W_o
    contexts = []
    handle = projection.register_forward_pre_hook(lambda _, args: contexts.append(args[0].detach()))
    sought = Sought(outputs=["blocks.1.attention.W_o"])
    goal = goals_of(teacher, sought, data, lambda model, numbered: forward(model, numbered[1]))[
        "blocks.1.attention.W_o"
    ]
    handle.remove()
    weight = torch.cat([one[0].flatten() for one in goal.weights.values()])
    gone = [3, 4, 5, 12, 13, 14]
    left = torch.cat(contexts).flatten(0, 1)[:, gone] @ projection.weight[:, gone].T
    expected = projection.bias + weight @ left / weight.sum()
    torch.testing.assert_close(repaired.blocks[1].attention.W_o.bias, expected)
    assert torch.equal(repaired.blocks[0].attention.W_o.bias, teacher.blocks[0].attention.W_o.bias)


def test_scale_multiplies_each_head_by_one_factor(teacher, data):
    pruned = mha.prune(teacher, half(teacher))
    repaired = mha.compensate(pruned, teacher, data, forward, "scale")
    for new, old in zip(repaired.blocks, pruned.blocks, strict=True):
        factors = (new.attention.W_o.weight / old.attention.W_o.weight).unflatten(1, (3, 3))
        torch.testing.assert_close(factors, factors[:1, :, :1].expand_as(factors))
        assert torch.equal(new.attention.W_o.bias, old.attention.W_o.bias)
        assert factors.std() > 1e-3


@pytest.mark.parametrize(
    ("method", "scope"), [("bias", "all"), ("scale", "all"), *(("least_squares", scope) for scope in SCOPES)]
)
def test_only_what_the_method_fits_changes(teacher, data, method, scope):
    plan = mha.HeadPlan({"blocks.1.attention": (0, 2, 3)})
    pruned = mha.prune(teacher, plan)
    repaired = mha.compensate(pruned, teacher, data, forward, method, scope=scope).state_dict()
    changed = {name for name, value in pruned.state_dict().items() if not torch.equal(value, repaired[name])}
    outputs = {f"blocks.{i}.attention.W_o" for i in (1, 2)}
    stream = {f"blocks.{i}.down" for i in (1, 2)}
    reading = {f"blocks.{i}.up" for i in (1, 2)} | {f"blocks.2.attention.W_{one}" for one in "qkv"} | {"head"}
    fitted = {"attention": set(), "stream": stream, "all": stream | reading}
    names = {
        "bias": {f"{name}.bias" for name in outputs},
        "scale": {f"{name}.weight" for name in outputs},
        "least_squares": {f"{name}.{part}" for name in outputs | fitted[scope] for part in ("weight", "bias")},
    }
    assert {f"{name}.{'bias' if method == 'bias' else 'weight'}" for name in outputs} <= changed <= names[method]
    assert bool(changed & {f"{name}.weight" for name in reading}) == (scope == "all" and method == "least_squares")


def test_layers_that_read_the_stream_are_fitted_to_the_kept_rows_of_the_dense_ones(teacher, data):
    """Head 1 does nothing, so what other rows put out can be had back exactly after they were spoilt."""
    with torch.no_grad():
        for block in teacher.blocks[1:]:
            block.attention.W_o.weight[:, 3:6] = 0
    plan = mha.HeadPlan({f"blocks.{i}.attention": (0, 2, 3, 4) for i in (1, 2)})
    pruned = mha.prune(teacher, plan)
    generator = torch.Generator().manual_seed(3)
    spoilt = ("blocks.2.attention.W_q", "blocks.2.attention.W_v", "blocks.2.up", "head")
    with torch.no_grad():
        for name in spoilt:
            weight = pruned.get_submodule(name).weight
            weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    repaired = mha.compensate(pruned, teacher, data, forward)
    unseen = torch.randn(23, 19, 7, generator=generator, dtype=torch.float64), torch.full((23,), 19)
    with torch.no_grad():
        before, after = ((model(*unseen) - teacher(*unseen)).abs().max() for model in (pruned, repaired))
    assert after < 1e-3 * before


def test_a_layer_that_spells_a_vocabulary_stays(data):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = encoder_of(KINDS["plain"])
        model.head = nn.Linear(11, 97)
    teacher = model.double().eval()
    pruned = mha.prune(teacher, half(teacher))
    assert torch.equal(mha.compensate(pruned, teacher, data, forward).head.weight, teacher.head.weight)


def test_a_forward_may_run_the_model_more_than_once(teacher, data):
    """As for pairs of a query and a document: the same result as for the two one after the other."""

    def twice(model, batch):
        x, lengths = batch
        return torch.cat([model(x[:6], lengths[:6]), model(x[6:], lengths[6:])])

    pruned = mha.prune(teacher, mha.HeadPlan({"blocks.0.attention": (), "blocks.1.attention": (0, 3)}))
    one, other = (mha.compensate(pruned, teacher, data, run).state_dict() for run in (forward, twice))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-6, atol=1e-8, msg=name)


def test_nothing_pruned_is_nothing_to_repair(teacher, data):
    repaired = mha.compensate(mha.prune(teacher, mha.HeadPlan({})), teacher, data, forward)
    assert distance(repaired, teacher, data) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", few(METHODS, "least_squares"))
def test_a_layer_without_heads_gets_a_bias(kind, method, data, tmp_path):
    teacher = build(kind)
    pruned = mha.prune(teacher, mha.HeadPlan({"blocks.0.attention": (), "blocks.2.attention": ()}))
    repaired = mha.compensate(pruned, teacher, data, forward, method)
    if method == "least_squares":
        assert distance(repaired, teacher, data) < distance(pruned, teacher, data)
    mha.save_pruned(repaired, tmp_path)
    loaded = mha.load_pruned(tmp_path, teacher)
    assert distance(loaded, repaired, data) == 0


@pytest.mark.parametrize("scope", few(SCOPES, "all"))
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_before_one_without_heads_that_reads_the_stream_itself(method, scope, data):
    """Without a norm in between, the stream is read by projections that no longer run in the pruned model."""

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(KINDS["plain"]() for _ in range(3))
            self.embed = nn.Linear(7, 11)

        def forward(self, x, lengths):
            x = self.embed(x)
            for layer in self.layers:
                x = x + layer(x, x, x, lengths)
            return x.mean(1)

    torch.manual_seed(0)
    teacher = Bare().double().eval()
    pruned = mha.prune(teacher, mha.HeadPlan({"layers.0": (0, 3), "layers.1": ()}))
    repaired = mha.compensate(pruned, teacher, data, forward, method, scope=scope)
    assert distance(repaired, teacher, data) < distance(pruned, teacher, data)


def test_padding_does_not_count(teacher, data):
    pruned = mha.prune(teacher, half(teacher))
    filled = [(torch.where((torch.arange(19) < lengths[:, None])[..., None], x, 100.0), lengths) for x, lengths in data]
    one, other = (mha.compensate(pruned, teacher, batches, forward).state_dict() for batches in (data, filled))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-6, atol=1e-8, msg=name)


def test_batches_are_read_once_and_the_result_depends_on_nothing_else(teacher, data):
    pruned = mha.prune(teacher, half(teacher))
    one = mha.compensate(pruned, teacher, data, forward).state_dict()
    torch.manual_seed(99)
    other = mha.compensate(pruned, teacher, (batch for batch in data), forward).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_one_batch_will_do(teacher, data):
    pruned = mha.prune(teacher, half(teacher))
    whole = [tuple(torch.cat(parts) for parts in zip(*data[:4], strict=True))]
    repaired = mha.compensate(pruned, teacher, whole, forward)
    assert distance(repaired, teacher, data[4:]) < 0.5 * distance(pruned, teacher, data[4:])


def fails(model, batch):
    model(*batch)
    raise RuntimeError("on purpose")


def fails_on_pruned(model, batch):
    if next(iter(find_attention(model).values())).num_heads < 5:
        raise RuntimeError("on purpose")
    return model(*batch)


@pytest.mark.parametrize("run", [forward, fails, fails_on_pruned])
@pytest.mark.parametrize("method", few(METHODS, "least_squares"))
def test_models_and_the_world_are_left_as_they_were(teacher, data, run, method):
    pruned = mha.prune(teacher, half(teacher))
    pruned.train()
    teacher.blocks[1].train()
    teacher.head.weight.requires_grad_(False)
    models = (pruned, teacher)

    def state():
        return [
            (copy.deepcopy(model.state_dict()), [module.training for module in model.modules()],
             [(len(module._forward_hooks), len(module._forward_pre_hooks), type(module)) for module in model.modules()],
             [(one.grad, one.requires_grad) for one in model.parameters()])
            for model in models
        ]  # fmt: skip

    before, random = state(), torch.get_rng_state()
    if run is forward:
        repaired = mha.compensate(pruned, teacher, data, run, method)
        assert [module.training for module in repaired.modules()] == before[0][1]
        assert all(not module._forward_hooks and not module._forward_pre_hooks for module in repaired.modules())
    else:
        with pytest.raises(RuntimeError, match="on purpose"):
            mha.compensate(pruned, teacher, data, run, method)
    for old, new in zip(before, state(), strict=True):
        assert all(torch.equal(value, new[0][name]) for name, value in old[0].items())
        assert old[1:] == new[1:]
    assert torch.equal(random, torch.get_rng_state())


def test_a_forward_without_gradients_counts_all_positions_alike(teacher, data):
    def detached(model, batch):
        with torch.no_grad():
            return model(*batch)

    pruned = mha.prune(teacher, half(teacher))
    repaired = mha.compensate(pruned, teacher, data, detached)
    assert distance(repaired, teacher, data) < distance(pruned, teacher, data)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(teacher, data, dtype):
    """Solved in float64 and stored back: as close to the teacher as the rounding allows."""
    low = copy.deepcopy(teacher).to(dtype)
    batches = [(x.to(dtype), lengths) for x, lengths in data]
    pruned = mha.prune(low, half(low))
    repaired = mha.compensate(pruned, low, batches, forward)
    assert {parameter.dtype for parameter in repaired.parameters()} == {dtype}
    assert distance(repaired.double(), teacher, data) < 0.5 * distance(pruned.double(), teacher, data)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_models_of_transformers(model_type):
    """BERT normalises after adding; GPT-2 keeps its weights the other way round, and shares one with its head."""
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if model_type == "bert":
            config = transformers.BertConfig(
                vocab_size=53, hidden_size=30, num_hidden_layers=3, num_attention_heads=5, intermediate_size=41
            )
            teacher = transformers.BertModel(config, add_pooling_layer=False)
        else:
            config = transformers.GPT2Config(vocab_size=53, n_embd=30, n_layer=3, n_head=5, n_positions=23)
            teacher = transformers.GPT2LMHeadModel(config)
        for name, parameter in teacher.named_parameters():
            if "norm" not in name.lower() and "ln_" not in name:
                nn.init.normal_(parameter, std=0.3)
        tokens = torch.randint(53, (6, 13, 11))
    teacher = teacher.eval()
    batches = [{"input_ids": one} for one in tokens]

    def run(model, batch):
        return model(**batch)[0]

    def error(model):
        with torch.no_grad():
            return (run(model, batches[5]) - run(teacher, batches[5])).square().mean().item()

    pruned = mha.prune(teacher, mha.HeadPlan(dict.fromkeys(find_attention(teacher), (0, 3))))
    repaired = mha.compensate(pruned, teacher, batches[:5], run)
    assert error(repaired) < 0.8 * error(pruned)
    if model_type == "gpt2":
        assert repaired.lm_head.weight is repaired.transformer.wte.weight
        assert torch.equal(repaired.lm_head.weight, teacher.lm_head.weight)


def test_a_model_that_was_pruned_before_is_a_teacher_too(teacher, data):
    smaller = mha.prune(teacher, mha.HeadPlan({"blocks.0.attention": (0, 2, 3, 4)}))
    pruned = mha.prune(smaller, mha.HeadPlan({"blocks.0.attention": (2, 4), "blocks.2.attention": (1,)}))
    repaired = mha.compensate(pruned, smaller, data, forward)
    assert mha.plan_of(repaired) == mha.plan_of(pruned)
    assert distance(repaired, smaller, data) < distance(pruned, smaller, data)


def test_models_that_do_not_belong_together(teacher, data):
    pruned = mha.prune(teacher, half(teacher))
    foreign = mha.prune(teacher, mha.HeadPlan({"blocks.1.attention": (0, 3)}))
    with pytest.raises(mha.MhaError, match=r"layer 'blocks.1.attention': the pruned model has heads \[1, 2\]"):
        mha.compensate(pruned, foreign, data, forward)
    with pytest.raises(mha.MhaError, match=r"are \(5, 11, 3\) in the pruned model and \(6, 11, 3\) in the teacher"):
        mha.compensate(pruned, build("grouped"), data, forward)
    with pytest.raises(mha.MhaError, match=r"only one of the two has the layers \['attention', 'blocks.0.attention'"):
        mha.compensate(pruned, teacher.blocks[0], data, forward)
    with pytest.raises(mha.MhaError, match=r"neither has attention of a known family"):
        mha.compensate(nn.Linear(2, 3), nn.Linear(2, 3), data, forward)


def test_calibration_that_can_not_be_used(teacher, data):
    pruned = mha.prune(teacher, half(teacher))
    with pytest.raises(mha.MhaError, match=r"expected one of bias, scale, least_squares, got 'magic'"):
        mha.compensate(pruned, teacher, data, forward, "magic")
    with pytest.raises(mha.MhaError, match=r"expected one of attention, stream, all, got 'everything'"):
        mha.compensate(pruned, teacher, data, forward, scope="everything")
    for nothing in ([], None, iter(())):
        with pytest.raises(mha.MhaError, match=r"the calibration set is empty"):
            mha.compensate(pruned, teacher, nothing, forward)
    with pytest.raises(mha.MhaError, match=r"ran none of the teacher's attention layers"):
        mha.compensate(pruned, teacher, data, lambda model, batch: model.embed(batch[0]))
    bad = [*data[:2], (torch.full_like(data[2][0], float("nan")), data[2][1])]
    with pytest.raises(mha.MhaError, match=r"batch 2: what forward returns for the teacher is NaN, in rows \[0, 1"):
        mha.compensate(pruned, teacher, bad, forward)
    pruned.blocks[0].down.weight.data[0, 0] = float("inf")
    with pytest.raises(mha.MhaError, match=r"'blocks.0.down', batch 0: .*NaN or infinite values in the pruned model"):
        mha.compensate(pruned, teacher, data, forward)


def test_a_forward_that_runs_the_models_differently(teacher, data):
    def shorter(model, batch):
        return model(batch[0][:, :11] if model is not teacher else batch[0], batch[1].clamp_max(11))

    with pytest.raises(mha.MhaError, match=r"'blocks.0.attention.W_o', batch 0: forward must run the pruned model as"):
        mha.compensate(mha.prune(teacher, half(teacher)), teacher, data, shorter)
