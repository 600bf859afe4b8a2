"""The library on a GPU: the same plans, scores and outputs as on the CPU in float64.

Skipped without a GPU; MHA_TEST_DEVICE=cpu runs it there, which shows that the tests themselves hold.
"""

import os

import pytest
import torch
from torch import nn

import mha
from mha.layer.packing import Packing, attend_packed
from mha.layer.varlen import has_kernel

DEVICE = os.environ.get("MHA_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else None)
pytestmark = pytest.mark.skipif(DEVICE is None, reason="no CUDA device here")

B, S, E, H, G, D = 5, 37, 48, 6, 2, 16
LENGTHS = torch.tensor([37, 2, 19, 5, 1])
AWAY = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}  # of the norm
PLAN = mha.HeadPlan({"": (0, 2, 3, 5)})


def layer(kv_heads=H):
    torch.manual_seed(0)
    return mha.MultiHeadAttention.square(E, H, head_dim=D, bias=True, num_kv_heads=kv_heads).double().eval()


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def away(found, expected):
    """How far a result is from what it should be, as a share of the norm of that."""
    return float((found.detach().cpu().double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", AWAY, ids=str)
@pytest.mark.parametrize("kv_heads", [H, G])
@pytest.mark.parametrize("is_causal", [False, True])
def test_the_sliced_layer_is_the_masked_one_in_float64_on_the_cpu(dtype, kv_heads, is_causal):
    whole, x = layer(kv_heads), draw(B, S, E)
    plan = PLAN if kv_heads == H else mha.HeadPlan({"": (0, 1, 2)})
    with torch.no_grad(), mha.masked(whole, plan):
        expected = whole(x, x, x, is_causal=is_causal)
    sliced = mha.prune(whole, plan).to(DEVICE, dtype)
    sliced_there = mha.prune(whole.to(DEVICE, dtype), plan)
    on_device = x.to(DEVICE, dtype)
    for module in (sliced, sliced_there):
        assert away(module(on_device, on_device, on_device, is_causal=is_causal), expected) < AWAY[dtype]


@pytest.mark.parametrize("dtype", AWAY, ids=str)
@pytest.mark.parametrize("kv_heads", [H, G])
@pytest.mark.parametrize("is_causal", [False, True])
def test_packed_batches_and_their_gradients_are_those_of_padded_ones_in_float64(dtype, kv_heads, is_causal):
    whole, x = layer(kv_heads), draw(B, S, E)
    expected = whole(x, x, x, LENGTHS, is_causal=is_causal, query_lens=LENGTHS)
    weigh = draw(B, S, E)
    (expected * weigh).sum().backward()
    there = layer(kv_heads).to(DEVICE, dtype)
    y, lengths = x.to(DEVICE, dtype), LENGTHS.to(DEVICE)
    output = there(y, y, y, lengths, is_causal=is_causal, query_lens=lengths)
    (output * weigh.to(output)).sum().backward()
    assert away(output, expected.detach()) < AWAY[dtype]
    for name in ("W_q", "W_k", "W_v", "W_o"):
        grads = (getattr(module, name).weight.grad for module in (there, whole))
        assert away(*grads) < 2 * AWAY[dtype], name
    assert output[1, 2:].eq(0).all()


def test_halves_take_the_kernel_for_any_lengths_and_its_operations_are_counted():
    if DEVICE == "cpu":
        pytest.skip("the kernel is a GPU's")
    q, k, v = (torch.randn(int(LENGTHS.sum()), H, D, device=DEVICE, dtype=torch.bfloat16) for _ in range(3))
    lengths = LENGTHS.tolist()
    assert has_kernel(q, lengths, lengths, is_causal=True, dropout=0.0)
    packing = Packing(LENGTHS, LENGTHS, S, S, q.device)
    flops = mha.costs.count_flops(lambda: attend_packed(q, k, v, packing.groups))
    assert flops == (4 * H * D * sum(length**2 for length in lengths),) * 2


@pytest.mark.parametrize("kind", ["torch", "llama", "bert"])
def test_models_are_masked_and_sliced_alike(kind):
    model, args, kwargs = MODELS[kind]()
    plan = mha.HeadPlan({name: at.heads[:4] for name, at in mha.find_attention(model).items()})
    args, kwargs = tuple(each.to(DEVICE) for each in args), {name: each.to(DEVICE) for name, each in kwargs.items()}
    assert mha.check(model.to(DEVICE), plan, args, kwargs) < 1e-4


def encoder():
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(E, H, 61, batch_first=True, dropout=0.0)
    return nn.TransformerEncoder(block, 2, enable_nested_tensor=False).eval()


def transformers_model(model_type, auto, **sizes):
    from tests.mha.support import transformers_models

    ids = torch.randint(97, (B, 11), generator=torch.Generator().manual_seed(0))
    common = {"hidden_size": 84, "num_hidden_layers": 2, "intermediate_size": 17, "vocab_size": 97, "pad_token_id": 0}
    model = transformers_models.build(model_type, {**common, "num_attention_heads": 6, **sizes}, auto, spread=0.1)
    return model.eval(), (), {"input_ids": ids}


MODELS = {
    "torch": lambda: (encoder(), (draw(B, S, E).float(),), {}),
    "llama": lambda: transformers_model("llama", "AutoModelForCausalLM", num_key_value_heads=3),
    "bert": lambda: transformers_model("bert", "AutoModel"),
}


def loss(model, batch):
    return (model(batch) * batch.cos()).sum(dim=(1, 2)).square().mean()


def batches(device):
    return [draw(B, 7, E).float().to(device), draw(B, 7, E).float().neg().exp().to(device)]


LEARNED = ("gate", "hard_concrete", "subset")  # by an optimizer, of which every step adds to what rounding did before


@pytest.mark.parametrize("criterion", sorted(mha.criteria()))
def test_scores_are_those_of_the_cpu(criterion):
    device = torch.device(DEVICE)
    here = mha.score(encoder(), batches("cpu"), loss, criterion, progress=False)
    there = mha.score(encoder().to(device), batches(device), loss, criterion, progress=False)
    for name, scores in here.items():
        expected, found = torch.as_tensor(scores).double(), torch.as_tensor(there[name]).double()
        assert found.device.type == "cpu"
        assert away(found, expected) < (0.05 if criterion in LEARNED else 2e-3), name


def test_costs_are_measured_on_the_device():
    model, args, _ = MODELS["torch"]()
    costs = mha.measure_costs(model, args, device=DEVICE, seconds=1.0, progress=False)
    half = mha.HeadPlan(dict.fromkeys(mha.find_attention(model), range(3)))
    assert 0 < costs.latency(half).share < 1.5
    assert costs.environment["device"].startswith(torch.device(DEVICE).type)


def test_repair_gives_what_it_gives_on_the_cpu():
    plan = mha.HeadPlan(dict.fromkeys(mha.find_attention(encoder()), (0, 3, 4)))

    def repaired(device):
        dense = encoder().to(device)
        data = [draw(67, 7, E).float().to(device)]
        fitted = mha.compensate(mha.prune(dense, plan), dense, data, lambda model, x: model(x), progress=False)
        with torch.no_grad():
            return fitted(data[0])

    assert away(repaired(DEVICE), repaired("cpu").double()) < 1e-3


def test_distillation_comes_nearer_to_the_dense_model():
    dense = encoder().to(DEVICE)
    pruned = mha.prune(dense, mha.HeadPlan(dict.fromkeys(mha.find_attention(dense), (0, 3, 4))))
    data = [draw(16, 7, E).float().to(DEVICE) * scale for scale in (0.5, 1.0, 1.5, 2.0)]

    def distance(model):
        with torch.no_grad():
            return sum(float((model(x) - dense(x)).square().mean()) for x in data)

    before = distance(pruned)
    taught = mha.distill(pruned, dense, data, lambda model, x: model(x), steps=40, learning_rate=1e-3, progress=False)
    assert distance(taught) < 0.9 * before


def test_what_was_pruned_there_is_loaded_here(tmp_path):
    model, args, _ = MODELS["torch"]()
    plan = mha.HeadPlan(dict.fromkeys(mha.find_attention(model), (1, 5)))
    pruned = mha.prune(model.to(DEVICE), plan)
    mha.save_pruned(pruned, tmp_path / "saved")
    loaded = mha.load_pruned(tmp_path / "saved", encoder())
    with torch.no_grad():
        assert away(pruned(args[0].to(DEVICE)), loaded(args[0]).double()) < 1e-5


def test_the_optimizers_state_is_cut_there():
    model = encoder().to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss(model, batches(DEVICE)[0]).backward()
    optimizer.step()
    plan = mha.HeadPlan(dict.fromkeys(mha.find_attention(model), (0, 2)))
    mha.prune(model, plan, inplace=True, optimizer=optimizer)
    for parameter in model.parameters():
        moment = optimizer.state[parameter]["exp_avg"]
        assert (moment.shape, moment.device) == (parameter.shape, parameter.device)
    optimizer.zero_grad()
    loss(model, batches(DEVICE)[0]).backward()
    optimizer.step()


@pytest.mark.parametrize("way", ["graph", "compile"])
def test_a_pruned_layer_is_recorded_and_compiled(way):
    if DEVICE == "cpu":
        pytest.skip("CUDA graphs are a GPU's, and compiling takes a CPU long")
    pruned = mha.prune(layer(G).float(), mha.HeadPlan({"": (0, 1, 2)})).to(DEVICE)
    x = draw(B, S, E).float().to(DEVICE)
    with torch.inference_mode():
        expected = pruned(x, x, x, is_causal=True).cpu().double()
    if way == "graph":
        from bench.measure.graphs import graph

        kept = []
        replay = graph(lambda: kept.append(pruned(x, x, x, is_causal=True)), DEVICE)
        kept[-1].zero_()
        replay()
        found = kept[-1]
    else:
        found = torch.compile(pruned)(x, x, x, is_causal=True)
    assert away(found, expected) < 1e-4
