"""The exporters of transformers, which trace, mend and convert any module; what is open of its inputs' sizes."""

import contextlib
import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mha.exporting.decoding import CACHE, ENCODED, MASK, Decoder, Program
from mha.exporting.inputs import tensors_of
from mha.exporting.registry import Run, Sizes, Wish
from mha.exporting.stages import Stage, stages
from mha.values.errors import ExportError

EXTRA = "export"
PACKAGES = {"torch": EXTRA, "transformers": EXTRA}
MANIFEST = "export.json"  # transformers' own
ASSUMED = 2  # what torch takes every open size to be at least, without holding any run to that


def write(
    wish: Wish, directory: Path, exporter: type, config: Any, largest: Mapping[str, Sequence[int]] | None = None
) -> Sizes:
    """Export by one of transformers' exporters, and save what comes of it into the directory.

    Args:
        exporter: the class, such as `OnnxExporter`.
        config: for it; every size of every input may be open.
        largest: tensor among the inputs -> the most that each of its sizes may be, where it is open; by default any.

    Returns:
        Name of each tensor among the first stage's inputs -> its sizes, None where any size does.
    """
    from transformers.exporters.base import ExportedModel
    from transformers.exporters.exporter_dynamo import DynamoExporter
    from transformers.exporters.utils import get_leaf_tensors

    noted: list[Sizes] = []

    def export_program(self: Any, model: Any, sample_inputs: Any, config: Any) -> Any:
        """Trace as transformers does, and note which sizes are open in the program, before it is converted."""
        given = list(get_leaf_tensors(sample_inputs))  # before tracing, in which a cache grows
        program, metadata = DynamoExporter.export_program(self, model, sample_inputs, config)
        _unbind_mask(program)
        noted.append(open_sizes(program, given))
        return program, metadata

    tracer: Any = type("Noting", (DynamoExporter,), {"export_program": export_program})
    noting: Any = tracer if exporter is DynamoExporter else type("Noting", (exporter, tracer), {})
    with quietly():
        found = {
            name: noting().export(*stage, _with_open_sizes(config, stage, largest or {}))
            for name, stage in stages(wish).items()
        }
        parts = {name: component for name, each in found.items() for component in each.components.values()}
        first = next(iter(found.values()))
        ExportedModel(parts, first.export_format, config=first.config).save_pretrained(directory)
    _check_manifest(directory)
    return noted[0]


def _with_open_sizes(config: Any, stage: Stage, largest: Mapping[str, Sequence[int]]) -> Any:
    """The exporter's configuration with what is not as usual: that every size of every input may be open.

    Of a cache batch and length are, and its heads and their width not; of inputs in `largest`, sizes up to these.
    """
    from transformers.exporters.exporter_dynamo import get_auto_dynamic_shapes, register_cache_pytrees_for_model

    if CACHE not in stage.inputs and not largest:
        return config
    module: Any = stage.module
    register_cache_pytrees_for_model(module)
    shapes = get_auto_dynamic_shapes(stage.inputs)
    if CACHE in stage.inputs:
        shapes[CACHE] = [{axis: size for axis, size in each.items() if axis in (0, 2)} for each in shapes[CACHE]]
    for name in largest:
        shapes[name] = {axis: size(max=largest[name][axis]) for axis, size in shapes[name].items()}
    return dataclasses.replace(config, dynamic_shapes=shapes)


def _unbind_mask(program: Any) -> None:
    """Let the mask of a program with a cache be as short as any other input.

    Its length is that of the cache and of the new tokens together. So torch takes it to be at least twice what it
    assumes of each, and, unlike these, holds runs to that: prompts of three tokens would be refused.
    """
    from torch.utils._sympy.value_ranges import ValueRanges

    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name == MASK and node.meta["val"].dim() == 2:
            symbol = getattr(getattr(node.meta["val"].shape[1], "node", None), "expr", None)
            bounds = program.range_constraints.get(symbol)
            if bounds is not None and bounds.lower == 2 * ASSUMED:
                program.range_constraints[symbol] = ValueRanges(ASSUMED, bounds.upper)


def open_sizes(program: Any, names: Sequence[str]) -> Sizes:
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
    model = _opened(directory, how)

    def call(inputs: Any) -> Any:
        with torch.no_grad():
            return model(**tensors_of(inputs))

    return call


def decoder(directory: Path, sizes: Sizes, keeping: Callable[[Any], Program] | None = None, **how: Any) -> Decoder:
    """What runs a model that they have written with a cache, on the CPU.

    Args:
        keeping: a runner of transformers whose program keeps the cache itself -> that program; where that is not
            given, the cache is handed back and forth.
    """
    runners = _opened(directory, how).runners
    takes = [name for name in sizes if not name.startswith(CACHE)]
    if "decode" in runners:
        return Decoder(_EncoderDecoder(runners), takes, encoder=True)
    (runner,) = runners.values()
    return Decoder(_Handed(runner, sizes) if keeping is None else keeping(runner), takes)


def _opened(directory: Path, how: Mapping[str, Any]) -> Any:
    """What is in a directory, as transformers runs it."""
    from transformers.exporters.base import ExportedModel

    with quietly():
        return ExportedModel.from_pretrained(directory, device="cpu", local_files_only=True, **how)


class _Handed:
    """A program that is handed the cache, and hands it back longer.

    Args:
        runner: transformers' own.
        sizes: of the cache's tensors, among others; what is open is the batch and, 0 at first, the tokens so far.
    """

    def __init__(self, runner: Any, sizes: Sizes) -> None:
        self._runner, self._sizes = runner, sizes
        self._cache: Any = None

    def __call__(self, inputs: Mapping[str, Tensor], *, first: bool) -> Tensor:
        if first:
            self._cache = self._empty(len(next(iter(inputs.values()))))
        with torch.no_grad(), quietly():
            outputs = self._runner(**inputs, **{CACHE: self._cache})
        self._cache = outputs[CACHE]
        logits: Tensor = outputs["logits"]
        return logits

    def _empty(self, batch: int) -> Any:
        """A cache of no tokens, of the structure that was traced."""
        from transformers.exporters.metadata import load_treespec

        shapes = [
            [batch if axis == 0 and size is None else size or 0 for axis, size in enumerate(sizes)]
            for sizes in self._sizes.values()
        ]
        leaves = [torch.zeros(shape, dtype=self._runner.dtype) for shape in shapes]
        _, inputs = torch.utils._pytree.tree_unflatten(leaves, load_treespec(self._runner.metadata.in_spec))
        return inputs[CACHE]


class _EncoderDecoder:
    """Two programs: one reads what the encoder reads and a prompt, the other goes on from what that returned.

    Args:
        runners: transformers' own, of "prefill" and "decode".
    """

    def __init__(self, runners: Mapping[str, Any]) -> None:
        self._runners = runners
        self._kept: dict[str, Any] = {}

    def __call__(self, inputs: Mapping[str, Tensor], *, first: bool) -> Tensor:
        from transformers.modeling_outputs import BaseModelOutput

        with torch.no_grad(), quietly():
            if first:
                outputs = self._runners["prefill"](**inputs)
            else:  # copies go in, since OpenVINO corrupts its memory where a cache that is shared comes out as it is
                outputs = self._runners["decode"](share_inputs=False, **inputs, **self._kept)
        if first:
            self._kept = {ENCODED: BaseModelOutput(last_hidden_state=outputs["encoder_last_hidden_state"])}
            self._kept |= {MASK: inputs[MASK]} if MASK in inputs else {}
        self._kept[CACHE] = outputs[CACHE]
        logits: Tensor = outputs["logits"]
        return logits


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
