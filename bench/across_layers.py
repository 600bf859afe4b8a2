"""What comparing heads of different layers does to a language model, by scores that are not in the loss's currency.

    python -m bench.across_layers FOLDER                    # a causal model of transformers, as it was saved
    python -m bench.across_layers FOLDER --gguf FILE.gguf   # needs gguf and accelerate

Prints a line for each criterion, and writes no file. By each criterion a quarter of the heads is removed twice: once
those with the lowest scores of all layers, and once those that `mha.choose` drops by default. Calibration and
evaluation text, 1,024 tokens each, is what ships with Python (`pydoc_data.topics`).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pydoc_data import topics
from typing import Any

import torch
from torch import Tensor, nn

import mha

CRITERIA = ("magnitude", "magnitude_all", "fluctuation", "least_squares", "confidence", "entropy")
LENGTH, BLOCKS = 128, 8
KEEP = 0.75


@dataclass(frozen=True)
class Text:
    """Token ids, 8 blocks of 128 each (8, 128), to score heads on and to evaluate on; one block between is left out."""

    calibration: Tensor
    evaluation: Tensor

    @classmethod
    def of(cls, ids: Sequence[int]) -> "Text":
        """Cut the first 17 · 128 token ids into blocks of 128: 8 for calibration, one left out, 8 for evaluation."""
        blocks = torch.tensor(ids[: (2 * BLOCKS + 1) * LENGTH]).view(-1, LENGTH)
        return cls(blocks[:BLOCKS], blocks[BLOCKS + 1 :])


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    """The mean next-token cross-entropy (a scalar) of a causal model of transformers on token ids (b, n)."""
    result: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
    return result


def perplexity(model: nn.Module, ids: Tensor) -> float:
    """The perplexity of the model on token ids (b, n): exp of `loss`."""
    with torch.no_grad():
        return loss(model, ids).exp().item()


def row(model: nn.Module, text: Text, criterion: str) -> str:
    """The printed line of one criterion, whose scores choose the heads: perplexity, and how many layers keep no head.

    Both numbers stand there twice: with heads compared across all layers, and as `mha.choose` compares them by default.
    """
    scores = mha.score(model, text.calibration.split(4), loss, criterion)
    cells = [f"{criterion:14}"]
    for across_layers in (True, None):
        plan = mha.choose(scores, keep=KEEP, across_layers=across_layers)
        with mha.masked(model, plan):
            value = perplexity(model, text.evaluation)
        cells.append(f"{value:12.1f} {sum(not heads for heads in plan.keep.values()):8}")
    return "".join(cells)


def loaded(folder: str, gguf: str | None) -> tuple[nn.Module, Any]:
    """The model saved in a folder, in float32 and eval mode, and its tokenizer.

    Args:
        gguf: name of the GGUF file in the folder that both are read from; None where it was saved by transformers.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    extra = {"gguf_file": gguf} if gguf else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **extra).eval()
    return model, AutoTokenizer.from_pretrained(folder, **extra)


def main(arguments: Sequence[str]) -> None:
    """Run `python -m bench.across_layers`: print the dense model's perplexity, then the `row` of each criterion."""
    parser = argparse.ArgumentParser("python -m bench.across_layers", description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--gguf")
    parser.add_argument("--criteria", default=",".join(CRITERIA))
    options = parser.parse_args(arguments)
    model, tokenizer = loaded(options.folder, options.gguf)
    words = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    text = Text.of(tokenizer(words[:60_000]).input_ids)
    say(f"dense: {perplexity(model, text.evaluation):.1f}; perplexity with {KEEP:.0%} of the heads:")
    say(f"{'criterion':14}{'across':>12} {'emptied':>8}{'default':>12} {'emptied':>8}")
    for criterion in options.criteria.split(","):
        say(row(model, text, criterion))


def say(line: str) -> None:
    """Print a line, and flush the output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
