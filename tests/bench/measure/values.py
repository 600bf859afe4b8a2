"""Values of many kinds, no two of a list equal, to be hashed."""

import enum
import functools
import logging
import random
import re
import sys
import types
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

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
