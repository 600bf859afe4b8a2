"""`export`: a model, pruned or not, into the format of a runtime."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mha.exporting.exported import FILE, Exported, described, digest_of, version_of
from mha.exporting.inputs import named
from mha.exporting.registry import Format, Wish, find_format
from mha.exporting.stages import fixed_of
from mha.values.errors import CheckpointError, ExportError, MhaError
from mha.values.optional_packages import needed
from mha.values.whole_directory import check_free, whole_directory

DEPTH = 3  # how far the causes of a failure are looked into for what it says


def export(
    model: nn.Module,
    to: str,
    directory: Path | str,
    *,
    example: Any,
    int8: bool = False,
    cache: bool = False,
    tokenizer: Path | str | None = None,
) -> Exported:
    """Write a model in the format of a runtime into a directory that is empty or does not exist.

    Batch sizes and lengths stay open wherever the format lets them. Prove what was written by `check_export`.

    Args:
        model: pruned or not, of any family; it is run in eval mode, and is itself not changed.
        to: "torch" (`torch.export`), "onnx" (ONNX Runtime), "openvino", "executorch", "gguf" (llama.cpp, of models of
            type llama), or "transformers", a directory that plain transformers loads.
        example: what the model is called with, (args, kwargs). Tensors are inputs of the export, anything else is
            fixed.
        int8: quantise weights to 8-bit integers, where the format can.
        cache: write a decoder so that it keeps keys and values from token to token: "torch", "onnx" and "openvino",
            of language models of transformers. What `load()` returns then is an `mha.exporting.decoding.Decoder`.
        tokenizer: for "gguf", a GGUF file whose tokenizer is copied; without one, texts are given as token ids.

    Returns:
        What was written, by which `check_export` finds it; it prints itself, and `load()` runs it.

    Raises:
        ExportError: there is no such format, it or its runtime can't have this model, or the example does not fit.
        MissingPackageError: a package that the format needs is not installed; the message names the extra.
        CheckpointError: the directory holds something, or can't be written; nothing is left half-written.

    Example:
        >>> layer = mha.MultiHeadAttention.square(24, num_heads=4)
        >>> pruned = mha.prune(layer, mha.HeadPlan({"": (0, 3)}))
        >>> x = torch.randn(2, 5, 24)
        >>> files = mha.export(pruned, "torch", folder / "exported", example=((x, x, x), {}))  # doctest: +SKIP
        >>> print(mha.check_export(files, layer, mha.HeadPlan({"": (0, 3)}), [(x, x, x)]))  # doctest: +SKIP
    """
    format = find_format(to)
    _check(format, model, int8=int8, cache=cache)
    directory = Path(directory)
    check_free(directory)
    inputs = named(model, example)
    fixed = fixed_of(inputs, cache=cache)
    source = None if tokenizer is None else Path(tokenizer)
    wish = Wish(_copy(model), {name: _copied(value) for name, value in inputs.items()}, int8, source, cache)
    with whole_directory(directory) as partial:
        with _refusals(format, model), warnings.catch_warnings(action="ignore"):  # of packages about themselves
            sizes = format.write(wish, partial)
        written = Exported(
            directory=partial,
            format=format.name,
            files={path.relative_to(partial).as_posix(): digest_of(path) for path in _files(partial)},
            versions={name: found for name in (format.runtime, *format.packages) if (found := version_of(name))},
            sizes=sizes,
            largest=format.largest(inputs),
            dtype=str(next((p.dtype for p in model.parameters()), "float32")).removeprefix("torch."),
            int8=int8,
            cache=cache,
            constants={name: described(value) for name, value in fixed.items()},
        )
        written.write()
    return Exported.read(directory)


def _check(format: Format, model: nn.Module, *, int8: bool, cache: bool) -> None:
    """Refuse what can't be exported before anything is written.

    Raises:
        ExportError, MissingPackageError: as `export` says.
    """
    for package, extra in format.packages.items():
        needed(package, extra, f"to export to {format.name}")
    if int8 and not format.takes_int8:
        raise ExportError(
            f"{format.name} has no 8-bit weights here; leave out int8, or export to torch, onnx or openvino"
        )
    if cache and not format.takes_cache:
        raise ExportError(
            f"{format.name} is written without a cache: llama.cpp and transformers keep one in any case, others decode "
            "the whole sequence anew; leave out cache, or export to torch, onnx or openvino"
        )
    if meta := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise ExportError(f"{meta[0]} is on the meta device, without data: load weights before exporting")


@contextmanager
def _refusals(format: Format, model: nn.Module) -> Iterator[None]:
    """Turn what a converter raises into an `ExportError` that names the model and what the converter said last."""
    try:
        yield
    except (MhaError, OSError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__} can't be exported to {format.name}: {_said(error)}. Where the message names an "
            "operator or a module, that is what has to be written otherwise"
        ) from error


def _said(error: BaseException) -> str:
    """The first lines of an error and of its causes."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(said) < DEPTH:
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        said.append(f"{type(cause).__name__}: {' '.join(lines[:3])[:300]}")
        cause = cause.__cause__
    return "; caused by ".join(dict.fromkeys(said))


def _copy(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode on the CPU."""
    try:
        return copy.deepcopy(model).eval().cpu()
    except Exception as error:
        raise CheckpointError(
            f"{type(model).__name__} can't be copied ({error}), and exporting changes a copy"
        ) from error


def _copied(value: Any) -> Any:
    """An input on the CPU; anything but a tensor as it is."""
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def _files(directory: Path) -> list[Path]:
    """All files in a directory and below, but the description of an export."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.name != FILE)
