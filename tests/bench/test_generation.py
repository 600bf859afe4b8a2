"""Generation: what prefill and decode compute, that a cache stays as long as it was, and what is counted."""

from pathlib import Path

import pytest
import torch

import mha
from bench.bench_generation import GenerationCase, _cache_bytes, _cases, _counts, decode, prefill
from bench.models.experiment import first_groups
from bench.models.random_llamas import random_llama
from bench.settings.options import RunSettings
from tests.bench.tiny_task import TinyTask

B, S = 2, 13


@pytest.fixture(scope="module")
def model():
    return random_llama()


def case(phase, **changes):
    usual = {"subject": "llama", "keep": 0.5, "phase": phase, "batch": B, "length": S, "device": "cpu"}
    return GenerationCase(**usual | {"dtype": "float32"} | changes)


def prompt(length, seed=0):
    return torch.randint(1000, (B, length), generator=torch.Generator().manual_seed(seed))


def test_prefill_reads_prompts_and_fills_a_cache(model):
    calls = prefill(case("prefill"), model)
    first, second = calls()(), calls()()
    with torch.no_grad():
        torch.testing.assert_close(first.logits, model(input_ids=prompt(S)).logits)
    assert first.past_key_values.get_seq_length() == S
    assert not first.logits.equal(second.logits)  # inputs rotate


def test_every_decode_reads_one_token_after_the_same_prompt(model):
    prepare = decode(case("decode"), model)
    for seed in (0, 1, 0, 1):
        found = prepare()()
        with torch.no_grad():
            whole = model(input_ids=torch.cat([prompt(S), prompt(1, seed)], 1)).logits[:, -1:]
        torch.testing.assert_close(found.logits, whole, rtol=1e-4, atol=1e-4)
        assert found.past_key_values.get_seq_length() == S + 1


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_counts_by_arithmetic(model, phase):
    """4 layers; 8 query heads on 4 key/value heads of width 64; widths 512 and 1376; 1000 tokens spelled."""
    kept = mha.prune(model, mha.HeadPlan({name: range(4) for name in mha.find_attention(model)}))
    for pruned, heads, groups in ((model, 8, 4), (kept, 4, 2)):
        queries, keys = (S, S) if phase == "prefill" else (1, S + 1)
        tokens = B * queries
        projections = tokens * 512 * 64 * (2 * heads + 2 * groups)
        attention = 4 * B * heads * queries * keys * 64
        network = tokens * 3 * 512 * 1376
        found = _counts(case(phase), pruned)
        assert found["attention_flops"] == 4 * attention
        assert found["flops"] == 4 * (2 * projections + attention + 2 * network) + 2 * tokens * 512 * 1000
        assert found["cache_bytes"] == 4 * 2 * B * groups * S * 64 * 4
        assert found["parameters"] == sum(parameter.numel() for parameter in pruned.parameters())
        assert found["bytes"] >= 4 * found["parameters"] + found["cache_bytes"]


def test_a_pruned_cache_holds_the_kept_groups_only(model):
    with torch.no_grad():
        cache = model(input_ids=prompt(S), use_cache=True).past_key_values
    assert _cache_bytes(cache) == 4 * 2 * B * 4 * S * 64 * 4


def test_plans_keep_whole_groups_and_at_least_one(model):
    layer = next(iter(mha.find_attention(model).values()))
    assert [first_groups(layer, keep) for keep in (1.0, 0.5, 0.01)] == [tuple(range(8)), (0, 1, 2, 3), (0, 1)]


def test_cases_and_their_names():
    class Generating(TinyTask):
        name = "talks"
        generates = True

    settings = RunSettings(
        directory=Path("run"), tasks=(TinyTask(), Generating()), criteria=(), keep=(1.0, 0.5), batch_sizes=None,
        devices=("cpu",), preset="quick", dtypes=("float32", "bfloat16"), lengths=(5, 7),
    )  # fmt: skip
    found = list(_cases(settings))
    assert {one.subject for one in found} == {"llama", "talks"}
    assert len({one.id for one in found}) == len(found) == 2 * 2 * 2 * 2
    assert case("decode", dtype="bfloat16").id == "generation-llama-keep0.5-decode-b2-s13-bfloat16-cpu"
    assert case("decode").record()["tokens"] == B
    assert case("prefill").record()["tokens"] == B * S
