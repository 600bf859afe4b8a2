"""A hash of what a value is: equal for equal values, in every process; another one for each change."""

import functools
import subprocess
import sys
import threading

import pytest
import torch

from bench.measure.contents import UncomparableError, digest
from tests.bench.measure.values import DIFFERENT, Leaving, Plain, adding, module


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
        "from bench.measure.contents import digest; from tests.bench.measure.values import DIFFERENT;"
        "print([list(map(digest, make())) for make in DIFFERENT[:-1]])"
    )
    how = {"cwd": pytestconfig.rootpath, "env": {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}, "text": True}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, **how).stdout
    assert said == f"{[list(map(digest, make())) for make in DIFFERENT[:-1]]}\n"
