"""Task files with their data, tiny models of transformers with random weights, and a tokenizer of whole words."""

import json
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("datasets", reason="datasets is not installed")
from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402

import mha  # noqa: E402

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"w{number}" for number in range(92)]  # with the special ones 97, a prime
TEXT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20, "vocab_size": 97}
SIZES = {
    "bert": {**TEXT, "max_position_embeddings": 31},
    "llama": {**TEXT, "max_position_embeddings": 64},
    "t5": {
        **dict.fromkeys(("decoder_start_token_id", "pad_token_id"), 0),
        "d_model": 24,
        "num_layers": 2,
        "num_heads": 4,
        "d_kv": 6,
        "d_ff": 20,
        "vocab_size": 97,
        "eos_token_id": 3,
    },
    "vit": {**{name: size for name, size in TEXT.items() if name != "vocab_size"}, "image_size": 16, "patch_size": 8},
}


def tokenizer(**options):
    """Words of WORDS as ids from 5 on, between [CLS] and [SEP], or without these where `bare`."""
    bare = options.pop("bare", False)
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if not bare:
        words.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    inputs = ["input_ids", "attention_mask"] if bare else ["input_ids", "token_type_ids", "attention_mask"]
    names["model_input_names"] = inputs
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **{**names, **options})


def model(model_type: str, auto: str, **options):
    """A model in float64 and eval mode, every weight drawn."""
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES[model_type], **options})
    torch.manual_seed(1)
    built = getattr(transformers, auto).from_config(config).double().eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built


def text(seed: int, length: int) -> str:
    """A text of so many words, drawn; texts of two seeds share next to nothing."""
    generator = torch.Generator().manual_seed(seed)
    return " ".join(WORDS[place] for place in torch.randint(len(WORDS), (length,), generator=generator).tolist())


def texts(seed: int, count: int, *, shortest: int = 3, spread: int = 7) -> list[str]:
    """So many texts of different lengths."""
    return [text(1000 * seed + number, shortest + number * 5 % spread) for number in range(count)]


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def task_file(folder: Path, kind: str, parts: dict[str, list[dict]], more: str = "", top: str = "") -> Path:
    """A task file with a JSON lines file for each part; `top` stands before its tables, `more` after them."""
    for part, rows in parts.items():
        write_lines(folder / f"{part}.jsonl", rows)
    names = "\n".join(f'{part} = "{part}.jsonl"' for part in parts)
    (folder / "task.toml").write_text(f'kind = "{kind}"\n{top}\n[data]\n{names}\n{more}\n')
    return folder / "task.toml"


def check_scoring(task, criterion: str = "taylor") -> None:
    """A task does what the library asks of one: scores, a plan, the sliced model, and inputs for timing."""
    dense = task.model()
    scores = mha.score(dense, task.calibration(), task.loss, criterion)
    pruned = mha.prune(dense, mha.choose(scores, keep=0.5))
    assert sum(layer.num_heads for layer in mha.find_attention(pruned).values()) == sum(map(len, scores.values())) // 2
    dense_values, values = task.evaluate(dense), task.evaluate(pruned)
    assert dense_values.shape == values.shape
    assert isinstance(task.aggregate(values), float)
    check_batches(task, pruned)


def check_batches(task, dense) -> None:
    """The model takes inputs for timing; a batch has an output, no distance from itself, and a loss with gradients."""
    args, kwargs = task.example(2)
    dense(*args, **kwargs)
    output = task.forward(dense, task.calibration()[0])
    task.loss(dense, task.calibration()[0]).backward()
    assert all(torch.isfinite(one.grad).all() for one in dense.parameters() if one.grad is not None)
    assert any(one.grad is not None for one in dense.parameters())
    if task.distance is not None:
        assert float(task.distance(output, output).detach()) == pytest.approx(0, abs=1e-6)
