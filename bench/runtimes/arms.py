"""A model in a runtime: exported, proved, judged by its task, called with inputs of a size."""

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import mha
from bench.measure.memory import weight_bytes
from bench.runtimes.variants import Variant
from mha.exporting.exported import version_of
from mha.exporting.inputs import named, tensors_of
from mha.exporting.registry import find_format
from mha.tasks import Task

EAGER = "eager"
RUNTIMES = {  # format -> what its runtime is called
    EAGER: "PyTorch",
    "torch": "torch.export",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "executorch": "ExecuTorch",
    "gguf": "llama.cpp",
}
IMPORTS = {  # what a process has imported before the memory of a model is measured in it
    EAGER: ("torch",),
    "torch": ("transformers.exporters.auto",),
    "onnx": ("onnxruntime", "onnxscript", "transformers.exporters.auto"),
    "openvino": ("openvino", "transformers.exporters.auto"),
    "executorch": ("executorch.runtime", "transformers.exporters.auto"),
    "gguf": ("xllamacpp", "gguf"),
}
FLOAT32, INT8 = "float32", "int8"
EIGHT_BITS = "torch", "onnx", "openvino", "gguf"

Inputs = dict[str, Any]


@dataclass
class Arm:
    """A variant in a runtime, with float32 or int8 weights.

    Attributes:
        format: what `mha.export` calls it, or EAGER for the model as it is.
        export: what was written; None for EAGER.
        run: inputs by name -> what the model returns.
        facts: what is known of it so far, as columns of the table.
    """

    variant: Variant
    format: str
    weights: str
    export: mha.Exported | None
    run: Callable[[Mapping[str, Any]], Any]
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """Its name among those that take turns."""
        return f"{self.variant.name}, {self.weights}, {RUNTIMES[self.format]}"


def call_of(format: str, run: Callable[[Mapping[str, Any]], Any], inputs: Inputs) -> Callable[[], object]:
    """A call without arguments, to be timed; llama.cpp computes the sequences of a batch one after another, anew."""
    if format != "gguf":
        return lambda: run(inputs)
    server: Any = run
    rows = inputs["input_ids"].tolist()
    return lambda: [server.read(row) for row in rows]


class InRuntime(nn.Module):
    """What a task can judge like a model: its calls go to a runtime."""

    def __init__(self, arm: Arm) -> None:
        super().__init__()
        self.here = nn.Parameter(torch.zeros(()))  # says on which device inputs belong
        self._arm = arm

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = tensors_of(named(self._arm.variant.model, (args, kwargs)))
        if self._arm.format == "gguf":
            return SimpleNamespace(logits=teacher_forced(self._arm.run, given["input_ids"]))
        parts = [self._arm.run(part) for part in self._fitting(given)]
        return parts[0] if len(parts) == 1 else tree_map(lambda *outputs: torch.cat(outputs), *parts)

    def _fitting(self, inputs: Inputs) -> Iterator[Inputs]:
        """Yield inputs of no more rows than a runtime has planned its memory for, which are together all of them."""
        planned = self._arm.export.largest if self._arm.export else {}
        most = min((sizes[0] for name, sizes in planned.items() if name in inputs), default=None)
        if most is None:
            yield inputs
            return
        parts = {name: value.split(most) for name, value in inputs.items()}
        for rows in zip(*parts.values(), strict=True):
            yield dict(zip(parts, rows, strict=True))


def teacher_forced(server: Any, ids: Tensor) -> Tensor:
    """The log-probabilities (b, n, v) that llama.cpp gives the tokens after each place, enough to judge it by.

    That of the token which follows is exact, and all add up to 1: what is left beside the likeliest is put on a token
    that is none of them.
    """
    rows = [torch.stack([_after(server, row, place) for place in range(len(row))]) for row in ids.tolist()]
    return torch.stack(rows)


def _after(server: Any, row: list[int], place: int) -> Tensor:
    """The log-probabilities (v,) after a place of a sequence, as `teacher_forced` says."""
    told = server.next_token(row[: place + 1])
    if place + 1 < len(row) and told[row[place + 1]] == -torch.inf:
        told = server.next_token(row[: place + 1], len(told))
    untold = (told == -torch.inf).nonzero()
    if len(untold):
        rest = 1 - float(told.exp().sum())
        told[untold[0]] = torch.tensor(max(rest, 1e-300), dtype=told.dtype).log()
    return told


def arm_of(variant: Variant, format: str, weights: str, directory: Path, example: Inputs) -> Arm:
    """Export a variant into a directory, and prove it there.

    Raises:
        MhaError: it can't be exported; its runtime computes something else in float32; a package is missing.
    """
    model = variant.model.eval()
    if format == EAGER:
        return Arm(
            variant,
            format,
            weights,
            None,
            eager(model),
            {"file_bytes": weight_bytes(model), "version": str(torch.__version__)},
        )
    start = time.perf_counter()
    export = mha.export(model, format, directory, example=((), example), int8=weights == INT8)
    seconds = time.perf_counter() - start
    allowed = math.inf if weights == INT8 else None  # how much is lost by 8 bits, the task says
    found = mha.check_export(export, model, mha.plan_of(model), [((), example)], allowed=allowed)
    facts = {
        "file_bytes": export.bytes,
        "version": version_of(find_format(format).runtime),
        "export_seconds": seconds,
        "off_by": found.worst.share,
    }
    return Arm(variant, format, weights, export, export.load(), facts)


def caught_call(task: Task, model: nn.Module) -> Inputs:
    """The inputs, by name, with which the task calls its model on the first calibration batch."""
    caught: list[Inputs] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(named(module, (args, kwargs)))

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            task.forward(model, next(iter(task.calibration())))
    finally:
        hook.remove()
    return caught[0]


def same_tokens(arm: Arm, prompt: list[int], most: int) -> int:
    """How many tokens llama.cpp writes greedily after a prompt that are those of the model in torch, from the first."""
    model: Any = arm.variant.model
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        written = model.generate(ids, max_new_tokens=most, do_sample=False, eos_token_id=-1, pad_token_id=0)
    server: Any = arm.run
    pairs = zip(written[0, len(prompt) :].tolist(), server.greedy(prompt, most), strict=True)
    return next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), most)


def eager(model: nn.Module) -> Callable[[Mapping[str, Any]], Any]:
    """A function that calls the model in torch."""
    beside = fixed(model)  # found out here, and not within what is timed

    def run(inputs: Mapping[str, Any]) -> Any:
        with torch.inference_mode():
            return model(**inputs, **beside)

    return run


def fixed(model: nn.Module) -> dict[str, Any]:
    """What a model is called with beside tensors: without a cache, if it would make one."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
