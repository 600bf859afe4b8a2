"""Nests of containers: what is found in them, where, and how they are made anew."""

from collections import OrderedDict, UserDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from mha.runtime.nests import leaves, mapped, refilled, tensors

ALL = (tuple, list, Mapping)


class Pair(NamedTuple):
    first: object
    second: object


def test_leaves_come_in_order_with_their_paths():
    nest = {"a": [1, (2, "xy")], "b": Pair(None, UserDict(c=torch.Size([3, 4]))), "d": ()}
    assert list(leaves(nest, ALL)) == [
        (("a", 0), 1),
        (("a", 1, 0), 2),
        (("a", 1, 1), "xy"),
        (("b", 0), None),
        (("b", 1, "c"), torch.Size([3, 4])),
    ]
    assert list(leaves(5, ALL, ("at",))) == [(("at",), 5)]


def test_only_the_containers_that_are_named_are_looked_into():
    held, given = UserDict(a=1), range(2)
    assert list(leaves([held, given], (list, dict))) == [((0,), held), ((1,), given)]
    assert [leaf for _, leaf in leaves([held, given, "text", b"bytes"], (Mapping, Sequence))] == [
        *(1, 0, 1),
        *("text", b"bytes"),
    ]


def test_tensors_are_found_however_deep():
    one, other = torch.ones(1), torch.zeros(2, 3)
    assert [id(tensor) for tensor in tensors({"a": (one, 1), "b": [[other]]}, ALL)] == [id(one), id(other)]
    assert list(tensors("text", ALL)) == []


def test_a_mapped_nest_has_the_same_containers():
    nest = OrderedDict(a=[1, 2], b=Pair(3, UserDict(c=4)), d="text")
    doubled = mapped(nest, lambda leaf: 2 * leaf if isinstance(leaf, int) else leaf, ALL)
    assert doubled == OrderedDict(a=[2, 4], b=Pair(6, UserDict(c=8)), d="text")
    assert [type(doubled), type(doubled["a"]), type(doubled["b"]), type(doubled["b"].second)] == [
        OrderedDict,
        list,
        Pair,
        UserDict,
    ]
    assert nest == OrderedDict(a=[1, 2], b=Pair(3, UserDict(c=4)), d="text")


def test_what_does_not_change_stays_the_same_object():
    nest = {"a": [1, 2], "b": (3,)}
    assert mapped(nest, lambda leaf: leaf, ALL) is nest
    changed = mapped(nest, lambda leaf: 7 if leaf == 3 else leaf, ALL)
    assert changed == {"a": [1, 2], "b": (7,)}
    assert changed["a"] is nest["a"]


def test_what_a_mapping_knows_beside_its_parts_is_kept():
    encoding = UserDict(a=1)
    encoding.encodings = "kept"
    filled = refilled(encoding, [2])
    assert (dict(filled), filled.encodings, dict(encoding)) == ({"a": 2}, "kept", {"a": 1})
