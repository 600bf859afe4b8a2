"""Tiny models on disk, and the command line called within this process."""

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mha
from mha.cli.main import main
from mha.costs import CostTable, LayerCosts, Shape, ShapeCost, feasible_shapes
from tests.mha.cli.tiny import OWN, TASK, tiny_bert, tokenizer


class Ran(NamedTuple):
    """How a command ended: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON on stdout, which nothing else is on."""
        return json.loads(self.out)


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """A folder with `my-model` (a classifier and its tokenizer), `task.py`, `own.py`, and `smaller`, made from it."""
    folder = tmp_path_factory.mktemp("cli")
    tiny_bert().save_pretrained(folder / "my-model")
    tokenizer().save_pretrained(folder / "my-model")
    (folder / "task.py").write_text(TASK)
    (folder / "own.py").write_text(OWN)
    command = ["prune", str(folder / "my-model"), "--criterion", "magnitude", "--keep", "0.5", "--seconds", "0.05"]
    assert main([*command, "-o", str(folder / "smaller")]) == 0
    return folder


@pytest.fixture
def here(saved, tmp_path, monkeypatch) -> Path:
    """The present folder, which has links to what is saved, and nothing else."""
    for path in saved.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def task_in(text: str, *_: Any) -> Any:
    """The object that path.py:name names."""
    path, _, name = text.rpartition(":")
    spec = importlib.util.spec_from_file_location("tiny_task", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@pytest.fixture(autouse=True)
def _tasks(monkeypatch) -> None:
    """Where `mha.tasks` reads no tasks, they are read here."""
    if not hasattr(mha.tasks, "read_task"):
        monkeypatch.setattr(mha.tasks, "read_task", task_in, raising=False)


@pytest.fixture(autouse=True)
def _offline(monkeypatch) -> None:
    """Nothing is looked for on the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def run(here, capsys) -> Callable[..., Ran]:  # noqa: ARG001
    """Run a command in the present folder."""

    def called(*arguments: Any) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return called


@pytest.fixture
def short_ladder(monkeypatch) -> None:
    """Two candidates are made where a loss is allowed, in place of ten."""
    monkeypatch.setattr("mha.cli.shrinking.shrink", partial(mha.shrink, ladder=(0.75, 0.5)))


@pytest.fixture
def costs(monkeypatch) -> None:
    """Every head takes a second, and the rest of the model two: what a budget of latency is met by is known."""

    def measured(model: Any, *_: Any, **__: Any) -> CostTable:
        layers = {}
        for name, layer in mha.find_attention(model).items():
            shapes = feasible_shapes(Shape(layer.num_heads, layer.num_kv_heads))
            prices = {shape: ShapeCost(float(shape.heads), 10 * shape.heads, 5 * shape.heads) for shape in shapes}
            layers[name] = LayerCosts(layer.heads, layer.num_kv_heads, prices)
        heads = sum(len(layer.heads) for layer in layers.values())
        return CostTable(layers, ShapeCost(heads + 2.0, 10 * heads + 20, 5 * heads + 10), rest=2.0)

    monkeypatch.setattr("mha.cli.shrinking.measure_costs", measured)
    monkeypatch.setattr("mha.cli.heads.measure_costs", measured)
