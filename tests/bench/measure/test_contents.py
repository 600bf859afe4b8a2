"""A hash of what a value is: equal for equal values, in every process; another one for each change."""

import enum
import functools
import logging
import random
import re
import subprocess
import sys
import threading
import types
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.measure.contents import UncomparableError, digest

Pair = namedtuple("Pair", "a b")


class Colour(enum.Enum):
    RED, GREEN = 1, 2


@dataclass
class Settings:
    calib: int = 16
    names: list = field(default_factory=list)


class Plain:
    scale = 2

    def __init__(self, **given):
        self.__dict__ |= given

    @functools.cached_property
    def cached(self):
        return 7


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a):
        self.a = a


class Leaving(Plain):
    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "file"}


def adding(number, by=1):
    return lambda value: value + number + by


def module(seed, width=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))


DIFFERENT = [
    lambda: [None, True, 1, 1.0, 1 + 0j, "1", b"1", ..., torch.float32, torch.device("cpu"), Colour.RED, Colour.GREEN],
    lambda: [0.0, -0.0, float("nan"), float("inf"), 10**30],
    lambda: [(), [], {}, set(), frozenset(), OrderedDict(), Pair(1, 2), Pair(2, 1), (1, 2), [1, 2], {1, 2}],
    lambda: [(1, (2,)), ((1,), 2), (1, 2, ()), [1, [2]], {"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": 2}, {"ab": 12}],
    lambda: [Path("a"), Path("b"), "a", defaultdict(int, a=1), defaultdict(list, a=1), UserDict(a=1), UserDict(a=2)],
    lambda: [np.arange(6), np.arange(6.0), np.arange(6).reshape(2, 3), np.arange(6)[::-1], np.array([1, "a"], object)],
    lambda: [torch.arange(6), torch.arange(6).int(), torch.arange(6).reshape(3, 2), torch.arange(6).flip(0)],
    lambda: [torch.ones(2, dtype=torch.bfloat16), torch.ones(2), torch.ones(()), torch.ones(0), torch.ones(0, 3)],
    lambda: [torch.arange(3.0), nn.Parameter(torch.arange(3.0)), np.arange(3, dtype="f4"), [0.0, 1.0, 2.0]],
    lambda: [Settings(), Settings(calib=64), Settings(names=["a"]), Plain(calib=16), Plain(calib=64), Plain()],
    lambda: [Slotted(1), Slotted(2), random.Random(0), random.Random(1), np.random.default_rng(0)],
    lambda: [torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)],
    lambda: [adding(1), adding(2), adding(1, by=2), adding, functools.partial(adding, 1), functools.partial(adding, 2)],
    lambda: [lambda x: x + 1, lambda x: x + 2, lambda x: x - 1, lambda x, y=1: x + y, lambda x, y=2: x + y, len, max],
    lambda: [Plain(a=1).__init__, Plain(a=2).__init__, Plain, Slotted, nn.Linear, nn.Bilinear, np.dot, torch.relu],
    lambda: [module(0), module(1), module(0).eval(), module(0, width=7)],
    lambda: [re.compile("a"), re.compile("b"), re.compile("a", re.IGNORECASE)],
    lambda: [logging.getLogger("a"), logging.getLogger("b"), types, sys],
]  # fmt: skip


@pytest.mark.parametrize("make", DIFFERENT)
def test_equal_values_have_one_hash_and_others_another(make):
    found, again = list(map(digest, make())), list(map(digest, make()))
    assert found == again
    assert len(set(found)) == len(found)


def test_order_and_sharing_make_no_difference():
    one = [1, 2]
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"abc", "d", "e"}) == digest({"e", "d", "abc"})
    assert digest([one, one]) == digest([[1, 2], [1, 2]])
    assert digest(torch.arange(12).reshape(3, 4).T.contiguous()) == digest(torch.arange(12).reshape(3, 4).T)


def test_what_contains_itself_ends():
    def ring(*numbers):
        found = list(numbers)
        found.append({"again": found})
        return found

    assert digest(ring(1)) == digest(ring(1)) != digest(ring(2))


def test_what_follows_from_the_rest_or_holds_nothing_does_not_count():
    cached = Plain(a=1)
    assert cached.cached == 7
    assert digest(cached) == digest(Plain(a=1))
    assert digest(Plain(lock=threading.Lock())) == digest(Plain(lock=threading.Lock()))
    assert (
        digest(functools.lru_cache(adding))
        == digest(functools.lru_cache(adding))
        != digest(functools.lru_cache(module))
    )


def test_a_class_is_its_attributes_and_those_it_inherits():
    def made(scale, more):
        base = type("Base", (), {"scale": scale, "__module__": __name__})
        return type("Made", (base,), {"__module__": __name__, "run": adding(more), "kind": property(adding(more))})

    assert digest(made(1, 2)) == digest(made(1, 2))
    assert len({digest(made(*both)) for both in ((1, 2), (2, 2), (1, 3))}) == 3
    assert digest(made(1, 2)()) != digest(made(2, 2)())


def test_what_cannot_be_compared_is_said_with_its_place(tmp_path):
    file = (tmp_path / "a").open("w")
    with pytest.raises(
        UncomparableError, match=r"^its state\.inner\[1\]\.file: a TextIOWrapper, whose contents can't be"
    ):
        digest(Plain(inner=[0, {"file": file}]), "its state")
    with pytest.raises(UncomparableError, match="a generator, whose contents can't be read"):
        digest([(number for number in "ab")])
    with pytest.raises(UncomparableError, match=r"w: a tensor of layout torch.sparse_coo, whose numbers can't be read"):
        digest(torch.eye(2).to_sparse(), "w")
    deep = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(UncomparableError, match="nested too deeply"):
        digest(deep)
    assert digest(Leaving(a=1, file=file)) == digest(Leaving(a=1)) != digest(Leaving(a=2))
    file.close()


def test_it_is_the_same_in_every_process(pytestconfig):
    code = (
        "from tests.bench.measure.test_contents import *; print([list(map(digest, make())) for make in DIFFERENT[:-1]])"
    )
    how = {"cwd": pytestconfig.rootpath, "env": {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}, "text": True}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, **how).stdout
    assert said == f"{[list(map(digest, make())) for make in DIFFERENT[:-1]]}\n"
