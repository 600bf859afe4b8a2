"""Where a head lives along a weight's axis; the only code that slices.

An axis that holds heads is a sum of segments. Each segment is an einops pattern over the letters
`h` (key/value group), `g` (query head of that group) and further ones such as `d` (head width). Rearranging
`torch.arange` by the pattern, never the weight itself, gives an index table: head -> indices along the axis.
Slicing is then one `index_select`.

    W_q, W_o            ("(h g d)",)
    W_k, W_v            ("(h d)",)
    packed q, k and v   ("(h g d)", "(h d)", "(h d)")

In "(h (g+2) d)" each group holds its g query heads and then 2 blocks of its own, keys and values.

A position is the number of a query head, or of a group, among those that a layer has now; original numbers are unknown
here. An index is a place along an axis: each head has as many indices as it is wide.
"""

import math
import re
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor

Axis = tuple[str, ...]
JOINT = re.compile(r"\(g\+(\d+)\)")


def width(axis: Axis, sizes: Mapping[str, int]) -> int:
    """The length of the axis: the sum over its patterns of the product of their letters' sizes; (g+2) counts g + 2."""
    return sum(count(*_plain(pattern, sizes)) for pattern in axis)


def count(letters: str, sizes: Mapping[str, int]) -> int:
    """The product of the sizes of the letters in this text: for "h g", the number of query heads."""
    return math.prod(sizes[letter] for letter in _letters(letters))


def kept_indices(axis: Axis, sizes: Mapping[str, int], positions: Sequence[int], groups: Sequence[int]) -> Tensor:
    """The indices along the axis that belong to these query heads or key/value groups, ascending, (n,).

    Args:
        sizes: the size of each letter in the axis's patterns.
        positions: the positions of the query heads to keep.
        groups: the positions of the key/value groups to keep.
    """
    kept, start = [torch.empty(0, dtype=torch.long)], 0
    for pattern in axis:
        for of_groups, table in tables(pattern, sizes):
            kept.append(start + table[list(groups if of_groups else positions)].flatten())
        start += count(*_plain(pattern, sizes))
    return torch.cat(kept).sort().values


def owners(axis: Axis, sizes: Mapping[str, int]) -> Tensor:
    """For each index along an axis that holds query heads alone, in one pattern: the position of its head, (width,)."""
    (pattern,) = axis
    table = _table(pattern, sizes)
    owner = torch.empty(table.numel(), dtype=torch.long)
    owner[table] = torch.arange(len(table)).unsqueeze(1).expand_as(table)
    return owner


def take(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """A copy of the tensor with only the entries at these indices along `dim`, in the order of `index`."""
    return tensor.detach().index_select(dim, index.to(tensor.device))


def tables(pattern: str, sizes: Mapping[str, int]) -> list[tuple[bool, Tensor]]:
    """The index tables of a segment, each after whether it is of key/value groups (True) or of query heads (False).

    In a table, row i lists the indices of the group or head at position i, counted from the start of the segment. A
    pattern with a sum, as (g+2), has two tables: one of its query heads, one of its groups.
    """
    if not (joint := JOINT.search(pattern)):
        return [("g" not in _letters(pattern), _table(pattern, sizes))]
    blocks = _table(*_plain(pattern, sizes)).unflatten(1, (sizes["g"] + int(joint[1]), -1))
    queries, rest = blocks.split([sizes["g"], int(joint[1])], dim=1)
    return [(False, queries.flatten(0, 1)), (True, rest.flatten(1))]


def _plain(pattern: str, sizes: Mapping[str, int]) -> tuple[str, Mapping[str, int]]:
    """The pattern with the letter j in the place of a sum, as (g+2), and the sizes with that of j added."""
    joint = JOINT.search(pattern)
    return (JOINT.sub("j", pattern), {**sizes, "j": sizes["g"] + int(joint[1])}) if joint else (pattern, sizes)


def _table(pattern: str, sizes: Mapping[str, int]) -> Tensor:
    """The index table of a pattern without a sum: row i lists the indices of the query head or group at position i."""
    letters = _letters(pattern)
    whose = [letter for letter in ("h", "g") if letter in letters]
    rest = [letter for letter in letters if letter not in whose]
    indices = torch.arange(count(pattern, sizes))
    target = f"({' '.join(whose)}) ({' '.join(rest)})"
    return rearrange(indices, f"{pattern} -> {target}", **{letter: sizes[letter] for letter in letters})


def _letters(pattern: str) -> list[str]:
    """The letters in a pattern, in order."""
    return re.findall(r"\w+", pattern)
