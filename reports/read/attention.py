"""`attention.npz`: attention weights of a few examples, dense and pruned, each read and checked by itself."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reports.base.errors import ReportError
from reports.read.arrays import read_arrays
from reports.read.files import REMEDY, check_columns
from reports.read.intake import kind_at
from reports.read.problems import Problems
from reports.read.run import AttentionExample

FIELDS = ("dense", "pruned", "heads", "queries", "keys")
NUMBERS, WHOLE = "fiu", "iu"  # kinds of arrays
Arrays = Mapping[str, np.ndarray]


def read_attention(file: Path, tasks: Mapping[str, Any], problems: Problems) -> Iterator[AttentionExample]:
    """Yield an AttentionExample for each layer of each example in `file` whose arrays are sound; none without a file.

    The order is that of `tasks`, then that of examples in the file, then that of the task's layers in environment.json.

    Args:
        file: the attention.npz.
        tasks: task -> what environment.json says of it, as a mapping.
        problems: is told of arrays that can't be read, of examples that lack an array or whose arrays don't fit one
            another, and of keys that belong to none of `tasks`.
    """
    arrays = read_arrays(file, problems) if kind_at(file) else {}
    for task, facts in tasks.items():
        layers = list(facts.get("layers", ()))
        for place, layer in _places(task, arrays, layers):
            with problems.noted(file):
                yield _example(file, arrays, task, place, layer)
    if strange := [key for key in arrays if not key.startswith(tuple(f"{task}/" for task in tasks))]:
        known = ", ".join(tasks)
        problems.add(file, f"expected tasks that environment.json describes ({known}), got '{strange[0]}'; {REMEDY}")


def _places(task: str, arrays: Arrays, layers: list[str]) -> list[tuple[str, str]]:
    """A pair (place, layer) for each layer of each example of `task`; its arrays' keys are PLACE/LAYER/ and a field.

    The place is TASK/NUMBER, or in older runs, which have one example, TASK; the fields are FIELDS. Of one place,
    layers come in the order of `layers`; those that are not among them follow by name.
    """
    layers_at: dict[str, dict[str, None]] = {}
    for key in arrays:
        place, _, field = key.rpartition("/")
        if field in FIELDS and key.startswith(f"{task}/"):
            place, _, layer = place.rpartition("/")
            layers_at.setdefault(place, {})[layer] = None
    return [
        (place, layer)
        for place, mine in layers_at.items()
        for layer in sorted(mine, key=[*layers, *sorted(mine)].index)
    ]


def _example(file: Path, arrays: Arrays, task: str, place: str, layer: str) -> AttentionExample:
    keys = {field: f"{place}/{layer}/{field}" for field in FIELDS}
    check_columns(file, arrays, keys.values())
    dense, pruned, heads, queries, tokens = (arrays[keys[field]] for field in FIELDS)
    _check(file, f"{place}/{layer}", dense, pruned, heads, queries, tokens)
    return AttentionExample(
        task=task,
        example=str(arrays.get(f"{place}/name", "")),
        layer=layer,
        plan=str(arrays.get(f"{task}/plan", "")),
        dense=dense.astype(float),
        pruned=pruned.astype(float),
        heads=tuple(int(head) for head in heads),
        queries=tuple(map(str, queries)),
        keys=tuple(map(str, tokens)),
    )


def _check(
    file: Path,
    where: str,
    dense: np.ndarray,
    pruned: np.ndarray,
    heads: np.ndarray,
    queries: np.ndarray,
    tokens: np.ndarray,
) -> None:
    """Raise a ReportError unless an example's arrays fit one another and all attention weights are finite numbers.

    Args:
        file, where: the file, and the example in it, as the error names them.
        dense: (h, q, k). pruned: (kept heads, q, k). heads: (kept heads,), whole numbers from 0 to h - 1.
        queries: the labels of the queries, (q,).
        tokens: the labels of the keys, (k,).
    """
    h, q, k = dense.shape if dense.ndim == 3 else (0, 0, 0)
    fits = pruned.shape == (*heads.shape, q, k) and queries.shape == (q,) and tokens.shape == (k,)
    known = heads.dtype.kind in WHOLE and ((heads >= 0) & (heads < h)).all()
    if dense.ndim != 3 or heads.ndim != 1 or not fits or not known:
        raise ReportError(
            f"{file}: '{where}': expected dense (h, q, k), pruned (kept heads, q, k), heads below h and "
            f"labels (q,) and (k,); got {dense.shape}, {pruned.shape}, {heads.tolist()!r:.60}, {queries.shape} and "
            f"{tokens.shape}; {REMEDY}"
        )
    for name, weights in (("dense", dense), ("pruned", pruned)):
        if weights.dtype.kind not in NUMBERS or not np.isfinite(weights).all():
            raise ReportError(f"{file}: '{where}': expected finite weights in '{name}', got others; {REMEDY}")
