"""Shrink the configuration of any model type of transformers to a few thousand weights.

The default configuration of a type says which sizes it has; the tables below say how large they are to be. A
sub-configuration is shrunk in the same way, and what holds one entry per layer is cut to a few layers that show
every kind of layer the type has.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from tools.model_zoo.overrides import CONFIGS, DROPPED

# Sizes that differ wherever they may, so that swapped axes cannot cancel.
_BY_SIZE: dict[Any, str] = {
    # widths: six heads of eight, or of sixteen where the width of a head can be chosen
    48: """hidden_size d_model n_embd emb_dim decoder_hidden_size dim embed_dim out_hidden_size text_hidden_size
        hidden_dim word_embed_proj_dim qformer_hidden_size output_hidden_size encoder_hidden_dim attention_hidden_size
        decoder_hidden_dim encoder_linear_dim lru_width output_dim memory_encoder_hidden_size
        memory_attention_hidden_size mask_downsampler_embed_dim memory_fuser_embed_dim""",
    16: "head_dim attention_head_dim d_kv dim_head swa_head_dim kv_channels d_head cross_head_dim",
    24: "global_head_dim",
    # heads and key/value groups
    6: """num_attention_heads n_head n_heads num_heads attention_heads encoder_attention_heads encoder_num_heads
        num_encoder_attention_heads speech_encoder_attention_heads encoder_num_attention_heads
        t2u_encoder_attention_heads cross_num_attention_heads num_self_attention_heads""",
    4: """decoder_attention_heads num_decoder_attention_heads decoder_num_attention_heads decoder_num_heads
        swa_num_attention_heads t2u_decoder_attention_heads decoder_self_attention_heads
        n_routed_experts num_experts num_local_experts moe_num_experts linear_num_value_heads mamba_n_heads
        n_mamba_heads mamba_num_heads""",
    2: """num_key_value_heads num_kv_heads swa_num_key_value_heads num_global_key_value_heads kv_n_heads
        cross_num_key_value_heads
        num_hidden_layers num_layers n_layer n_layers depth encoder_layers decoder_layers num_decoder_layers
        num_encoder_layers speech_encoder_layers decoder_num_hidden_layers decoder_num_layers
        memory_attention_num_layers num_lstm_layers t2u_encoder_layers t2u_decoder_layers layers
        num_experts_per_tok num_experts_per_token moe_topk top_k_experts moe_k moe_top_k
        linear_num_key_heads spatial_merge_size temporal_patch_size full_attention_interval linear_num_heads""",
    # the widths of feed-forward networks and experts
    72: """intermediate_size encoder_ffn_dim decoder_ffn_dim ffn_dim d_ff ffn_hidden_size mlp_dim d_inner n_inner dff
        dim_ff feed_forward_size dim_feedforward decoder_intermediate_size intermediate_size_mlp
        dense_intermediate_size encoder_dim_feedforward decoder_dim_feedforward encoder_feedforward_dim
        expert_ffn_hidden_size speech_encoder_intermediate_size encoder_linear_units decoder_linear_units
        t2u_encoder_ffn_dim t2u_decoder_ffn_dim memory_attention_feed_forward_hidden_size
        memory_fuser_intermediate_dim mit_intermediate_size""",
    40: """moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size
        moe_shared_expert_intermediate_size share_expert_dim shared_experts_intermediate_size""",
    1: "n_shared_experts num_shared_experts moe_num_shared_experts n_group topk_group first_k_dense_replace",
    # vocabularies and lengths
    131: """vocab_size src_vocab_size tgt_vocab_size vocab_size_per_layer_input decoder_vocab_size text_vocab_size
        unpadded_vocab_size t2u_vocab_size unit_hifi_gan_vocab_size char_vocab_size entity_vocab_size
        input_vocab_size output_vocab_size text_encoder_vocab_size pronunciation_vocab_size shape_vocab_size
        num_bpe_labels num_wordpiece_labels codebook_vocab_size vision_vocab_size num_hash_buckets
        encoder_hash_byte_group_vocab head_out_channels""",
    64: """max_position_embeddings n_positions n_ctx max_source_positions max_seq_len max_target_positions
        max_text_positions max_sequence_length max_encoder_position_embeddings max_decoder_position_embeddings
        t2u_max_position_embeddings max_speech_positions position_embedding_size""",
    # latent attention, indexers and linear attention
    20: "kv_lora_rank qk_head_dim hidden_size_per_layer_input classifier_proj_size entity_emb_size",
    28: "q_lora_rank embedding_size o_lora_rank",
    8: """index_n_heads qk_rope_head_dim linear_key_head_dim linear_head_dim relative_attention_num_buckets rel_extent
        d_rel""",
    12: "qk_nope_head_dim linear_value_head_dim index_head_dim v_head_dim",
    5: "sliding_window sliding_window_size num_query_tokens",
    7: "num_queries index_topk",
    # channels of convolutions, codebooks and projections
    32: """base_channels upsample_initial_channel fpn_hidden_size conv_channels upsample_groups codebook_size
        vector_quantization_hidden_dimension codebook_dim output_channels subsampling_conv_channels latent_channels
        downsample_hidden_size conv_dim iou_head_hidden_dim num_embeddings ext_pw_out_channel
        depthwise_separable_out_channel nemo_conv_channels stem_out_channels
        kernel_predictor_hidden_channels model_in_channels feature_size
        mask_feature_size fpn_feature_size mask_dim aspp_out_channels""",
    36: """projection_dim projection_intermediate_dim projector_hidden_size projection_intermediate_size
        alignment_intermediate_size projection_hidden_dim shape_embed_dim pronunciation_embed_dim
        image_text_hidden_size pooler_output_size pooler_hidden_size merged_hidden_size prompt_intermediate_size
        intermediate_projection_size projection_hidden_size codevector_dim proj_codevector_dim xvector_output_dim
        xvector_dim speaker_embed_dim spkr_embed_dim lang_embed_dim unit_embed_dim prediction_head_size
        laurel_rank position_embedding_dim""",
    30: """speech_decoder_postnet_units duration_predictor_channels energy_predictor_channels
        pitch_predictor_channels duration_predictor_filter_channels t2u_variance_predictor_embed_dim
        t2u_variance_predictor_hidden_dim speech_decoder_prenet_units frequency_embedding_size prompt_mid_dim
        adapter_rank router_hidden_size""",
    # images and sounds
    (32,): "image_size crop_size max_img_size img_size pretrain_image_size",
    (8,): "patch_size",
    (16,): "num_mel_bins num_position_embeddings num_conv_pos_embeddings pos_emb_height pos_emb_width",
    (4,): "num_conv_pos_embedding_groups mamba_d_head mamba_head_dim",
    (3,): "num_channels num_codebooks",
    (20,): "relative_attention_max_distance num_codevectors_per_group",
}
SIZES: dict[str, int] = {
    name: size[0] if isinstance(size, tuple) else size for size, names in _BY_SIZE.items() for name in names.split()
}

# Towers beside the text model get other widths than it has.
TOWERS: dict[str, dict[str, int]] = {
    "Vision": {"hidden_size": 32, "embed_dim": 32, "num_attention_heads": 4, "num_heads": 4, "intermediate_size": 52},
    "Audio": {"hidden_size": 40, "d_model": 40, "num_attention_heads": 4, "encoder_attention_heads": 4},
}

# Channels by stage: all divided by the power of two that brings the largest under the limit.
STAGED = {
    "hidden_sizes",
    "embed_dim",
    "embed_dims",
    "conv_dim",
    "encoder_in_channels",
    "stage_in_channels",
    "stage_out_channels",
    "stage_mid_channels",
    "stem_channels",
    "embed_dim_per_stage",
    "backbone_channel_list",
    "encoder_hidden_sizes",
    "neck_hidden_sizes",
    "base_attn_unit_dims",
    "tdnn_dim",
    "subsampling_conv_channels",
    "sscp_conv_channel_size",
    "downsample_channels",
}
WIDEST = 128
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "encoder_layers")
MOST_LAYERS = 4

COMMON_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
FIRST_SPECIAL_TOKEN = 100
PLACEHOLDERS = ("image_token", "video_token", "audio_token")


def tiny_config(model_type: str) -> PreTrainedConfig:
    """The configuration of a model type, with every size in it made small."""
    default = CONFIG_MAPPING[model_type]()
    special = sorted(set(_special_tokens(default)) - set(COMMON_TOKENS))
    tokens = COMMON_TOKENS | {name: FIRST_SPECIAL_TOKEN + i for i, name in enumerate(special)}
    return _shrunk(default, tokens, {})


def _shrunk(default: PreTrainedConfig, tokens: Mapping[str, int], given: Mapping[str, Any]) -> PreTrainedConfig:
    """A configuration like `default`, with small sizes.

    Args:
        tokens: name of each special token's field -> its id.
        given: what the tables say about the fields of this sub-configuration, in the row of the one that holds it.
    """
    kind = type(default)
    overrides = {**CONFIGS.get(kind.__name__, {}), **given}
    plain = dict(_fields(kind()))
    values: dict[str, Any] = {}
    for name, value in _fields(default):
        if isinstance(value, PreTrainedConfig) or isinstance(overrides.get(name, 0), dict | None):
            values[name] = _shrunk_part(value, tokens, overrides.pop(name, {}))
        elif name in tokens and (value is not None or name.startswith(PLACEHOLDERS)):
            values[name] = tokens[name]
        elif (size := _shrunk_value(kind, name, value)) is not None:
            values[name] = size
        elif value != plain.get(name):
            values[name] = value
    values |= _few_layers(default, overrides)
    values |= _latent_heads(values)
    values |= overrides
    values |= _rotary(default, values)
    return kind(**{name: value for name, value in values.items() if value is not DROPPED})


def _shrunk_part(default: Any, tokens: Mapping[str, int], given: Any) -> Any:
    """A sub-configuration with small sizes, of another type if `given` names a `model_type`, or `given` itself."""
    if given is None or not isinstance(given, dict):
        return given
    if "model_type" in given:
        given = dict(given)
        default = CONFIG_MAPPING[given.pop("model_type")]()
    return _shrunk(default, tokens, given) if isinstance(default, PreTrainedConfig) else given


def _fields(config: PreTrainedConfig) -> Iterator[tuple[str, Any]]:
    """Name and value of each field that the configuration's constructor takes beside those all types have."""
    config.allow_global_per_layer_attribute_access = True
    base = {field.name for field in fields(PreTrainedConfig)}
    own = [field.name for field in fields(type(config)) if field.name not in base]
    for name in own:
        if hasattr(config, name):
            yield name.removeprefix("_"), getattr(config, name)


def _special_tokens(config: PreTrainedConfig) -> Iterator[str]:
    for name, value in _fields(config):
        if isinstance(value, PreTrainedConfig):
            yield from _special_tokens(value)
        elif name.endswith(("_token_id", "_token_index")) and not name.startswith("t2u_"):
            yield name


def _shrunk_value(kind: type[PreTrainedConfig], name: str, value: Any) -> Any:
    """The small size for the field `name`, in the form that `value` has; None if the field stays as it is."""
    is_list = isinstance(value, list | tuple)
    if name in STAGED and is_list and all(isinstance(size, int) for size in value):
        return _narrowed(value)
    if name == "depths" and is_list:
        return type(value)(1 for _ in value)
    size = next((sizes[name] for tower, sizes in TOWERS.items() if tower in kind.__name__ and name in sizes), None)
    size = SIZES.get(name) if size is None else size
    if size is None or value is None or isinstance(value, bool):
        return None
    if is_list:
        return type(value)(size for _ in value) if name in {"image_size", "patch_size"} else None
    return type(value)(size) if isinstance(value, int | float) else None


def _narrowed(widths: Sequence[int]) -> Sequence[int]:
    divisor = 1
    while max(widths) // divisor > WIDEST and all(width % (2 * divisor) == 0 for width in widths):
        divisor *= 2
    return type(widths)([width // divisor for width in widths])  # type: ignore[call-arg]


def _few_layers(default: PreTrainedConfig, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that leave one layer of each kind, at least two, where the configuration lists its layers; or {}."""
    present = dict(_fields(default))
    count = next((name for name in LAYER_COUNTS if isinstance(present.get(name), int)), None)
    outputs = present.get("out_indices") or []
    if count is None or present[count] <= MOST_LAYERS or count in overrides or "depths" in present:
        return {}
    listed = {
        name: value
        for name, value in present.items()
        if isinstance(value, list | tuple) and len(value) == present[count] and name not in overrides
    }
    kinds: dict[str, int] = {}
    for layer in range(present[count]):
        kinds.setdefault(repr([value[layer] for value in listed.values()]), layer)
    chosen = list(kinds.values())[:MOST_LAYERS]
    while len(chosen) < max(2, len(outputs)):
        chosen.append(chosen[-1])
    cut: dict[str, Any] = {name: type(value)(value[layer] for layer in chosen) for name, value in listed.items()}
    if outputs:
        cut |= {"out_features": None, "out_indices": [len(chosen) - i for i in range(len(outputs))][::-1]}
    return {count: len(chosen), **cut}


def _latent_heads(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of latent attention, else {}: as many key/value heads as heads, and the rotary width as `head_dim`."""
    if "kv_lora_rank" not in values:
        return {}
    same = {"num_key_value_heads": values.get("num_attention_heads"), "head_dim": values.get("qk_rope_head_dim")}
    return {name: value for name, value in same.items() if name in values}


def _rotary(default: PreTrainedConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters whose sections add up to half of the head's rotated width; {} if there are none to set."""
    parameters = getattr(default, "rope_parameters", None)
    if not isinstance(parameters, dict) or "rope_parameters" in values:
        return {}
    heads = values.get("num_attention_heads", 1)
    width = values.get("head_dim") or values.get("hidden_size", 48) // heads
    return {"rope_parameters": _fitted(parameters, width)}


def _fitted(parameters: Mapping[str, Any], width: int) -> dict[str, Any]:
    fitted: dict[str, Any] = {
        key: _fitted(value, width) if isinstance(value, dict) else value for key, value in parameters.items()
    }
    if sections := fitted.get("mrope_section"):
        pairs, parts = int(width * fitted.get("partial_rotary_factor", 1.0)) // 2, len(sections)
        fitted["mrope_section"] = [pairs // parts + (part < pairs % parts) for part in range(parts)]
    return fitted
