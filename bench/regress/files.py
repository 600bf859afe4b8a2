"""The files of a gate run: each appears whole or not at all."""

import json
from pathlib import Path
from typing import Any

from bench.regress.errors import GateError
from mha.values.atomic_files import appears_whole


def write_text(path: Path, text: str) -> None:
    """Raises:
    GateError: it can't be written, as on a full disk.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with appears_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GateError(
            f"{path} can't be written ({error.strerror or error}); what was finished before stays. Mend that, then go "
            "on by the same command with the same --run"
        ) from error


def write_json(path: Path, document: Any) -> None:
    write_text(path, json.dumps(document, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises:
    GateError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GateError(f"{path} is no JSON ({error}); if it was cut off, remove it: it is measured again") from error
