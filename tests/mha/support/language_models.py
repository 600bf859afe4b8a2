"""Tiny language models of transformers, and plans for them."""

import torch

import mha
from mha import HeadPlan
from tests.mha.support import transformers_models

SIZES = {"hidden_size": 84, "num_hidden_layers": 2, "intermediate_size": 17, "vocab_size": 97, "pad_token_id": 0}
GROUPED = {**SIZES, "num_attention_heads": 6, "num_key_value_heads": 2}
UNEVEN = {**GROUPED, "hidden_size": 30, "head_dim": 14, "num_hidden_layers": 3}
GPT = {"n_embd": 84, "n_layer": 2, "n_head": 6, "vocab_size": 97, "n_positions": 64}
IDS = torch.tensor([[5, 3, 7, 11, 13, 2, 9, 4]])


def build(model_type: str, auto: str = "AutoModelForCausalLM", **sizes):
    """A language model of this type and these sizes, every weight drawn."""
    return transformers_models.build(model_type, sizes, auto, spread=0.1)


def logits(model) -> torch.Tensor:
    """The model's logits for the tokens `IDS`."""
    with torch.no_grad():
        return model(IDS).logits


def alike(model, heads=(3, 4, 5)) -> HeadPlan:
    """The same heads in every layer."""
    return HeadPlan(dict.fromkeys(mha.find_attention(model), heads))


def first(model, heads) -> HeadPlan:
    """These heads in the first layer, all in the others."""
    return HeadPlan({next(iter(mha.find_attention(model))): heads})


def uneven(model) -> HeadPlan:
    """Four of six heads in the first layer, none in the second, all in the others."""
    names = list(mha.find_attention(model))
    return HeadPlan({names[0]: (1, 2, 3, 5), names[1]: ()})
