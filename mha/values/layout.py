"""Where a head lives along a weight's axis; the only code that slices.

An axis that holds heads is a sum of segments. Each segment is an einops pattern over the letters
`h` (key/value group), `g` (query head of that group) and further ones such as `d` (head width). Rearranging
`torch.arange` by the pattern, never the weight itself, gives an index table: head -> positions.
Slicing is then one `index_select`.

    W_q, W_o            ("(h g d)",)
    W_k, W_v            ("(h d)",)
    packed q, k and v   ("(h g d)", "(h d)", "(h d)")

In "(h (g+2) d)" each group holds its g query heads and then 2 blocks of its own, keys and values.
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
    """How many positions the axis has."""
    return sum(count(*_plain(pattern, sizes)) for pattern in axis)


def count(letters: str, sizes: Mapping[str, int]) -> int:
    """The product of the letters' sizes: how many there are of what an attribute counts."""
    return math.prod(sizes[letter] for letter in _letters(letters))


def kept_positions(axis: Axis, sizes: Mapping[str, int], heads: Sequence[int], groups: Sequence[int]) -> Tensor:
    """Ascending positions (n,) along the axis that belong to these query heads or key/value groups."""
    kept, start = [torch.empty(0, dtype=torch.long)], 0
    for pattern in axis:
        for of_groups, table in tables(pattern, sizes):
            kept.append(start + table[list(groups if of_groups else heads)].flatten())
        start += count(*_plain(pattern, sizes))
    return torch.cat(kept).sort().values


def owners(axis: Axis, sizes: Mapping[str, int]) -> Tensor:
    """(positions,): the query head that each position of an axis of query heads belongs to."""
    (pattern,) = axis
    table = _table(pattern, sizes)
    owner = torch.empty(table.numel(), dtype=torch.long)
    owner[table] = torch.arange(len(table)).unsqueeze(1).expand_as(table)
    return owner


def take(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """A copy of the tensor with only these positions along `dim`, in their order."""
    return tensor.detach().index_select(dim, index.to(tensor.device))


def tables(pattern: str, sizes: Mapping[str, int]) -> list[tuple[bool, Tensor]]:
    """What lies along a segment: whether its owners are key/value groups, and the table of their positions, (owners,
    positions of each)."""
    if not (joint := JOINT.search(pattern)):
        return [("g" not in _letters(pattern), _table(pattern, sizes))]
    blocks = _table(*_plain(pattern, sizes)).unflatten(1, (sizes["g"] + int(joint[1]), -1))
    queries, rest = blocks.split([sizes["g"], int(joint[1])], dim=1)
    return [(False, queries.flatten(0, 1)), (True, rest.flatten(1))]


def _plain(pattern: str, sizes: Mapping[str, int]) -> tuple[str, Mapping[str, int]]:
    """The pattern with one letter, j, for a sum in it, and the sizes with that letter."""
    joint = JOINT.search(pattern)
    return (JOINT.sub("j", pattern), {**sizes, "j": sizes["g"] + int(joint[1])}) if joint else (pattern, sizes)


def _table(pattern: str, sizes: Mapping[str, int]) -> Tensor:
    """(query heads or groups, positions of each): row i lists where head, or group, i lives."""
    letters = _letters(pattern)
    whose = [letter for letter in ("h", "g") if letter in letters]
    rest = [letter for letter in letters if letter not in whose]
    positions = torch.arange(count(pattern, sizes))
    target = f"({' '.join(whose)}) ({' '.join(rest)})"
    return rearrange(positions, f"{pattern} -> {target}", **{letter: sizes[letter] for letter in letters})


def _letters(pattern: str) -> list[str]:
    return re.findall(r"\w+", pattern)
