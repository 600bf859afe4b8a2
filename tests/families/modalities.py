"""Inputs of single model types, where the recipes by argument name do not fit."""

import torch
from torch import Tensor

from tests.families.inputs import BATCH, GRID, LENGTH, TARGET_LENGTH, Recipe, Request, first, frames, noise, ones, text_around, value, words

FRAMES = 4  # of a video
ROWS = GRID[0] * GRID[1] * GRID[2]


def several(*types: str, **recipes: Recipe | None) -> dict[str, dict[str, Recipe | None]]:
    return {name: recipes for name in types}


def mask(length: int, dtype: torch.dtype = torch.long) -> Recipe:
    """Ones, but for the last eighth of the second example."""

    def made(_: Request) -> Tensor:
        valid = torch.ones(BATCH, length, dtype=dtype)
        valid[-1, length - length // 8 :] = 0
        return valid

    return made


def full(constant: float, *shape: int, dtype: torch.dtype = torch.long) -> Recipe:
    return lambda _: torch.full(shape, constant, dtype=dtype)


def images(count: int, size: int = 32) -> Recipe:
    """Several images to each text."""
    return noise(BATCH, count, 3, size, size)


FORECAST: dict[str, Recipe | None] = {
    "past_values": noise(BATCH, 17),
    "past_time_features": noise(BATCH, 17, 2),
    "past_observed_mask": ones(BATCH, 17),
    "future_values": noise(BATCH, 5),
    "future_time_features": noise(BATCH, 5, 2),
}

INPUTS: dict[str, dict[str, Recipe | None]] = {
    # time series
    **several("autoformer", "informer", "time_series_transformer", **FORECAST),
    "patchtst": {"past_values": noise(BATCH, 32, 1)},
    "patchtsmixer": {"past_values": noise(BATCH, 32, 1)},
    "timesfm": {"past_values": noise(BATCH, 64), "past_values_padding": full(0, BATCH, 64), "freq": full(0, BATCH, 1)},
    "timesfm2_5": {"past_values": noise(BATCH, 64)},
    "decision_transformer": {
        "states": noise(BATCH, LENGTH, 17),
        "actions": noise(BATCH, LENGTH, 4),
        "rewards": noise(BATCH, LENGTH, 1),
        "returns_to_go": noise(BATCH, LENGTH, 1),
        "timesteps": lambda _: torch.arange(LENGTH).expand(BATCH, -1),
        "attention_mask": mask(LENGTH),
    },
    # videos
    **several("timesformer", "vivit", "videomae", pixel_values=images(FRAMES)),
    **several("vjepa2", "videoprism_vision_model", "videoprism", pixel_values_videos=images(FRAMES)),
    "xclip": {"pixel_values": images(2)},
    # images of another size or form
    **several("convnext", "convnextv2", pixel_values=noise(BATCH, 3, 64, 64)),
    **several("pp_ocrv5_server_rec", "pp_ocrv5_mobile_rec", pixel_values=noise(BATCH, 3, 48, 160)),
    "tvp": {"pixel_values": noise(1, 2, 3, 64, 64), "input_ids": words(1, LENGTH)},  # it takes one video
    "depth_pro": {"pixel_values": noise(BATCH, 3, 128, 128)},
    "lw_detr": {"pixel_values": noise(BATCH, 3, 64, 64)},
    **several("lightglue", "efficientloftr", pixel_values=noise(BATCH, 2, 3, 64, 64)),
    **several("hunyuan_vl", "hunyuan_vl_vision", pixel_values=noise(BATCH * ROWS, 3 * 8 * 8)),
    **several("kimi_k25", "kimi_k25_vision", pixel_values=noise(BATCH * ROWS, 3, 8, 8)),
    "seggpt": {
        "prompt_pixel_values": noise(BATCH, 3, 32, 32),
        "prompt_masks": noise(BATCH, 3, 32, 32),
    },
    # several images to a text
    **several("idefics2", "idefics3", "smolvlm", "modernvbert", "ultravbert", pixel_values=images(1)),
    "idefics": {
        "pixel_values": images(1),
        "image_attention_mask": ones(BATCH, LENGTH, 1),
    },
    "granite_docling": {"pixel_values": images(1), "pixel_attention_mask": full(True, BATCH, 1, dtype=torch.bool)},
    **several(
        "siglip2",
        "siglip2_vision_model",
        "lfm2_vl",
        pixel_values=noise(BATCH, 16, 192),
        pixel_attention_mask=ones(BATCH, 16),
        spatial_shapes=value(torch.tensor([[4, 4]] * BATCH)),
    ),
    **several("mistral3", "mistral_large4", "lighton_ocr", "pixtral", image_sizes=value(torch.tensor([[32, 32]] * BATCH))),
    # sound, frames first
    **several(
        "canary", "cohere_asr", "parakeet_ctc", "parakeet_encoder", "parakeet_rnnt", "parakeet_tdt", "lasr_ctc",
        "lasr_encoder", "nemotron3_5_asr", "nemotron_asr_streaming",
        "nemotron_asr_streaming_encoder", "gemma4_audio", "univnet",
        input_features=frames(64, 16), attention_mask=mask(64),
    ),
    **several("seamless_m4t", "seamless_m4t_v2", "wav2vec2-bert", input_features=frames(64, 32), input_ids=None, attention_mask=mask(64)),
    "speech_to_text": {"input_features": frames(64, 16), "attention_mask": mask(64)},
    "audio-spectrogram-transformer": {"input_values": lambda request: request.noise(BATCH, request.config.max_length, request.config.num_mel_bins)},
    # sound as samples
    **several(
        "dac", "encodec", "mimi", "mimi_encoder", "xcodec", "pe_audio", "pe_audio_encoder", "vibevoice", "vibevoice_asr",
        "vibevoice_acoustic_tokenizer", "pocket_tts_audio_tokenizer", "pocket_tts_audio_tokenizer_encoder",
        input_values=noise(BATCH, 1, 320),
    ),
    **several("neucodec", "xcodec2", input_values=noise(BATCH, 1, 320), input_features=frames(40, 32), input_features_mask=ones(BATCH, 40)),
    "vibevoice_acoustic_tokenizer_encoder": {"hidden_states": noise(BATCH, 1, 320)},
    "vibevoice_acoustic_tokenizer_decoder": {"hidden_states": noise(BATCH, 12, 20)},
    **several("mimi_decoder", "pocket_tts_audio_tokenizer_decoder", latents=lambda request: request.noise(BATCH, request.config.hidden_size, 20)),
    # text with more than words
    "tapas": {"token_type_ids": full(0, BATCH, LENGTH, 7)},
    "lxmert": {"visual_feats": noise(BATCH, 5, 2048), "visual_pos": noise(BATCH, 5, 4)},
    "dia": {"decoder_input_ids": words(BATCH, TARGET_LENGTH, 3)},
    **several("musicgen", "musicgen_melody", input_ids=words(BATCH * 3, LENGTH), attention_mask=None),
    "blip_2_qformer": {"query_embeds": noise(BATCH, 5, 48), "encoder_hidden_states": noise(BATCH, 9, 32)},
    "perceiver": {"inputs": noise(BATCH, 9, 40)},
    **several(
        "nemotron3_5_transcribe_asr_audio", "nemotron3_5_transcribe_audio", "nemotron3_diarization",
        "nemotron3_diarization_audio", "nemo_speechlm", input_features=frames(64, 16), input_features_mask=mask(64),
    ),
    "nemotron3_5_transcribe_word_timestamp": {"inputs_embeds": noise(BATCH, 16, 40)},
    "gemma3n_audio": {"audio_mel": noise(BATCH, 64, 16), "audio_mel_mask": full(False, BATCH, 64, dtype=torch.bool)},
    "clap": {"input_features": noise(BATCH, 1, 64, 16)},
    "clvp": {"input_features": noise(BATCH, 32, 64)},
    "csm": {"input_values": None, "input_ids": lambda request: request.integers(5, 30, BATCH, LENGTH, 3)},
    "kyutai_speech_to_text": {"input_ids": lambda request: request.integers(5, 30, BATCH, LENGTH, 4)},
    "fun_asr_nano_encoder": {"input_features": noise(BATCH, 32, 32), "input_features_mask": ones(BATCH, 32)},
    "deepseek_vl_hybrid": {"high_res_pixel_values": noise(BATCH, 3, 32, 32)},
    **several("emu3", "granite4_vision", image_sizes=value(torch.tensor([[32, 32]] * BATCH))),
    **several("inkling2", "inkling2_vision", pixel_values=noise(BATCH * 16, 16, 16, 3)),
    "inkling_mm_model": {"pixel_values": noise(BATCH, 2, 8, 8, 3)},
    **several("instructblip", qformer_input_ids=words(BATCH, 6)),
    "instructblipvideo": {"qformer_input_ids": words(BATCH, 6), "pixel_values": images(FRAMES)},
    "seggpt": {
        "pixel_values": noise(BATCH, 3, 16, 32),
        "prompt_pixel_values": noise(BATCH, 3, 16, 32),
        "prompt_masks": noise(BATCH, 3, 16, 32),
    },
    "neomme": {"pixel_values": noise(BATCH * 4, 192)},
    "paddleocr_vl": {"pixel_values": noise(BATCH * ROWS, 3, 8, 8)},
    "muse_glimmer_assistant": {"noise_embeds": noise(BATCH, 5, 48), "context_hidden_states": noise(BATCH, LENGTH, 96), "attention_mask": ones(BATCH, LENGTH + 5)},
    "video_llama_3": {"image_merge_sizes": value(torch.tensor([2] * BATCH))},
    "video_llama_3_vision": {"merge_sizes": value(torch.tensor([2] * BATCH))},
    **several("minicpm_ocr_vision", "minicpmv4_7_vision", "minicpm_ocr", "minicpmv4_7", "minicpmv4_6",
              pixel_values=noise(1, 3, 8, BATCH * 16 * 8), target_sizes=value(torch.tensor([[4, 4]] * BATCH))),
    "oneformer": {"task_inputs": words(BATCH, 17), "pixel_values": noise(BATCH, 3, 64, 64)},
    "omdet-turbo": {
        "classes_input_ids": words(BATCH * 3, LENGTH),
        "classes_attention_mask": ones(BATCH * 3, LENGTH),
        "tasks_input_ids": words(BATCH, LENGTH),
        "tasks_attention_mask": ones(BATCH, LENGTH),
        "classes_structure": value(torch.tensor([3] * BATCH)),
        "pixel_values": noise(BATCH, 3, 64, 64),
    },
    **several("gemma4", "gemma4_unified", "embedding_gemma2", "gemma4_vision", pixel_values=noise(BATCH, 9, 192),
              image_position_ids=value(torch.tensor([[[x, y] for y in range(3) for x in range(3)]] * BATCH)),
              pixel_position_ids=value(torch.tensor([[[x, y] for y in range(3) for x in range(3)]] * BATCH)),
              input_features=None, input_features_mask=None),
    "mllama": {
        "pixel_values": noise(BATCH, 1, 4, 3, 32, 32),
        "aspect_ratio_mask": ones(BATCH, 1, 4),
        "aspect_ratio_ids": full(6, BATCH, 1),
        "cross_attention_mask": ones(BATCH, LENGTH, 1, 4),
    },
    "molmo2": {
        "pixel_values": noise(BATCH, 16, 192),
        "image_token_pooling": lambda _: torch.arange(BATCH * 16).reshape(BATCH * 4, 4),
        "image_grids": value(torch.tensor([[2, 2, 0, 0]] * BATCH)),
        "image_num_crops": value(torch.tensor([1] * BATCH)),
    },
    "pi0": {"action_embeds": noise(BATCH, 5, 48), "pixel_values": images(1), "pixel_attention_mask": ones(BATCH, 1)},
    "speecht5": {"input_values": noise(BATCH, 16, 48), "decoder_input_values": noise(BATCH, 7, 48)},
    "vibevoice": {"input_values": None},
    "muse_spark": {"input_values": None},
    **several("pp_ocrv6_small_rec", "pp_ocrv6_tiny_rec", pixel_values=noise(BATCH, 3, 96, 160)),
    "pp_ocrv5_mobile_rec": {"pixel_values": noise(BATCH, 3, 96, 160)},
    "fuyu": {"pixel_values": None},
    **several("granite_speech5_ctc", "granite_speech5_encoder", input_features=frames(64, 64), attention_mask=mask(64)),
    **several("granite_speech", "granite_speech_plus", input_features=frames(64, 32), input_features_mask=None),
    "fun_asr_nano": {"input_features": noise(BATCH, 32, 32), "input_features_mask": ones(BATCH, 32)},
    **several("llava_next", "llava_next_video", "llava_onevision", "granite4_vision", pixel_values=images(3),
              image_sizes=value(torch.tensor([[32, 64]] * BATCH))),
    "moss_transcribe_diarize": {"padding_mask": ones(BATCH, 1000)},
    **several("musicflamingo", "qwen2_audio", input_ids=text_around({"audio": 32})),
    "nemotron3_5_transcribe_word_timestamp": {"inputs_embeds": noise(BATCH, 16, 48), "attention_mask": mask(16)},
    **several("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", attention_mask=None),
    "kosmos-2": {"image_embeds_position_mask": value(torch.tensor([[0, 1, 1, 1, 1] + [0] * (LENGTH - 5)] * BATCH))},
    "voxtral_realtime": {"input_features": noise(BATCH, 16, 8 * LENGTH)},
    "xcodec": {"input_values": noise(BATCH, 1, 1600)},
    **several("mllama", **{
        "pixel_values": noise(BATCH, 1, 4, 3, 32, 32),
        "aspect_ratio_mask": ones(BATCH, 1, 4),
        "aspect_ratio_ids": full(6, BATCH, 1),
        "cross_attention_mask": ones(BATCH, LENGTH, 1, 4),
    }),
    **several("grounding-dino", "mm-grounding-dino", attention_mask=ones(BATCH, LENGTH)),
    "t5gemma2": {"input_ids": text_around({"image": 4})},
    "dots3_note": {"chunk_sample_lengths": value(torch.tensor([64 * 160] * BATCH)), "input_features": noise(BATCH, 16, 64)},
    "uvdoc": {"pixel_values": noise(BATCH, 3, 128, 128)},
    "pp_ocrv6_small_det": {"pixel_values": noise(BATCH, 3, 64, 64)},
    "voxtral_realtime_text": {"t_cond": noise(1, 1, 48)},
    "xcodec": {"input_values": noise(BATCH, 1, 3200)},
    "molmo2": {"pixel_values": noise(BATCH, 16, 192), "image_token_pooling": lambda _: torch.arange(16).reshape(4, 4).repeat(BATCH, 1), "image_grids": value(torch.tensor([[2, 2, 0, 0]] * BATCH)), "image_num_crops": value(torch.tensor([1] * BATCH))},
    "dots3_note": {"chunk_sample_lengths": value(torch.tensor([64 * 160] * BATCH)), "input_features": noise(BATCH, 32, 64)},
    **several("qwen3_asr", "qwen3_asr_encoder", input_features=noise(BATCH, 16, 100)),
    "nemo_speechlm": {"input_features": frames(64, 16), "input_features_mask": ones(BATCH, 64)},
    "glm_image": {"image_grid_thw": value(torch.tensor([GRID] * (BATCH + 1))), "input_ids": text_around({"image": 16})},
    "granite4_vision": {"pixel_values": images(3), "image_sizes": value(torch.tensor([[32, 64]] * BATCH)), "input_ids": text_around({"image": 14})},
}
