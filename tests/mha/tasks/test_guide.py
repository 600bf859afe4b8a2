"""Every TOML file in docs/tasks.md is read, with a tiny model of its kind and data that fit it."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mha.tasks import read_task
from mha.tasks.kinds.base.registry import kinds
from tests.mha.support.task_files import model, text, tokenizer
from tests.mha.support.task_images import PixelsOnly

PAGE = Path(__file__).parents[3] / "docs" / "tasks.md"
FILES = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
MODELS = {
    "text-classification": ("bert", "AutoModelForSequenceClassification"),
    "token-classification": ("bert", "AutoModelForTokenClassification"),
    "masked-language-modelling": ("bert", "AutoModelForMaskedLM"),
    "causal-language-modelling": ("llama", "AutoModelForCausalLM"),
    "sequence-to-sequence": ("t5", "AutoModelForSeq2SeqLM"),
    "image-classification": ("vit", "AutoModelForImageClassification"),
    "sentence-embeddings": ("bert", "AutoModel"),
    "outputs": ("bert", "AutoModel"),
}


def value(word: str, seed: int, renamed: dict) -> object:
    """What a row has of this name."""
    if word == "label":
        return sorted(renamed)[seed % 2] if renamed else seed % 2
    if word in ("words", "tags"):
        return text(seed, 4).split() if word == "words" else [0, 1, 1, 0]
    return text(7 * seed + len(word), 9)


def write_data(path: Path, columns: dict, renamed: dict, start: int) -> None:
    """Six rows that a file may be read from, no two alike."""
    rows = [{column: value(word, start + number, renamed) for word, column in columns.items()} for number in range(6)]
    if path.suffix == ".txt":
        path.write_text("\n\n".join(text(start + number, 9) for number in range(6)))
    elif path.suffix == ".csv":
        lines = [",".join(columns.values()), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        for name in ("0", "1"):
            (path / name).mkdir(parents=True)
            pixels = np.random.default_rng(start + int(name)).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / "a.png")


@pytest.mark.parametrize(
    "toml", FILES, ids=[f"{number} {tomllib.loads(one)['kind']}" for number, one in enumerate(FILES)]
)
def test_it_is_read_and_evaluated(tmp_path, toml):
    said = tomllib.loads(toml)
    files = [name for name in said["data"].values() if isinstance(name, str) and ("." in name or "/" in name)]
    for number, name in enumerate(files):
        write_data(tmp_path / name, said.get("columns", {"text": "text"}), said.get("labels", {}), 1000 * (number + 1))
    (tmp_path / "task.toml").write_text(toml)
    one = model(*MODELS[said["kind"]])
    images = said["kind"].startswith("image")
    task = read_task(tmp_path / "task.toml", one, PixelsOnly() if images else words())
    values = task.evaluate(task.model())
    assert len(values) == len(task.examples["evaluation"])
    assert np.isfinite(task.aggregate(values))
    assert np.isfinite(float(task.loss(one, task.calibration()[0]).detach()))


def words():
    return tokenizer(model_input_names=["input_ids", "attention_mask"])


def test_every_kind_and_metric_is_told():
    page = PAGE.read_text(encoding="utf-8")
    assert {tomllib.loads(one)["kind"] for one in FILES} == kinds().keys() - {"image-outputs"}
    flat = " ".join(page.split())
    missing = [name for kind in kinds().values() for name in kind.metrics if f"`{name}`" not in flat]
    assert missing == []
    assert 'kind = "image-outputs"' in page
