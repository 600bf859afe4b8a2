"""GGUF of llama.cpp, in its architecture `deci`, whose layers may have unlike numbers of heads, or none."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mha.exporting.decoding import LOGITS
from mha.exporting.registry import Format, Run, Wish, register_format
from mha.families import find_attention
from mha.values.errors import ExportError

FILE = "model.gguf"
ARCHITECTURE = "deci"  # https://github.com/ggml-org/llama.cpp, src/models/deci.cpp
KNOWN = ("llama",)  # model types of transformers whose blocks are those of that architecture
BLOCK = 32  # numbers that share a scale in Q8_0
TOKENIZER = "tokenizer."
ALL = 1 << 24  # tokens: more than any vocabulary has
TOLD = 1024  # likeliest tokens, of each place, that are asked for and compared: all of 49,152 take seconds a place


class Gguf(Format):
    """model.gguf: weights in the model's dtype or, with int8, in Q8_0.

    llama.cpp tells probabilities of next tokens, so these are compared, as logarithms, in place of logits: at each
    place those of the 1,024 tokens that it holds for the likeliest.
    """

    name = "gguf"
    runtime = "xllamacpp"
    packages: Mapping[str, str] = {"gguf": "hf", "xllamacpp": "export"}
    takes_int8 = True

    def write(self, wish: Wish, directory: Path) -> dict[str, list[int | None]]:
        import gguf

        model: Any = wish.model
        _check(model, wish.inputs)
        writer = gguf.GGUFWriter(directory / FILE, ARCHITECTURE)
        _describe(writer, model)
        if wish.tokenizer is None:
            _name_tokens(writer, model.config.vocab_size)
        else:
            _copy_tokenizer(writer, wish.tokenizer)
        for name, tensor in _tensors(model):
            data, kind = _data(tensor, int8=wish.int8)
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return {"input_ids": [None, None]}

    def open(self, directory: Path) -> Run:
        return Server(directory / FILE)

    def comparable(self, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The logarithms of the probabilities of next tokens, as far as the runtime has told them."""
        wanted, told = expected[LOGITS].double().log_softmax(-1), found[LOGITS]
        return {LOGITS: wanted.where(told > -math.inf, told) if wanted.shape == told.shape else wanted}


def _check(model: Any, inputs: Mapping[str, Any]) -> None:
    """Refuse a model that the architecture can't say.

    Raises:
        ExportError: it says which part, and what to use instead.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    if kind not in KNOWN or not hasattr(model, "lm_head"):
        raise ExportError(
            f"llama.cpp's {ARCHITECTURE} has the blocks of Llama, and this is {kind} ({type(model).__name__}); give a "
            f"causal language model of type {', '.join(KNOWN)}, or use another format"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    scaled = rope.get("rope_type", "default")
    if scaled != "default":
        raise ExportError(f"rotary positions of type {scaled!r} are not written here; use another format")
    if biased := [name for name, _ in model.named_parameters() if name.endswith("bias")]:
        raise ExportError(f"{biased[0]}: {ARCHITECTURE} has no biases; use another format")
    if "input_ids" not in inputs:
        raise ExportError(f"llama.cpp is given token ids, and the example has {', '.join(inputs)}; give input_ids")


def _describe(writer: Any, model: Any) -> None:
    """Write what the model is: sizes, and how many heads each layer has."""
    config, layers = model.config, model.model.layers
    shapes = {name: (layer.num_heads, layer.num_kv_heads) for name, layer in find_attention(model).items()}
    heads, groups = zip(*(shapes[f"model.layers.{index}.self_attn"] for index in range(len(layers))), strict=True)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(type(model).__name__)
    writer.add_block_count(len(layers))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length([layer.mlp.gate_proj.out_features for layer in layers])
    writer.add_head_count(list(heads))
    writer.add_head_count_kv(list(groups))
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float((getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(0)


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of each tensor, as llama.cpp calls and orders them."""
    yield "token_embd.weight", model.model.embed_tokens.weight
    yield "output_norm.weight", model.model.norm.weight
    if model.lm_head.weight is not model.model.embed_tokens.weight:
        yield "output.weight", model.lm_head.weight
    for index, layer in enumerate(model.model.layers):
        attention, prefix = layer.self_attn, f"blk.{index}"
        found = find_attention(layer)["self_attn"]
        if found.num_heads:
            yield f"{prefix}.attn_norm.weight", layer.input_layernorm.weight
            yield f"{prefix}.attn_q.weight", _permuted(attention.q_proj.weight, found.num_heads)
            yield f"{prefix}.attn_k.weight", _permuted(attention.k_proj.weight, found.num_kv_heads)
            yield f"{prefix}.attn_v.weight", attention.v_proj.weight
            yield f"{prefix}.attn_output.weight", attention.o_proj.weight
        yield f"{prefix}.ffn_norm.weight", layer.post_attention_layernorm.weight
        yield f"{prefix}.ffn_gate.weight", layer.mlp.gate_proj.weight
        yield f"{prefix}.ffn_up.weight", layer.mlp.up_proj.weight
        yield f"{prefix}.ffn_down.weight", layer.mlp.down_proj.weight


def _permuted(weight: Tensor, heads: int) -> Tensor:
    """Rows of a projection (h·d, e) in the order in which llama.cpp turns them: pairs side by side, not in halves."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _data(tensor: Tensor, *, int8: bool) -> tuple[np.ndarray, Any]:
    """A tensor's numbers as GGUF holds them, and their type; norms, and rows that don't fit, stay in full."""
    from gguf import GGMLQuantizationType as Kind
    from gguf.quants import quantize

    full = tensor.detach().float().numpy()
    if tensor.dim() == 1:
        return full, Kind.F32
    if int8 and tensor.shape[-1] % BLOCK == 0:
        return quantize(full, Kind.Q8_0), Kind.Q8_0
    if tensor.dtype == torch.bfloat16:
        return quantize(full, Kind.BF16), Kind.BF16
    return (full.astype(np.float16), Kind.F16) if tensor.dtype == torch.float16 else (full, Kind.F32)


def _name_tokens(writer: Any, count: int) -> None:
    """Write a tokenizer whose tokens are called by their numbers, so that llama.cpp has something to write."""
    from gguf import TokenType

    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{number}>" for number in range(count)])
    writer.add_token_scores([0.0] * count)
    writer.add_token_types([TokenType.NORMAL] * count)
    writer.add_add_bos_token(False)


def _copy_tokenizer(writer: Any, source: Path) -> None:
    """Write all that another GGUF file says of its tokenizer.

    Raises:
        ExportError: the file can't be read, or says nothing of one.
    """
    from gguf import GGUFReader, GGUFValueType

    try:
        fields = GGUFReader(source).fields
    except (OSError, ValueError) as error:
        raise ExportError(f"{source}: its tokenizer can't be read ({error}); give a GGUF file") from error
    copied = [field for name, field in fields.items() if name.startswith(TOKENIZER)]
    if not copied:
        raise ExportError(f"{source} has no tokenizer to copy; give the GGUF file that the model came from")
    for field in copied:
        kind, *inner = field.types
        inside = inner[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, inside)


class Server:
    """llama.cpp with a file, in this process: input_ids (b, n) -> log-probabilities of next tokens (b, n, v).

    Told are those of the `TOLD` likeliest at each place; the others are -inf. Keys and values are kept in single
    precision, so that what differs is the model.
    """

    def __init__(self, path: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.warmup, params.n_gpu_layers, params.verbosity = False, 0, -1
        params.n_parallel = 1
        for threads in (params.cpuparams, params.cpuparams_batch):
            threads.n_threads, threads.poll = torch.get_num_threads(), 0  # idle ones would spin while others run
        self._server = xllamacpp.Server(params)
        self._vocabulary = _vocabulary(path)

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        if mask is not None and not bool(mask.bool().all()):
            raise ValueError("padded batches; give sequences without padding")
        rows = [torch.stack([self.next_token(row[: end + 1]) for end in range(len(row))]) for row in ids.tolist()]
        return {"logits": torch.stack(rows)}

    def next_token(self, prompt: Sequence[int], most: int = TOLD) -> Tensor:
        """The log-probabilities (v,) of the likeliest `most` tokens after a prompt; -inf of the others."""
        (told,) = self._told(prompt, 1, min(most, self._vocabulary))
        found = told["top_logprobs"]
        if len(found) != min(most, self._vocabulary):
            raise ValueError(f"llama.cpp told {len(found)} probabilities of {min(most, self._vocabulary)}")
        values = torch.full((self._vocabulary,), -math.inf, dtype=torch.float64)
        values[[each["id"] for each in found]] = torch.tensor([each["logprob"] for each in found], dtype=torch.float64)
        return values

    def read(self, prompt: Sequence[int]) -> None:
        """Compute a prompt anew, and the likeliest token after it: what its latency is."""
        asked = {"prompt": list(prompt), "n_predict": 1, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
        self._server.handle_completions(asked)

    def greedy(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """The ids of the likeliest tokens after a prompt, one after another."""
        return [each["id"] for each in self._told(prompt, tokens, 1)]

    def _told(self, prompt: Sequence[int], tokens: int, most: int) -> list[Any]:
        """What llama.cpp tells of each of the likeliest tokens after a prompt, and of at most so many others."""
        asked = {"prompt": list(prompt), "n_predict": tokens, "n_probs": most, "temperature": 0.0, "ignore_eos": True}
        told: list[Any] = self._server.handle_completions(asked)["choices"][0]["logprobs"]["content"]
        return told


def _vocabulary(path: Path) -> int:
    """How many tokens a GGUF file's model has."""
    from gguf import GGUFReader

    (embedding,) = (tensor for tensor in GGUFReader(path).tensors if tensor.name == "token_embd.weight")
    return int(embedding.shape[1])


register_format(Gguf())
