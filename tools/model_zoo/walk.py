"""Walk all model types, or those named, in parallel processes, and write the table: `nox -s families`."""

import argparse
import json
import os
import signal
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tools.model_zoo.prove import prove
from tools.model_zoo.reasons import reason_of
from tools.model_zoo.table import write
from tools.model_zoo.workers import Trial, rows_of
from tools.model_zoo.zoo import model_types


def main(arguments: Sequence[str] | None = None) -> None:
    """Try the model types, and write the table.

    Types that have a row in the file of rows are passed over, so that a walk which was cut off goes on; only those that
    crashed are tried again.
    """
    parser = argparse.ArgumentParser(prog="nox -s families --", description=__doc__)
    parser.add_argument("--rows", type=Path, default=Path("runs/families.jsonl"), help="one JSON line for each type")
    parser.add_argument("--only", nargs="+", choices=model_types(), default=model_types(), metavar="TYPE")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=int, default=120, help="time limit for each type")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs"), help="where families.md and families.csv go")
    options = parser.parse_args(arguments)
    write(walk(prove, options.only, options.rows, jobs=options.jobs, seconds=options.seconds), options.output)


def walk(trial: Trial, names: Sequence[str], path: Path, *, jobs: int, seconds: int) -> list[dict[str, Any]]:
    """Try the named types that have no row in the file or crashed, add each new row at once, and return all rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {row["type"] for row in read(path) if row.get("status") != "crashed"}
    waiting = [name for name in names if name not in done]
    rows = rows_of(partial(within, seconds, trial), waiting, jobs, quiet)
    with path.open("a", encoding="utf-8") as file:
        for row in tqdm(rows, total=len(waiting), unit="type"):
            file.write(json.dumps(row) + "\n")
            file.flush()
    return read(path)


def read(path: Path) -> list[dict[str, Any]]:
    """The last row of each type in the file; a line that was cut off is left out, so its type is tried again."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["type"]] = row
    return list(rows.values())


class OutOfTime(BaseException):
    """A trial has run out of time; it is no Exception, since the checks catch those."""


def within(seconds: int, trial: Trial, model_type: str) -> dict[str, Any]:
    """The row of one trial; its status is "crashed" if the trial took too long, or raised what no check caught."""
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(seconds)
    try:
        return trial(model_type)
    except OutOfTime:
        return {"type": model_type, "status": "crashed", "reason": f"took longer than {seconds} s"}
    except Exception as error:
        return {"type": model_type, "status": "crashed", "reason": reason_of(error)}
    finally:
        signal.alarm(0)


def quiet() -> None:
    """Set a worker process up: one thread, no warnings or progress bars, nothing is fetched from the network."""
    import transformers

    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _out_of_time(_signal: int, _frame: object) -> None:
    raise OutOfTime
