"""Llama's attention in files that are not transformers': today's, and a module that reads like older releases'."""

import inspect
import sys
from types import ModuleType

import pytest
import torch
from transformers import DynamicCache, LlamaConfig
from transformers.models.llama import modeling_llama

import mha
from mha import HeadPlan
from tests.mha.families.like.older_llama import Angles, Older
from tests.mha.families.proof import load_as, prove

CONFIG = {
    "hidden_size": 24,
    "intermediate_size": 13,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 10,
    "vocab_size": 31,
    "max_position_embeddings": 17,
}
MERGES = "attn_output = attn_output.reshape(*input_shape, -1).contiguous()"
HALVES = "return torch.cat((-x2, x1), dim=-1)"


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """Llama's file under another name, as transformers loads code that comes with a model; with something changed."""

    def load(said: str = "", instead: str = "") -> ModuleType:
        source = inspect.getsource(modeling_llama).replace("from ...", "from transformers.")
        source = source.replace("from .configuration_llama", "from transformers.models.llama.configuration_llama")
        assert said in source
        name = f"transformers_modules.someone.modeling_{len(instead)}"
        path = tmp_path / f"modeling_{len(instead)}.py"
        path.write_text(source.replace(said, instead) if said else source, encoding="utf-8")
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        return load_as(name, path)

    return load


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_todays_llama_in_a_file_of_its_own(remote, implementation, tmp_path):
    model = remote().LlamaModel(LlamaConfig(**CONFIG, attn_implementation=implementation))
    layers = prove(model, (torch.arange(10).reshape(2, 5),), {"use_cache": False}, directory=tmp_path / "saved")
    assert list(layers) == ["layers.0.self_attn", "layers.1.self_attn"]


@pytest.mark.parametrize(
    ("said", "instead", "reason"),
    [
        (
            MERGES,
            f"attn_output = attn_output.roll(1, dims=2)\n        {MERGES}",
            "the code of LlamaAttention says 'attn",
        ),
        (HALVES, "return torch.cat((-x2, x1), dim=1)", "the code of rotate_half says"),
        (
            "def eager_attention_forward(",
            "def eager_attention_forwards(",
            "source of eager_attention_forward can't be read",
        ),
    ],
)
def test_a_copy_with_a_line_of_its_own_is_refused(remote, said, instead, reason):
    module = remote(said, instead)
    model = module.LlamaModel(LlamaConfig(**CONFIG))
    assert reason in mha.find_attention(model).unsupported["layers.0.self_attn"]


def test_an_older_release_counts_its_heads_itself(tmp_path):
    mask = torch.full((5, 5), -1e9, dtype=torch.float64).triu(1)[None, None]
    x, places = torch.randn(2, 5, 36, dtype=torch.float64), torch.arange(5)[None]
    prove(Older(36, 6, 3), (x, mask, places), directory=tmp_path)
    pruned = mha.prune(Older(36, 6, 3), HeadPlan({"": (0, 1, 4, 5)}))
    assert (pruned.num_heads, pruned.num_key_value_heads, pruned.num_key_value_groups, pruned.hidden_size) == (
        4,
        2,
        2,
        24,
    )


def test_an_older_layer_without_heads_returns_the_cache_it_was_given():
    attention, cache = mha.prune(Older(36, 6, 3), HeadPlan({"": ()})), DynamicCache()
    _, _, returned = attention(torch.randn(2, 5, 36), None, torch.arange(5)[None], cache)
    assert returned is cache
    assert cache.get_seq_length() == 5


class Own(modeling_llama.LlamaAttention):
    """A user's class that is one of transformers'."""


def test_a_subclass_of_transformers_own_class_is_known(tmp_path):
    config = LlamaConfig(**CONFIG, attn_implementation="eager")
    angles = Angles()(torch.zeros(1, 10, dtype=torch.float64), torch.arange(5)[None])
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    prove(Own(config, layer_idx=0), (x, angles, None), directory=tmp_path)
