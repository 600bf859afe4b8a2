"""transformers' models, tiny and with random weights: one or more for each convention."""

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TEXT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 40, "vocab_size": 97}
GROUPED = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
GPT = {"n_embd": 48, "n_layer": 2, "n_head": 6, "vocab_size": 97, "n_positions": 64}
SEQ2SEQ = {
    "d_model": 48,
    "vocab_size": 97,
    "max_position_embeddings": 64,
    **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (("layers", 2), ("ffn_dim", 40))},
    **{f"{side}_attention_heads": 6 for side in ("encoder", "decoder")},
}
EXPERTS = {"experts_implementation": "eager", "num_experts_per_tok": 1}

SEQ2SEQ_TYPES = ("bart", "t5")
PRUNABLE = {
    "llama": GROUPED,
    "qwen3": GROUPED,  # heads normalised
    "qwen3_next": {  # half of each query head is a gate
        **GROUPED,
        **EXPERTS,
        "layer_types": ["full_attention"] * 2,
        "num_experts": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "gpt_oss": {**GROUPED, **EXPERTS, "num_local_experts": 2, "layer_types": ["full_attention"] * 2},  # sinks
    "bert": TEXT,  # the output projection beside the module that attends
    "vit": {**TEXT, "image_size": 16, "patch_size": 8},
    "distilbert": {"dim": 48, "n_layers": 2, "n_heads": 6, "hidden_dim": 40, "vocab_size": 97},
    "bart": SEQ2SEQ,  # cross-attention
    "gpt2": GPT,  # weights the other way round
    "gpt_neox": TEXT,  # a head's query, key and value side by side
    "persimmon": TEXT,
    "phi3": {**TEXT, "num_key_value_heads": 2, "pad_token_id": 0},  # config read in forward
    "modernbert": {**TEXT, "pad_token_id": 0},
    "t5": {"d_model": 48, "num_layers": 2, "num_heads": 6, "d_kv": 8, "d_ff": 40, "vocab_size": 97},  # a bias for all
    "deepseek_v3": {  # latent attention
        **TEXT,
        "num_key_value_heads": 6,
        "q_lora_rank": 14,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 6,
        "v_head_dim": 5,
        "first_k_dense_replace": 2,
    },
}


def build(model_type: str, sizes: dict, auto: str = "AutoModel", spread: float = 0.2):
    """A model of this type and these sizes in float64 and eval mode, every weight drawn."""
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    config.bos_token_id = config.eos_token_id = None
    torch.manual_seed(1)
    model = getattr(transformers, auto).from_config(config).double().eval()
    for name, parameter in model.named_parameters():
        mean = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, mean, spread)
    return model


def inputs_for(model_type: str) -> dict[str, torch.Tensor]:
    """What the forward of a model that `build` made takes."""
    generator = torch.Generator().manual_seed(2)
    if model_type == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator, dtype=torch.float64)}
    ids = torch.randint(3, 97, (2, 11), generator=generator)
    return {"input_ids": ids, "decoder_input_ids": ids[:, :7]} if model_type in SEQ2SEQ_TYPES else {"input_ids": ids}
