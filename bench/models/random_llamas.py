"""Causal models of known sizes with random weights: how long they take does not depend on what the weights say."""

from typing import Any

import pytest
import torch
from torch import nn

RANDOM: dict[str, dict[str, Any]] = {
    # 4 layers, 8 query heads in 4 groups: small enough for a CPU
    "llama": {
        "vocab_size": 1000,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
    },
    # the sizes of SmolLM2-135M, as its config.json has them
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    # the sizes of Llama-3.2-1B, as its config.json has them: 1.24 billion parameters
    "llama-1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
}
SMALL = ("llama",)  # what is timed where the preset does not say otherwise
LARGE = {"accelerator": ("llama-1b", "smollm2-135m")}  # preset -> what is timed in place of SMALL
HALVES = ("bfloat16",)  # that large ones are timed in


def random_llama(name: str = "llama", device: str = "cpu", dtype: str = "float32") -> nn.Module:
    """A Llama of one of `RANDOM` in eval mode, with random weights that are the same every time on a device.

    Without transformers the test that asks for it is skipped.
    """
    transformers = pytest.importorskip(
        "transformers", reason="generating needs transformers: pip install -e '.[peers]'"
    )
    devices = [] if device == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=torch.device(device).type), torch.device(device):
        torch.manual_seed(0)
        model: nn.Module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**RANDOM[name]))
    return model.eval().to(getattr(torch, dtype))
