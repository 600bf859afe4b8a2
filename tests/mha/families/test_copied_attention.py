"""Llama's attention in files that are not transformers': today's, and a module that reads like older releases'."""

import inspect
import math
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig
from transformers.models.llama import modeling_llama

import mha
from mha import HeadPlan
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


def rotate_half(x: Tensor) -> Tensor:
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    cos = cos.unsqueeze(1)
    sin = sin.unsqueeze(1)
    q_embed = q * cos + rotate_half(q) * sin
    k_embed = k * cos + rotate_half(k) * sin
    return q_embed, k_embed


def repeat_kv(hidden_states: Tensor, n_rep: int) -> Tensor:
    batch, num_key_value_heads, slen, head_dim = hidden_states.shape
    hidden_states = hidden_states[:, :, None, :, :].expand(batch, num_key_value_heads, n_rep, slen, head_dim)
    return hidden_states.reshape(batch, num_key_value_heads * n_rep, slen, head_dim)


class Angles(nn.Module):
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None] * torch.linspace(0.1, 1, x.shape[-1] // 2, dtype=x.dtype).repeat(2)
        return angles.cos(), angles.sin()


class Older(nn.Module):
    """Counts its own heads, and returns the cache that it was given."""

    def __init__(self, hidden_size: int, num_heads: int, num_key_value_heads: int) -> None:
        super().__init__()
        self.hidden_size, self.num_heads, self.head_dim = hidden_size, num_heads, hidden_size // num_heads
        self.num_key_value_heads, self.num_key_value_groups = num_key_value_heads, num_heads // num_key_value_heads
        self.layer_idx, self.attention_dropout, self.rotary_emb = 0, 0.1, Angles()
        self.q_proj, self.o_proj = (nn.Linear(hidden_size, hidden_size) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(hidden_size, num_key_value_heads * self.head_dim) for _ in range(2))

    def forward(
        self, hidden_states, attention_mask=None, position_ids=None, past_key_value=None, output_attentions=False
    ):
        bsz, q_len, _ = hidden_states.size()
        query_states = self.q_proj(hidden_states)
        key_states = self.k_proj(hidden_states)
        value_states = self.v_proj(hidden_states)
        query_states = query_states.view(bsz, q_len, self.num_heads, self.head_dim).transpose(1, 2)
        key_states = key_states.view(bsz, q_len, self.num_key_value_heads, self.head_dim).transpose(1, 2)
        value_states = value_states.view(bsz, q_len, self.num_key_value_heads, self.head_dim).transpose(1, 2)
        cos, sin = self.rotary_emb(value_states, position_ids)
        query_states, key_states = apply_rotary_pos_emb(query_states, key_states, cos, sin)
        if past_key_value is not None:
            cache_kwargs = {"sin": sin, "cos": cos}
            key_states, value_states = past_key_value.update(key_states, value_states, self.layer_idx, cache_kwargs)
        key_states = repeat_kv(key_states, self.num_key_value_groups)
        value_states = repeat_kv(value_states, self.num_key_value_groups)
        attn_weights = torch.matmul(query_states, key_states.transpose(2, 3)) / math.sqrt(self.head_dim)
        if attention_mask is not None:
            attn_weights = attn_weights + attention_mask
        attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=torch.float32).to(query_states.dtype)
        attn_weights = nn.functional.dropout(attn_weights, p=self.attention_dropout, training=self.training)
        attn_output = torch.matmul(attn_weights, value_states)
        attn_output = attn_output.transpose(1, 2).contiguous()
        attn_output = attn_output.reshape(bsz, q_len, self.hidden_size)
        attn_output = self.o_proj(attn_output)
        if not output_attentions:
            attn_weights = None
        return attn_output, attn_weights, past_key_value


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
