"""python -m tools.exports: models of many conventions, in every format, proved there; writes docs/exports.csv.

Each is tiny, has random weights, and is pruned unevenly, its first layer to no head at all. timm's is there where timm
is installed, which needs a torchvision that goes with this torch. Dense and pruned exports
are timed in turns, at batch 16 of the model's own length, 8 where a runtime has planned its memory for no more.
"""

import csv
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import mha
from mha.exporting.inputs import named
from mha.timing.rounds import Rounds
from tools.model_zoo.prove import _without_first
from tools.model_zoo.zoo import build

TABLE = Path(__file__).parents[1] / "docs" / "exports.csv"
FORMATS = ("torch", "onnx", "openvino", "executorch")
TYPES = (
    *(
        "albert",
        "bert",
        "clip_text_model",
        "deberta-v2",
        "distilbert",
        "falcon",
        "gpt2",
        "gpt_neox",
        "llama",
        "mistral",
    ),
    *("modernbert", "mpnet", "opt", "phi3", "qwen3", "t5", "vit", "wav2vec2", "whisper"),
)
COLUMNS = ("model", "family", *FORMATS)
LONGEST = 160  # letters of a reason
BATCH = 16
SECONDS = 1.0  # of timing, for each cell
ROUNDS = 20, 200  # at least and at most


class Subject(NamedTuple):
    """A dense model in float32, what it is called with, and the plan that it is pruned by."""

    model: nn.Module
    inputs: dict[str, Any]
    plan: mha.HeadPlan


def subjects() -> Iterator[tuple[str, Callable[[], Subject]]]:
    """Yield name and maker of each model."""
    yield "mha.MultiHeadAttention, three layers", _ours
    yield "torch.nn.TransformerEncoder", _torchs
    if find_spec("timm") is not None:
        yield "timm.models.VisionTransformer", _timms
    for model_type in TYPES:
        yield model_type, lambda model_type=model_type: _of_transformers(model_type)  # type: ignore[misc]


class Three(nn.Module):
    """Our layer three times, with grouped heads and lengths."""

    def __init__(self) -> None:
        super().__init__()
        layers = [mha.MultiHeadAttention.square(24, 6, bias=True, num_kv_heads=3) for _ in range(3)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x, x, x, lens)
        return x


def _ours() -> Subject:
    torch.manual_seed(0)
    model = Three().eval()
    return Subject(model, {"x": torch.randn(3, 7, 24), "lens": torch.tensor([7, 3, 5])}, _plan(model, "ours"))


def _torchs() -> Subject:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(24, 6, 31, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(block, 3, enable_nested_tensor=False).eval()
    return Subject(model, {"src": torch.randn(3, 7, 24)}, _plan(model, "torch"))


def _timms() -> Subject:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(img_size=14, patch_size=7, embed_dim=24, depth=3, num_heads=6, num_classes=5).eval()
    return Subject(model, {"x": torch.randn(3, 3, 14, 14)}, _plan(model, "timm"))


def _of_transformers(model_type: str) -> Subject:
    specimen = build(model_type, dtype=torch.float32)
    inputs = {name: _single(value) for name, value in specimen.inputs.items()}
    model = specimen.model.float()
    if "use_cache" in model.forward.__code__.co_varnames or hasattr(model.config, "use_cache"):
        inputs["use_cache"] = False
    try:
        named(model, inputs)
    except mha.ExportError:
        inputs.pop("use_cache", None)
    return Subject(model, inputs, _plan(model, model_type))


def _single(value: Any) -> Any:
    """The value in single precision, if it is a tensor of doubles."""
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.float64 else value


def _plan(model: nn.Module, seed: str) -> mha.HeadPlan:
    return _without_first(mha.find_attention(model), seed)


def row(name: str, make: Callable[[], Subject], formats: tuple[str, ...]) -> dict[str, str]:
    """The table's row of a model: "equal to 2e-07" in each format, or why not."""
    subject = make()
    families = sorted({layer.family for layer in mha.find_attention(subject.model).values()})
    cells = {format_name: cell(subject, format_name) for format_name in formats}
    return {"model": name, "family": " | ".join(families), **cells}


def cell(subject: Subject, format_name: str) -> str:
    """What became of a model in a format: "equal to 2e-07 at 4 sizes, 1.31 times as fast", or why it is not there."""
    example = ((), subject.inputs)
    with tempfile.TemporaryDirectory() as folder:
        try:
            pruned = mha.prune(subject.model, subject.plan)
            files = mha.export(pruned, format_name, Path(folder, "pruned"), example=example)
            found = mha.check_export(files, subject.model, subject.plan, [example])
            dense = mha.export(subject.model, format_name, Path(folder, "dense"), example=example)
            faster = _faster(dense, files, _larger(subject.inputs, files))
        except mha.MhaError as error:
            lines = str(error).replace(folder, "").splitlines() or [""]
            said = lines[-1] if isinstance(error, mha.EquivalenceError) else " ".join(lines)  # of a proof, its verdict
            return f"{type(error).__name__}: {' '.join(said.split())}"[:LONGEST]
    return f"equal to {found.worst.share:.0e} at {len(found.tries)} sizes, {faster} times as fast"


def _larger(inputs: dict[str, Any], files: mha.Exported) -> dict[str, Any]:
    """Inputs like these, repeated to a batch of BATCH, or the most that the export takes, where any size does."""
    larger = {}
    batch = min([BATCH, *(most[0] for most in files.largest.values())])
    for name, value in inputs.items():
        many = isinstance(value, torch.Tensor) and value.dim() and files.sizes[name][0] is None
        larger[name] = value.repeat(-(-batch // len(value)), *[1] * (value.dim() - 1))[:batch] if many else value
    return larger


def _faster(dense: mha.Exported, pruned: mha.Exported, inputs: dict[str, Any]) -> str:
    """How many times as fast the pruned export is as the dense one, with the 95 % interval of the median over turns."""
    rounds = Rounds()
    for name, files in (("dense", dense), ("pruned", pruned)):
        rounds.add(name, partial(_call, files.load(), inputs))
    fewest, most = ROUNDS
    rounds.until(seconds=SECONDS, fewest=fewest, most=most)
    ratio = rounds.ratio("dense", "pruned")
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _call(run: Callable[[dict[str, Any]], object], inputs: dict[str, Any]) -> Callable[[], object]:
    return partial(run, inputs)


def main(arguments: list[str]) -> int:
    """Try all models, or those named, and write the table; returns 1 if an export computes something else."""
    rows = []
    for name, make in subjects():
        if arguments and name not in arguments:
            continue
        rows.append(row(name, make, FORMATS))
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    if not arguments:
        with TABLE.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return int(any(each[name].startswith(mha.EquivalenceError.__name__) for each in rows for name in FORMATS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
