"""Inputs for single model types, where the recipes named by arguments of `forward` do not fit."""

import torch
from torch import Tensor

from tools.model_zoo.inputs import (
    BATCH,
    GRID,
    LENGTH,
    TARGET_LENGTH,
    Recipe,
    Request,
    frames,
    noise,
    ones,
    text_around,
    value,
    words,
)

FRAMES = 4  # of a video
ROWS = GRID[0] * GRID[1] * GRID[2]


def several(*types: str, **recipes: Recipe | None) -> dict[str, dict[str, Recipe | None]]:
    return dict.fromkeys(types, recipes)


def each(constant: object) -> Recipe:
    """A recipe for a tensor that holds `constant` once for every example."""
    return value(torch.tensor([constant] * BATCH))


def mask(length: int) -> Recipe:
    """A recipe for a mask (b, length) of ones, but for zeros in the last eighth of the second example."""

    def made(_: Request) -> Tensor:
        valid = torch.ones(BATCH, length, dtype=torch.long)
        valid[-1, length - length // 8 :] = 0
        return valid

    return made


def flags(state: bool, *shape: int) -> Recipe:
    return value(torch.full(shape, state))


def images(count: int) -> Recipe:
    """A recipe for so many images, or frames of a video, for each text."""
    return noise(BATCH, count, 3, 32, 32)


def codes(count: int) -> Recipe:
    """A recipe for token ids (b, position, count): a text token and codebook tokens at each position."""
    return lambda request: request.integers(5, 30, BATCH, LENGTH, count)


def placed_patches(request: Request) -> Tensor:
    """Flattened patches (b, patch, values); the first two values are the patch's row and column."""
    places = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).to(torch.float64)
    return torch.cat([places.expand(BATCH, -1, -1), request.noise(BATCH, 16, 192)], dim=-1)


SERIES: dict[str, dict[str, Recipe | None]] = {
    **several(
        *("autoformer", "informer", "time_series_transformer"),
        past_values=noise(BATCH, 17),
        past_time_features=noise(BATCH, 17, 2),
        past_observed_mask=ones(BATCH, 17),
        future_values=noise(BATCH, 5),
        future_time_features=noise(BATCH, 5, 2),
    ),
    **several("patchtst", "patchtsmixer", past_values=noise(BATCH, 32, 1)),
    "timesfm": {
        "past_values": noise(BATCH, 64),
        "past_values_padding": each([0] * 64),
        "freq": each([0]),
    },
    "timesfm2_5": {"past_values": noise(BATCH, 64)},
    "decision_transformer": {
        "states": noise(BATCH, LENGTH, 17),
        "actions": noise(BATCH, LENGTH, 4),
        "rewards": noise(BATCH, LENGTH, 1),
        "returns_to_go": noise(BATCH, LENGTH, 1),
        "timesteps": each(list(range(LENGTH))),
        "attention_mask": mask(LENGTH),
    },
}

VISION: dict[str, dict[str, Recipe | None]] = {
    # videos
    **several("timesformer", "vivit", "videomae", pixel_values=images(FRAMES)),
    **several("vjepa2", "videoprism_vision_model", "videoprism", pixel_values_videos=images(FRAMES)),
    "xclip": {"pixel_values": images(2)},
    "video_llava": {"pixel_values_videos": images(8)},
    "tvp": {"pixel_values": noise(1, 2, 3, 64, 64), "input_ids": words(1, LENGTH)},  # it takes one video
    # images of another size
    **several("convnext", "convnextv2", "lw_detr", "pp_ocrv6_small_det", pixel_values=noise(BATCH, 3, 64, 64)),
    **several("depth_pro", "uvdoc", pixel_values=noise(BATCH, 3, 128, 128)),
    "pp_ocrv5_server_rec": {"pixel_values": noise(BATCH, 3, 48, 160)},
    **several(
        *("pp_ocrv5_mobile_rec", "pp_ocrv6_small_rec", "pp_ocrv6_tiny_rec"), pixel_values=noise(BATCH, 3, 96, 160)
    ),
    **several("lightglue", "efficientloftr", pixel_values=noise(BATCH, 2, 3, 64, 64)),
    "seggpt": dict.fromkeys(("pixel_values", "prompt_pixel_values", "prompt_masks"), noise(BATCH, 3, 16, 32)),
    "oneformer": {"task_inputs": words(BATCH, 17), "pixel_values": noise(BATCH, 3, 64, 64)},
    # rows of patches
    **several("hunyuan_vl", "hunyuan_vl_vision", pixel_values=noise(BATCH * ROWS, 3 * 8 * 8)),
    **several("kimi_k25", "kimi_k25_vision", "paddleocr_vl", pixel_values=noise(BATCH * ROWS, 3, 8, 8)),
    **several("inkling2", "inkling2_vision", pixel_values=noise(BATCH * ROWS, 16, 16, 3)),
    "inkling_mm_model": {"pixel_values": noise(BATCH, 2, 8, 8, 3), "token_type_ids": None},
    "neomme": {"pixel_values": noise(BATCH * 4, 192)},
    **several(
        *("siglip2", "siglip2_vision_model", "lfm2_vl"),
        pixel_values=noise(BATCH, 16, 192),
        pixel_attention_mask=ones(BATCH, 16),
        spatial_shapes=each([4, 4]),
    ),
    **several(
        *("minicpm_ocr_vision", "minicpmv4_7_vision", "minicpm_ocr", "minicpmv4_7", "minicpmv4_6"),
        pixel_values=noise(1, 3, 8, BATCH * ROWS * 8),
        target_sizes=each([4, 4]),
    ),
    "gemma4_vision": {
        "pixel_values": noise(BATCH, 9, 192),
        "pixel_position_ids": each([[x, y] for y in range(3) for x in range(3)]),
    },
    "video_llama_3_vision": {"merge_sizes": value(torch.tensor([2] * BATCH))},
}

SOUND: dict[str, dict[str, Recipe | None]] = {
    # a spectrogram, frames first
    **several(
        *("canary", "cohere_asr", "parakeet_ctc", "parakeet_encoder", "parakeet_rnnt", "parakeet_tdt", "lasr_ctc"),
        *("lasr_encoder", "nemotron3_5_asr", "nemotron_asr_streaming", "nemotron_asr_streaming_encoder"),
        *("gemma4_audio", "univnet", "speech_to_text"),
        input_features=frames(64, 16),
        attention_mask=mask(64),
    ),
    **several(
        *("nemotron3_5_transcribe_asr_audio", "nemotron3_5_transcribe_audio", "nemotron3_diarization"),
        "nemotron3_diarization_audio",
        input_features=frames(64, 16),
        input_features_mask=mask(64),
    ),
    **several("granite_speech5_ctc", "granite_speech5_encoder", input_features=frames(64, 64), attention_mask=mask(64)),
    **several(
        *("seamless_m4t", "seamless_m4t_v2", "wav2vec2-bert"),
        input_features=frames(64, 32),
        input_ids=None,
        attention_mask=mask(64),
    ),
    "fun_asr_nano_encoder": {"input_features": frames(32, 32), "input_features_mask": ones(BATCH, 32)},
    "gemma3n_audio": {"audio_mel": frames(64, 16), "audio_mel_mask": flags(False, BATCH, 64)},
    "audio-spectrogram-transformer": {
        "input_values": lambda request: request.noise(BATCH, request.config.max_length, request.config.num_mel_bins)
    },
    # frames last
    "qwen3_asr_encoder": {"input_features": noise(BATCH, 16, 100)},
    "clap": {"input_features": noise(BATCH, 1, 64, 16)},
    "clvp": {"input_features": noise(BATCH, 32, 64)},
    # samples
    **several(
        *("dac", "encodec", "mimi", "mimi_encoder", "pe_audio", "pe_audio_encoder", "vibevoice_asr"),
        *("vibevoice_acoustic_tokenizer", "pocket_tts_audio_tokenizer", "pocket_tts_audio_tokenizer_encoder"),
        input_values=noise(BATCH, 1, 320),
    ),
    **several(
        *("neucodec", "xcodec2"),
        input_values=noise(BATCH, 1, 320),
        input_features=frames(40, 32),
        input_features_mask=ones(BATCH, 40),
    ),
    # what an encoder made of it
    "vibevoice_acoustic_tokenizer_encoder": {"hidden_states": noise(BATCH, 1, 320)},
    "vibevoice_acoustic_tokenizer_decoder": {"hidden_states": noise(BATCH, 12, 20)},
    **several(
        *("mimi_decoder", "pocket_tts_audio_tokenizer_decoder"),
        latents=lambda request: request.noise(BATCH, request.config.hidden_size, 20),
    ),
    "nemotron3_5_transcribe_word_timestamp": {"inputs_embeds": noise(BATCH, 16, 48), "attention_mask": mask(16)},
    "speecht5": {"input_values": noise(BATCH, 16, 48), "decoder_input_values": noise(BATCH, 7, 48)},
}

TEXT: dict[str, dict[str, Recipe | None]] = {
    **several("big_bird", "bigbird_pegasus", input_ids=words(BATCH, 32), token_type_ids=None),  # sparse from here on
    **several("longformer", "led", global_attention_mask=each([1] + [0] * (LENGTH - 1))),
    "luke": {"entity_ids": words(BATCH, 3), "entity_position_ids": each([[1, 2], [4, -1], [6, 7]])},
    "tapas": {"token_type_ids": each([[0] * 7] * LENGTH)},
    "lxmert": {"visual_feats": noise(BATCH, 5, 2048), "visual_pos": noise(BATCH, 5, 4)},
    "dia": {"decoder_input_ids": words(BATCH, TARGET_LENGTH, 3)},
    "csm": {"input_values": None, "input_ids": codes(3)},
    "kyutai_speech_to_text": {"input_ids": codes(4)},
    **several(
        *("musicgen", "musicgen_melody"),
        input_ids=words(BATCH * 3, LENGTH),
        encoder_hidden_states=noise(BATCH, 9, 48),
        attention_mask=None,
    ),
    "evolla": {"protein_input_ids": words(BATCH, 13), "protein_attention_mask": ones(BATCH, 13)},
    "perceiver": {"inputs": noise(BATCH, 9, 40)},
    "blip_2_qformer": {"query_embeds": noise(BATCH, 5, 48), "encoder_hidden_states": noise(BATCH, 9, 32)},
    "voxtral_realtime_text": {"t_cond": noise(1, 1, 48)},
    "muse_glimmer_assistant": {
        "noise_embeds": noise(BATCH, 5, 48),
        "context_hidden_states": noise(BATCH, LENGTH, 96),
        "attention_mask": ones(BATCH, LENGTH + 5),
    },
}

TEXT_AND_IMAGE: dict[str, dict[str, Recipe | None]] = {
    **several("idefics2", "idefics3", "smolvlm", "modernvbert", "ultravbert", pixel_values=images(1)),
    "idefics": {"pixel_values": images(1), "image_attention_mask": ones(BATCH, LENGTH, 1)},
    "granite_docling": {"pixel_values": images(1), "pixel_attention_mask": flags(True, BATCH, 1)},
    **several("mistral3", "mistral_large4", "lighton_ocr", "pixtral", "emu3", image_sizes=each([32, 32])),
    **several("llava_next", "llava_next_video", "llava_onevision", pixel_values=images(3), image_sizes=each([32, 64])),
    "granite4_vision": {
        "pixel_values": images(3),
        "image_sizes": each([32, 64]),
        "input_ids": text_around({"image": 14}),
    },
    "deepseek_vl_hybrid": {"high_res_pixel_values": noise(BATCH, 3, 32, 32)},
    "instructblip": {"qformer_input_ids": words(BATCH, 6)},
    "instructblipvideo": {"qformer_input_ids": words(BATCH, 6), "pixel_values": images(FRAMES)},
    "video_llama_3": {"image_merge_sizes": value(torch.tensor([2] * BATCH))},
    "t5gemma2": {"input_ids": text_around({"image": 4})},
    "glm_image": {"image_grid_thw": value(torch.tensor([GRID] * (BATCH + 1))), "input_ids": text_around({"image": 16})},
    "fuyu": {"pixel_values": None},
    "kosmos-2": {"image_embeds_position_mask": each([0, 1, 1, 1, 1] + [0] * (LENGTH - 5))},
    "kosmos-2.5": {
        "flattened_patches": placed_patches,
        "width": each([4]),
        "height": each([4]),
        "image_embeds_position_mask": each([0, 1, 1, 1, 1] + [0] * (LENGTH - 5)),
    },
    "mllama": {
        "pixel_values": noise(BATCH, 1, 4, 3, 32, 32),
        "aspect_ratio_mask": ones(BATCH, 1, 4),
        "aspect_ratio_ids": each([6]),
        "cross_attention_mask": ones(BATCH, LENGTH, 1, 4),
    },
    "molmo2": {
        "pixel_values": noise(BATCH, 16, 192),
        "image_token_pooling": value(torch.arange(16).reshape(4, 4).repeat(BATCH, 1)),
        "image_grids": each([2, 2, 0, 0]),
        "image_num_crops": value(torch.tensor([1] * BATCH)),
    },
    "pi0": {
        "action_embeds": noise(BATCH, 5, 48),
        "pixel_values": images(1),
        "pixel_attention_mask": ones(BATCH, 1),
        "input_ids": text_around({"image": 16}),
    },
    # detection by text, without padding: what is padded is -inf in the output
    **several("grounding-dino", "mm-grounding-dino", attention_mask=ones(BATCH, LENGTH)),
    "omdet-turbo": {
        "classes_input_ids": words(BATCH * 3, LENGTH),
        "classes_attention_mask": ones(BATCH * 3, LENGTH),
        "tasks_input_ids": words(BATCH, LENGTH),
        "tasks_attention_mask": ones(BATCH, LENGTH),
        "classes_structure": value(torch.tensor([3] * BATCH)),
        "pixel_values": noise(BATCH, 3, 64, 64),
    },
}

TEXT_AND_SOUND: dict[str, dict[str, Recipe | None]] = {
    **several("granite_speech", "granite_speech_plus", input_features=frames(64, 32), input_features_mask=None),
    "nemo_speechlm": {"input_features": frames(64, 16), "input_features_mask": ones(BATCH, 64)},
    "fun_asr_nano": {"input_features": frames(32, 32), "input_features_mask": ones(BATCH, 32)},
    "qwen3_asr": {"input_features": noise(BATCH, 16, 100)},
    "moss_transcribe_diarize": {"padding_mask": ones(BATCH, 1000)},
    **several("musicflamingo", "qwen2_audio", input_ids=text_around({"audio": 32})),
    "voxtral_realtime": {"input_features": noise(BATCH, 16, 8 * LENGTH)},
    **several("vibevoice", "muse_spark", input_values=None),
    # with a mask, positions would be read from how images and sounds lie in the text
    **several("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", attention_mask=None),
    "dots3_note": {
        "chunk_sample_lengths": value(torch.tensor([64 * 160] * BATCH)),
        "input_features": noise(BATCH, 32, 64),
    },
    **several(
        *("gemma4", "embedding_gemma2"),
        pixel_values=noise(BATCH, 9, 192),
        image_position_ids=each([[x, y] for y in range(3) for x in range(3)]),
        input_features=frames(64, 16),
        input_features_mask=flags(True, BATCH, 64),
    ),
    "diffusion_gemma": {
        "pixel_values": noise(BATCH, 9, 192),
        "image_position_ids": each([[x, y] for y in range(3) for x in range(3)]),
        "input_ids": text_around({"image": 1}),
    },
    "gemma4_unified": {
        "pixel_values": noise(BATCH, 9, 192),
        "image_position_ids": each([[x, y] for y in range(3) for x in range(3)]),
        "input_features": None,
        "input_features_mask": None,
    },
    "phi4_multimodal": {
        "image_pixel_values": images(2),
        "image_sizes": each([32, 32]),
        "image_attention_mask": ones(BATCH, 2, 4, 4),
        "audio_input_features": frames(64, 16),
        "audio_embed_sizes": value(torch.tensor([8] * BATCH)),
        "audio_attention_mask": flags(True, BATCH, 64),
        "input_ids": text_around({"image": 13, "audio": 8}),
    },
}

INPUTS: dict[str, dict[str, Recipe | None]] = SERIES | VISION | SOUND | TEXT | TEXT_AND_IMAGE | TEXT_AND_SOUND
