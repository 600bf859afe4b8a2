"""Rows of files, as they were written by others."""

import json
import re
import socket

import pandas as pd
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

datasets = pytest.importorskip("datasets", reason="datasets is not installed")

from mha.tasks.files.tables import read_table  # noqa: E402
from mha.values.errors import TaskError  # noqa: E402

ROWS = [{"text": "NA, really", "label": 3}, {"text": "None", "label": 5}, {"text": 'it\'s "so"\nand so', "label": 7}]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
def test_tables(tmp_path, name):
    frame, path = pd.DataFrame(ROWS), tmp_path / name
    if "json" in name:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif "parquet" in name:
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if "csv" in name else "\t")
    table = read_table(path)
    assert table.rows == ROWS
    assert table.columns == ("text", "label")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("line", ["One line.", "Another.", "A third"]),
        ("paragraph", ["One line.\nAnother.", "A third\n"]),
        ("document", ["One line.\nAnother.\n\nA third\n"]),
    ],
)
def test_plain_text(tmp_path, unit, expected):
    (tmp_path / "a.txt").write_text("One line.\nAnother.\n\nA third\n")
    assert [row["text"] for row in read_table(tmp_path / "a.txt", unit).rows] == expected


def test_images_by_class(tmp_path):
    for name, level in (("cat", 10), ("dog", 200)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (5, 3), (level, 0, 0)).save(tmp_path / name / "one.png")
    rows = read_table(tmp_path).rows
    assert [(row["label"], row["image"].size, row["image"].getpixel((0, 0))[0]) for row in rows] == [
        ("cat", (5, 3), 10),
        ("dog", (5, 3), 200),
    ]


def test_images_in_a_table_are_never_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)  # nothing may ask for an address
    features = datasets.Features({"image": datasets.Image()})
    rows = [{"image": {"bytes": None, "path": "http://localhost/a.png"}}]
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=features.arrow_schema), tmp_path / "a.parquet")
    with pytest.raises(TaskError, match=r"a.parquet: can't be read as parquet: FileNotFoundError: .*http"):
        read_table(tmp_path / "a.parquet")


def test_images_in_a_table(tmp_path):
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_list([{"image": Image.new("RGB", (5, 3), (9, 0, 0))}], features=features).to_parquet(
        tmp_path / "a.parquet"
    )
    (row,) = read_table(tmp_path / "a.parquet").rows
    assert (row["image"].size, row["image"].getpixel((2, 1))) == ((5, 3), (9, 0, 0))


def test_names_with_brackets_and_folders_named_as_splits(tmp_path):
    for name in ("train", "test [1]"):
        (tmp_path / "a [b] *" / name).mkdir(parents=True)
        Image.new("RGB", (5, 3)).save(tmp_path / "a [b] *" / name / "one.png")
    assert sorted(row["label"] for row in read_table(tmp_path / "a [b] *").rows) == ["test [1]", "train"]
    (tmp_path / "a [b] *" / "c[d].csv").write_text("text\none\n")
    assert read_table(tmp_path / "a [b] *" / "c[d].csv").rows == [{"text": "one"}]


def test_classes_are_given_by_their_names(tmp_path):
    features = datasets.Features(
        {
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B-X"])),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    rows = {"tags": [[0, 1], [1]], "label": [1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").rows == [
        {"tags": ["O", "B-X"], "label": "yes"},
        {"tags": ["B-X"], "label": "no"},
    ]


def test_nothing_is_left_behind_and_bars_are_as_before(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "a.csv").write_text("text\none\n")
    shown = datasets.are_progress_bars_disabled()
    read_table(tmp_path / "a.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"]
    assert datasets.are_progress_bars_disabled() is shown


def test_a_file_that_was_changed_is_read_anew(tmp_path):
    (tmp_path / "a.csv").write_text("text\none\n")
    assert read_table(tmp_path / "a.csv").rows == [{"text": "one"}]
    (tmp_path / "a.csv").write_text("text\ntwo\n")
    assert read_table(tmp_path / "a.csv").rows == [{"text": "two"}]


def test_a_name_that_says_nothing(tmp_path):
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(TaskError, match=re.escape("a.xlsx: can't tell what this is; names end in .csv, .tsv, .json")):
        read_table(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", '{"text": "one"}\n{"text": '), ("a.parquet", "no"), ("a.csv", "a,b\n1,2\n3,4,5\n")],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(TaskError, match=f"{name}: can't be read as {name[2:].rstrip('l')}: "):
        read_table(tmp_path / name)
