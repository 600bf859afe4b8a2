"""Measured costs: exactly known with a clock wound by hand; counts are those of models that are really pruned."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import mha
from mha import HeadPlan
from mha.costs import Shape, feasible_shapes
from mha.costs.capture import CallArguments
from mha.costs.counts import count_flops
from mha.costs.curves import Grid, rising
from mha.costs.measured import readied
from mha.costs.shapes import first_heads
from mha.timing import rounds
from mha.values.errors import CostsError

SECONDS = 1e-9  # of real time: everything takes part in the fewest rounds, and the clock stands still between


class Clock:
    """A clock that only the model's own layers advance."""

    def __init__(self):
        self.now = 1.0

    def takes(self, module, seconds):
        """From now on a call of the module takes `seconds(module)`, also a call of its copies."""
        module.register_forward_pre_hook(lambda module, _inputs: setattr(self, "now", self.now + seconds(module)))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(rounds, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


class Stack(nn.Module):
    """Layers of 12 heads one after another."""

    def __init__(self, layers, heads=12, groups=None):
        super().__init__()
        self.layers = nn.ModuleList(
            mha.MultiHeadAttention.square(5, heads, head_dim=3, num_kv_heads=groups) for _ in range(layers)
        )
        self.last = nn.Linear(5, 2)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, x, x)
        return self.last(x)


X = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))


def stack(clock, layers, seconds, rest=16.0, **sizes):
    model = Stack(layers, **sizes).eval()
    for layer in model.layers:
        clock.takes(layer, seconds)
    clock.takes(model.last, lambda _: rest)
    return model


def plan(**heads):
    return HeadPlan({f"layers.{name[1:]}": range(count) for name, count in heads.items()})


def test_a_sum_of_layers_is_recovered_exactly(clock):
    model = stack(clock, 3, lambda layer: 2.0 + 0.5 * layer.num_heads if layer.num_heads else 0.25)
    table = mha.measure_costs(model, (X,), seconds=SECONDS)
    assert table.dense.seconds == pytest.approx(16 + 3 * 8)
    assert (table.rest, table.scale) == pytest.approx((16, 1))
    for heads in [(12, 12, 12), (0, 0, 0), (1, 0, 12), (5, 7, 11)]:
        expected = 16 + sum(2 + 0.5 * count if count else 0.25 for count in heads)
        predicted = table.latency(plan(l0=heads[0], l1=heads[1], l2=heads[2]))
        assert predicted == pytest.approx((expected, expected / 40)), heads
    for whole in table.whole_models:
        assert whole.predicted == pytest.approx(whole.measured)
        assert whole.low == pytest.approx(whole.high)


def test_layers_that_take_longer_in_the_model_than_alone(clock):
    model = stack(clock, 2, lambda layer: 1.0 + layer.num_heads)
    clock.takes(model, lambda model: 0.5 * sum(1 + layer.num_heads for layer in model.layers))
    table = mha.measure_costs(model, (X,), seconds=SECONDS)
    assert table.scale == pytest.approx(1.5, rel=1e-3)
    assert table.latency(plan(l0=3, l1=9)).value == pytest.approx(16 + 1.5 * 14, rel=1e-3)
    assert table.layers["layers.0"].costs[Shape(12, 12)].seconds == pytest.approx(1.5 * 13, rel=1e-3)


def test_layers_that_take_longer_in_the_model_by_another_factor_at_every_share(clock):
    """In the model half of the heads cost twice what they cost alone, three of twelve the same, all half more."""
    factors = {0: 1.0, 3: 1.0, 6: 2.0, 12: 1.5}
    model = stack(clock, 2, lambda layer: 1.0 + layer.num_heads)
    clock.takes(
        model, lambda model: sum((factors[layer.num_heads] - 1) * (1 + layer.num_heads) for layer in model.layers)
    )
    table = mha.measure_costs(model, (X,), seconds=SECONDS)
    for whole, heads in zip(table.whole_models, (0, 3, 6), strict=True):
        expected = 16 + 2 * factors[heads] * (1 + heads)
        assert whole.measured * table.dense.seconds == pytest.approx(expected)
        assert table.latency(plan(l0=heads, l1=heads)).value == pytest.approx(expected, rel=5e-3), heads
        assert whole.predicted == pytest.approx(whole.measured, rel=5e-3)
    seconds = [cost.seconds for _, cost in sorted(table.layers["layers.0"].costs.items())]
    assert seconds == sorted(seconds)


def test_steps_are_found(clock):
    """With time to refine: the clock that limits the measuring stands still, and nothing is noisy."""
    model = stack(clock, 1, lambda layer: 8.0 * -(-layer.num_heads // 8), rest=4.0, heads=32)
    table = mha.measure_costs(model, (X,), seconds=60)
    assert table.ended == "steady"
    costs = table.layers["layers.0"].costs
    assert [costs[Shape(n, n)].seconds for n in range(33)] == pytest.approx([8.0 * -(-n // 8) for n in range(33)])
    assert costs[Shape(17, 17)].low == pytest.approx(costs[Shape(17, 17)].high)


def test_a_straight_line_needs_few_shapes(clock):
    model = stack(clock, 1, lambda layer: 1.0 + layer.num_heads, heads=32)
    costs = mha.measure_costs(model, (X,), seconds=60).layers["layers.0"].costs
    measured = {shape.heads for shape, cost in costs.items() if cost.low is not None}
    assert measured == {0, 1, 2, 7, 16, 22, 32}


def test_grouped_attention_is_measured_by_heads_and_groups(clock):
    def seconds(layer):
        return layer.num_heads + 10.0 * layer.num_kv_heads

    model = stack(clock, 1, seconds, heads=15, groups=5)
    table = mha.measure_costs(model, (X,), seconds=60)
    for shape, cost in table.layers["layers.0"].costs.items():
        assert cost.seconds == pytest.approx(shape.heads + 10 * shape.groups), shape
    assert set(table.layers["layers.0"].costs) == set(feasible_shapes(Shape(15, 5)))


def test_one_group_of_many_heads(clock):
    model = stack(clock, 1, lambda layer: layer.num_heads + 10.0 * layer.num_kv_heads, heads=13, groups=1)
    table = mha.measure_costs(model, (X,), seconds=60)
    costs = table.layers["layers.0"].costs
    assert [whole.heads for whole in table.whole_models] == [(0,), (3,), (6,)]
    assert {shape: pytest.approx(shape.heads + 10 * shape.groups) for shape in feasible_shapes(Shape(13, 1))} == {
        shape: cost.seconds for shape, cost in costs.items()
    }


def test_equal_layers_are_measured_once(clock):
    calls = []
    model = stack(clock, 5, lambda layer: calls.append(layer) or 1.0)
    mha.measure_costs(model, (X,), seconds=SECONDS)
    alone = [layer for layer in calls if not any(layer is other for other in model.layers)]
    assert {layer.num_heads for layer in alone} == {0, 1, 2, 3, 6, 12}
    once = [layer for layer in {id(layer): layer for layer in alone}.values() if layer.num_heads in (1, 2, 12)]
    assert sorted(layer.num_heads for layer in once) == [1, 2, 12]


def test_layers_that_differ_in_a_setting_are_measured_apart(clock):
    model = stack(clock, 2, lambda layer: getattr(layer, "window", 1.0) * (1.0 + layer.num_heads))
    model.layers[1].window = 3.0
    table = mha.measure_costs(model, (X,), seconds=SECONDS)
    assert table.latency(plan(l0=2, l1=12)).value == pytest.approx(16 + 3 + 39)
    assert table.latency(plan(l0=12, l1=2)).value == pytest.approx(16 + 13 + 9)


def test_a_layer_that_is_called_twice_counts_twice(clock):
    model = stack(clock, 1, lambda layer: 1.0 + layer.num_heads)
    model.layers.append(model.layers[0])
    table = mha.measure_costs(model, (X,), seconds=SECONDS)
    assert list(table.layers) == ["layers.0"]
    assert table.latency(plan(l0=2)).value == pytest.approx(16 + 2 * 3)


def test_a_layer_that_is_not_reached_takes_no_time(clock):
    model = stack(clock, 1, lambda layer: 1.0 + layer.num_heads)
    model.unused = mha.MultiHeadAttention.square(5, 2, head_dim=3)
    table = mha.measure_costs(model, (X,), seconds=SECONDS)
    costs = table.layers["unused"].costs[Shape(2, 2)]
    assert (costs.seconds, costs.flops, costs.parameters) == (0.0, 0, 4 * 5 * 6)


def test_parameters_and_operations_are_those_of_the_pruned_model(model, inputs):
    args = tuple(part.to(torch.float64) for part in inputs)
    table = mha.measure_costs(model, args, seconds=SECONDS)
    assert table.ended == "time spent"
    assert table.environment["dtype"] == "float64"
    assert table.environment["inputs"] == "0 float64 (19, 29, 5), 1 float64 (19, 31, 17)"
    layers = mha.find_attention(model)
    for shapes in [
        {"plain": Shape(7, 7), "grouped": Shape(10, 5), "cross": Shape(3, 3)},
        {"plain": Shape(4, 4), "grouped": Shape(3, 3), "cross": Shape(1, 1)},
        {"plain": Shape(0, 0), "grouped": Shape(8, 4), "cross": Shape(0, 0)},
        {"plain": Shape(5, 5), "grouped": Shape(0, 0), "cross": Shape(2, 2)},
    ]:
        whole = {name: Shape(layer.num_heads, layer.num_kv_heads) for name, layer in layers.items()}
        keep = HeadPlan({name: first_heads(layers[name].heads, whole[name], shape) for name, shape in shapes.items()})
        pruned = mha.prune(model, keep)
        assert table.parameters(keep).value == sum(parameter.numel() for parameter in pruned.parameters())
        assert table.flops(keep).value == count_flops(readied(pruned, CallArguments(args))()).total
    assert table.parameters(keep).share == table.parameters(keep).value / sum(p.numel() for p in model.parameters())


def test_attention_counts_4bhqkd():
    b, h, q, k, d = 2, 3, 5, 7, 11
    query, key = torch.randn(b, h, q, d), torch.randn(b, h, k, d)
    attention = nn.functional.scaled_dot_product_attention
    expected = (4 * b * h * q * k * d,) * 2
    assert count_flops(lambda: attention(query, key, key)) == expected
    mask = torch.ones(q, k, dtype=torch.bool)
    assert count_flops(lambda: attention(query, key, key, attn_mask=mask)) == expected
    assert count_flops(lambda: attention(query, key[:, :1], key[:, :1], enable_gqa=True)) == expected
    assert count_flops(lambda: (query @ key.transpose(2, 3)).softmax(-1) @ key) == expected


def test_a_whole_layer_counts_its_products():
    layer = mha.MultiHeadAttention(13, 11, 17, 19, 3, head_dim=5, bias=True)
    b, q, k, inner = 2, 7, 23, 15
    args = torch.randn(b, q, 11), torch.randn(b, k, 13), torch.randn(b, k, 17)
    projections = 2 * b * inner * (q * 11 + k * 13 + k * 17 + q * 19)
    attention = 4 * b * 3 * q * k * 5
    assert count_flops(lambda: layer(*args)) == (projections + attention, attention)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # which torch's own encoder makes
def test_the_fused_encoder_is_looked_into():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 4, 17, batch_first=True), 2).eval()
    x, padding = torch.randn(2, 5, 12), torch.arange(5).expand(2, 5) >= torch.tensor([[5], [3]])
    products = 2 * 2 * 5 * (4 * 12 * 12 + 2 * 12 * 17) + 4 * 2 * 4 * 5 * 5 * 3
    table = mha.measure_costs(encoder, (x,), {"src_key_padding_mask": padding}, seconds=SECONDS)
    assert table.dense.flops == 2 * products
    assert [whole.heads for whole in table.whole_models] == [(0, 0), (1, 1), (2, 2), (4, 4)]
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_model_is_left_as_it_was(model, inputs):
    model.train()
    model.cross.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    given = [part.clone() for part in inputs]
    mha.measure_costs(model, inputs, seconds=SECONDS)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(old, new) for old, new in zip(given, inputs, strict=True))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


class Remembering(nn.Module):
    """Attention that keeps every input it has seen in the list that it is given."""

    def __init__(self):
        super().__init__()
        self.attention = Appending(5, 5, 5, 5, 4, head_dim=3)

    def forward(self, x, cache):
        return self.attention(x, x, x, cache=cache)


class Box:
    def __init__(self):
        self.seen = []


class Appending(mha.MultiHeadAttention):
    def forward(self, queries, keys, values, cache):
        cache.seen.append(keys)
        assert len(cache.seen) == 1
        return super().forward(queries, keys, values)


def test_caches_are_new_for_every_call():
    cache = Box()
    mha.measure_costs(Remembering(), (X,), {"cache": cache}, seconds=SECONDS)
    assert cache.seen == []


def test_arguments_that_are_one_and_the_same_stay_so():
    call = CallArguments((X, X, [X, {"a": 3, "b": None}]), {"box": Box()})
    (a, b, (c, _)), _ = call.on().fresh()
    assert a is b is c
    assert a is not X
    assert call.key() == CallArguments((X, X, [X, {"a": 3, "b": None}]), {"box": Box()}).key()
    assert call.key() != CallArguments((X, X.clone(), [X, {"a": 3, "b": None}]), {"box": Box()}).key()
    assert call.key() != CallArguments((X, X, [X, {"a": 4, "b": None}]), {"box": Box()}).key()


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((), {}, r"can't be called with these args and kwargs \(none\): TypeError: .*missing 1 required"),
        ((X[..., :3],), {}, r"\(0 float32 \(2, 7, 3\)\): ShapeError: expected queries \(b, q, 5\)"),
        ((X,), {"seconds": 0}, r"above 0, got 0"),
        ((X,), {"seconds": float("nan")}, r"above 0, got nan"),
    ],
)
def test_what_can_not_be_measured(args, options, message):
    model = Stack(1).train()
    with pytest.raises(CostsError, match=message):
        mha.measure_costs(model, args, **options)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_models_without_data_or_attention():
    with pytest.raises(CostsError, match=r"layers.0.W_q.weight is on the meta device"):
        mha.measure_costs(Stack(1).to("meta"), (X.to("meta"),))
    with pytest.raises(mha.UnsupportedModule, match=r"no attention of a known family"):
        mha.measure_costs(nn.Linear(5, 2), (X,))


def test_inputs_that_fewer_heads_do_not_fit():
    class Fixed(mha.MultiHeadAttention):
        def forward(self, x):
            if self.num_heads not in (0, 4):
                raise RuntimeError("sizes of tensors must match")
            return super().forward(x, x, x)

    with pytest.raises(
        CostsError, match=r"1 of its heads|can't run on the inputs of the dense one .*give an empty one"
    ):
        mha.measure_costs(Fixed(5, 5, 5, 5, 4, head_dim=3), (X,), seconds=SECONDS)


def test_the_closest_rising_sequence():
    assert rising([1.0, 3.0, 2.0, 2.0, 5.0, 4.0]).tolist() == pytest.approx([1, 7 / 3, 7 / 3, 7 / 3, 4.5, 4.5])
    assert rising([3.0, 2.0, 1.0]).tolist() == [2.0, 2.0, 2.0]
    assert rising([]).tolist() == []


def test_more_heads_or_groups_never_take_less():
    grid = Grid(Shape(12, 4))
    generator = torch.Generator().manual_seed(1)
    noisy = {shape: 1 + torch.rand((), generator=generator).item() for shape in grid.shapes()}
    filled = grid.fill(noisy)
    assert set(filled) == set(feasible_shapes(Shape(12, 4)))
    for shape, seconds in filled.items():
        for other, more in filled.items():
            if other.groups >= shape.groups and other.per_group >= shape.per_group:
                assert more >= seconds, (shape, other)


def test_a_layer_without_heads_stays_measurable(clock):
    model = mha.prune(stack(clock, 2, lambda layer: 1.0 + layer.num_heads), plan(l0=0))
    table = mha.measure_costs(model, (X,), seconds=SECONDS)
    assert list(table.layers["layers.0"].costs) == [Shape(0, 0)]
    assert table.latency(plan(l0=0, l1=6)).value == pytest.approx(16 + 1 + 7)


def test_original_numbers_after_pruning(clock):
    model = mha.prune(stack(clock, 1, lambda layer: 1.0 + layer.num_heads), HeadPlan({"layers.0": (3, 5, 7, 11)}))
    table = mha.measure_costs(model, (X,), seconds=SECONDS)
    assert table.layers["layers.0"].heads == (3, 5, 7, 11)
    assert table.latency(HeadPlan({"layers.0": (5, 11)})).value == pytest.approx(16 + 3)


def test_costs_are_measured_where_the_model_will_run():
    pytest.importorskip("transformers", reason="transformers is not installed")
    model = Stack(1, heads=2).eval()
    table = mha.measure_costs(model, (X,), seconds=SECONDS, runtime="torch", progress=False)
    assert table.environment["runtime"] == f"torch {torch.__version__}"
    for keep in ((), (0,), (0, 1)):
        plan = HeadPlan({"layers.0": keep})
        pruned = mha.prune(model, plan)
        assert table.flops(plan).value == count_flops(readied(pruned, CallArguments((X,)))()).total
        assert 0 < table.latency(plan).value <= table.dense.seconds
    with pytest.raises(CostsError, match=r"unknown runtime to measure in 'gguf'.* There are: torch, onnx, openvino"):
        mha.measure_costs(model, (X,), runtime="gguf")
    with pytest.raises(CostsError, match=r"timed on the CPU, got device cuda for runtime 'onnx'"):
        mha.measure_costs(model, (X,), runtime="onnx", device="cuda")
