"""The exporters of transformers, which trace, mend and convert any module; what is open of its inputs' sizes."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mha.exporting.registry import Run, Wish
from mha.values.errors import ExportError

EXTRA = "export"
PACKAGES = {"torch": EXTRA, "transformers": EXTRA}
MANIFEST = "export.json"  # transformers' own


def write(wish: Wish, directory: Path, exporter: type, config: Any) -> dict[str, list[int | None]]:
    """Export by one of transformers' exporters, and save what comes of it into the directory.

    Args:
        exporter: the class, such as `OnnxExporter`.
        config: for it; every size of every input may be open.

    Returns:
        Name of each tensor among the inputs -> its sizes, None where any size does.
    """
    from transformers.exporters.exporter_dynamo import DynamoExporter

    sizes: dict[str, list[int | None]] = {}

    def export_program(self: Any, model: Any, sample_inputs: Any, config: Any) -> Any:
        """Trace as transformers does, and note which sizes are open in the program, before it is converted."""
        program, metadata = DynamoExporter.export_program(self, model, sample_inputs, config)
        given = [name for name, each in sample_inputs.items() if isinstance(each, Tensor)]
        sizes.update(open_sizes(program, given))
        return program, metadata

    tracer: Any = type("Noting", (DynamoExporter,), {"export_program": export_program})
    noting: Any = tracer if exporter is DynamoExporter else type("Noting", (exporter, tracer), {})
    with quietly():
        exported = noting().export(bound(wish), {k: v for k, v in wish.inputs.items() if isinstance(v, Tensor)}, config)
        exported.save_pretrained(directory)
    _check_manifest(directory)
    return sizes


def bound(wish: Wish) -> nn.Module:
    """The model, with inputs that are no tensors fixed; itself if it has none of those."""
    fixed = {name: value for name, value in wish.inputs.items() if not isinstance(value, Tensor)}
    return wish.model if not fixed else Bound(wish.model, fixed)


class Bound(nn.Module):
    """A model some of whose inputs are fixed; those of its calls are given by name.

    Args:
        fixed: name -> value.
    """

    def __init__(self, model: nn.Module, fixed: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.fixed = model, fixed
        self.config = getattr(model, "config", None)
        if self.config is None:
            del self.config

    def forward(self, **given: Any) -> Any:
        return self.model(**given, **self.fixed)


def open_sizes(program: Any, names: list[str]) -> dict[str, list[int | None]]:
    """Name of each tensor input of a traced program -> its sizes, None where any size does."""
    inputs = set(program.graph_signature.user_inputs)
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    shapes = [node.meta["val"].shape for node in placeholders if isinstance(node.meta.get("val"), Tensor)]
    if len(shapes) != len(names):
        raise ExportError(f"the model has inputs {names}, and the traced program {len(shapes)}: some are not used")
    return {
        name: [_open(size, program.range_constraints) for size in shape]
        for name, shape in zip(names, shapes, strict=True)
    }


def _open(size: Any, ranges: Any) -> int | None:
    """A size that a traced program takes; None where it takes several."""
    if isinstance(size, int):
        return size
    bounds = ranges.get(size.node.expr)
    return int(bounds.lower) if bounds is not None and bounds.lower == bounds.upper else None


def run(directory: Path, **how: Any) -> Run:
    """A function that runs what transformers' exporters have written, on the CPU."""
    from transformers.exporters.base import ExportedModel

    with quietly():
        model = ExportedModel.from_pretrained(directory, device="cpu", local_files_only=True, **how)

    def call(inputs: Any) -> Any:
        with torch.no_grad():
            given: dict[str, Any] = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
            return model(**given)

    return call


def _check_manifest(directory: Path) -> None:
    """Refuse an export whose own manifest is not there."""
    if not (directory / MANIFEST).is_file():
        raise ExportError(f"transformers wrote no {MANIFEST}: this version of it is another than the one that is known")
    json.loads((directory / MANIFEST).read_text(encoding="utf-8"))


@contextmanager
def quietly() -> Iterator[None]:
    """Without the exporters' progress, advice and warnings, which are about the packages and not about the model."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    disabled = logging.root.manager.disable
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        transformers_logging.set_verbosity(level)
