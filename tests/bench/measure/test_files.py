"""How results are kept: whole or not at all, and by one process at a time."""

import json
import subprocess
import sys

import pytest
from filelock import Timeout

from bench.measure.files import LOCK, lock, locked, write_json, write_text

TAKE = "import sys; from filelock import FileLock; FileLock(sys.argv[1]).acquire(timeout=0)"  # without torch, at once


def test_a_document_is_json_with_a_line_end(tmp_path):
    write_json(tmp_path / "a.json", {"µ": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{"µ": [1, null]}\n'
    write_json(tmp_path / "a.json", {"µ": 1}, indent=2)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "µ": 1\n}\n'


def test_text_that_is_no_unicode_can_be_written_in_ascii(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(UnicodeEncodeError):
        write_json(path, "\udcff")
    write_json(path, "\udcff", ascii_only=True)
    assert json.loads(path.read_text(encoding="ascii")) == "\udcff"


@pytest.mark.parametrize("document", [float("nan"), [float("inf")], "\udcff"])
def test_what_can_not_be_written_leaves_the_old_file(tmp_path, document):
    write_text(tmp_path / "a.json", "old")
    with pytest.raises(ValueError, match=r"JSON|surrogates"):
        write_json(tmp_path / "a.json", document)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_one_process_at_a_time_holds_the_lock(tmp_path):
    def other():
        return subprocess.run([sys.executable, "-c", TAKE, str(tmp_path / LOCK)], capture_output=True, text=True)

    held = lock(tmp_path)
    assert "Timeout" in other().stderr
    held.release()
    assert other().returncode == 0
    with pytest.raises(Timeout), locked(tmp_path), locked(tmp_path):
        pass
    with locked(tmp_path):  # what was held by the one before is free again
        pass
