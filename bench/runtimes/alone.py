"""python -m bench.runtimes.alone DIRECTORY INPUTS THREADS: the memory that an export takes, in bytes.

It runs in a process of its own, which has imported the runtime before.
"""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import mha
from bench.measure.errors import described
from bench.measure.memory import peak_bytes, with_peak
from bench.runtimes.arms import IMPORTS, Arm, Inputs, call_of, fixed

CALLS = 3


def peak_of(arm: Arm, inputs: Inputs, directory: Path) -> int | None:
    """The memory, in bytes, that an arm takes in a fresh process at its largest; None where the system does not say.

    Of a model in torch that is its weights and what a call needs beside them.

    Args:
        directory: where files are put for that process.

    Raises:
        RuntimeError: the process failed; the text has what it said last.
    """
    if arm.export is None:
        return peak_bytes(arm.variant.model, (), {**inputs, **fixed(arm.variant.model)}, device="cpu")
    given = directory / "inputs.safetensors"
    save_file({name: value.contiguous() for name, value in inputs.items()}, given)
    threads = str(torch.get_num_threads())
    asked = [sys.executable, "-W", "ignore", "-m", __name__, str(arm.export.directory), str(given), threads]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arm.name}: its memory can't be measured: {done.stderr.strip().splitlines()[-1:]}")
    return int(done.stdout) if done.stdout.strip().isdigit() else None


def main(directory: str, given: str, threads: str) -> None:
    """Print by how many bytes this process grows, at most, while it loads the export and calls it three times."""
    torch.set_num_threads(int(threads))
    export = mha.Exported.read(directory)
    for name in IMPORTS[export.format]:
        importlib.import_module(name)
    inputs = load_file(given)

    def work() -> None:
        run: Any = export.load()
        for _ in range(CALLS):
            call_of(export.format, run, inputs)()

    sys.stdout.write(str(with_peak(work)[1]))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        sys.exit(described(error))
