"""Every public function and class has an example, and all examples run."""

import doctest
import inspect
from typing import Any

import pytest
import torch
from torch import nn

import mha
from mha import costs, tasks, timing, visualize
from mha.families.base import find

MODULES = (mha, costs, tasks, timing, visualize)


def is_exception(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


def public() -> dict[str, object]:
    """Name -> every public function and class, errors left out: those are told by what raises them."""
    named = {f"{module.__name__}.{name}": getattr(module, name) for module in MODULES for name in module.__all__}
    callable_ones = {name: value for name, value in named.items() if inspect.isroutine(value) or inspect.isclass(value)}
    return {name: value for name, value in callable_ones.items() if not is_exception(value) and value is not Any}


PUBLIC = public()


def examples_in(value: object, name: str) -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = {"mha": mha, "torch": torch, "nn": nn}
    return [found for found in finder.find(value, name, globs=names) if found.examples]


@pytest.mark.parametrize("name", ["mha", *PUBLIC])
def test_its_examples_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(find, "_FAMILIES", find.families())  # an example registers one
    torch.manual_seed(0)
    found = examples_in(PUBLIC.get(name, mha), name)
    assert found, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failed = sum(runner.run(example).failed for example in found)
    assert failed == 0, capsys.readouterr().out


def test_an_example_that_fails_is_found(capsys):
    def wrong() -> None:
        """It is wrong.

        >>> 1 + 1
        3
        """

    (example,) = examples_in(wrong, "wrong")
    assert doctest.DocTestRunner().run(example).failed == 1
    assert "Expected:" in capsys.readouterr().out
