"""Pruned, quantised, or both, in each runtime that models are deployed to: accuracy, latency, size and memory.

    python -m bench.runtimes -o DIR

A task's dense model, those that `mha.shrink` makes of it, and smaller ones trained from scratch are exported to every
runtime that is installed, in float32 and with int8 weights, proved there, and judged there by the task. Then all of
them take turns, each with some calls of its own before the one that is timed, so that ratios are paired.
`runtimes.csv` has a row for each model, runtime, kind of weights and batch; `samples.csv` every timed call: `ratio` is
that of a model's time to the dense one's in PyTorch, `own_ratio` to the dense one's in the same runtime with the same
weights. docs/exporting.md says what came of it.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

import mha
from bench import tasks
from bench.measure.bootstrap import Bootstrap, Estimate
from bench.measure.environment import environment
from bench.measure.files import now, write_json
from bench.measure.row_tables import say, write_csv
from bench.measure.threads import pinned
from bench.models.experiment import Experiment
from bench.runtimes.alone import peak_of
from bench.runtimes.arms import (
    EIGHT_BITS,
    FLOAT32,
    INT8,
    RUNTIMES,
    Arm,
    Inputs,
    InRuntime,
    arm_of,
    call_of,
    caught_call,
    same_tokens,
)
from bench.runtimes.variants import DENSE, Variant, lightened, variants
from mha.exporting.decoding import MASK
from mha.exporting.inputs import named, tensors_of
from mha.tasks import Task
from mha.timing.rounds import Rounds

KEEP = 0.75, 0.5
SECONDS = 120.0  # of timing, for each task and batch
ROUNDS = 10, 200  # at least and at most
OWN = 0.02  # seconds of a model's own calls before one is timed
PROMPT, TOKENS = 16, 200  # how many are given to a language model, and how many it writes greedily
PREFILL = 1, 128  # sequences, and tokens of each, that a language model is given at once, unless told otherwise
OK, REFUSED, FAILED = "ok", "refused", "failed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m bench.runtimes`; returns 1 if an export computes something else than its model, else 0."""
    options = _options(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    command = shlex.join(["python", "-m", "bench.runtimes", *(sys.argv[1:] if arguments is None else arguments)])
    facts = {"schema": 1, "created": now(), "finished": None, **environment(command)}
    write_json(options.output / "environment.json", facts, indent=1)
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mha-runtimes-") as folder, pinned(threads):
        entrants = []
        for name in options.tasks:  # what is not timed comes first
            task = lightened(tasks.load(name), options.evaluated, options.calibrated)
            entrants.append(Entrant.of(task, options, Path(folder, name)))
            rows += entrants[-1].refused
            write_csv(options.output / "runtimes.csv", rows)
        for entrant in entrants:
            for row in _timed(entrant, options, samples):
                rows.append(row)
                write_csv(options.output / "runtimes.csv", rows)
            write_csv(options.output / "samples.csv", samples)
    write_json(options.output / "environment.json", {**facts, "finished": now()}, indent=1)
    return int(any(row["status"] == FAILED for row in rows))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.runtimes", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tasks", nargs="*", default=tasks.usual(), choices=tasks.names())
    parser.add_argument("--keep", type=float, nargs="*", default=KEEP, help="shares of the heads that are kept")
    parser.add_argument("--runtimes", nargs="*", default=tuple(RUNTIMES), choices=tuple(RUNTIMES))
    parser.add_argument(
        "--batch", type=int, nargs="*", help="timed batches; by default the task's, 1 of language models"
    )
    parser.add_argument("--length", type=int, help="of timed sequences; by default the task's, 128 of language models")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of timing, for each task and batch")
    parser.add_argument("--own", type=float, default=OWN, help="seconds of a model's own calls before each timed one")
    parser.add_argument("--evaluated", type=int, help="sequences that smollm is judged by; by default 64")
    parser.add_argument("--calibrated", type=int, help="sequences that smollm is repaired by; by default 128")
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Entrant:
    """A task with all that is known before anything is timed.

    Attributes:
        arms: its models in all runtimes, proved and judged there.
        refused: the rows of those that could not be had, with the reason.
    """

    task: Task
    experiment: Experiment
    folder: Path
    arms: list[Arm]
    refused: list[dict[str, Any]]

    @classmethod
    def of(cls, task: Task, options: argparse.Namespace, folder: Path) -> Self:
        """Make the models, export, prove and judge them; files are put into a new folder."""
        folder.mkdir()
        experiment = Experiment(task)
        arms, refused = _arms(task, experiment, options, folder)
        bootstrap = Bootstrap(len(experiment.dense_values()), task.aggregate)
        dense = bootstrap(experiment.dense_values())
        for arm in arms:
            start = time.perf_counter()
            values = np.asarray(task.evaluate(InRuntime(arm)), dtype=float)
            arm.facts |= {**_quality(bootstrap(values), dense), "evaluate_seconds": time.perf_counter() - start}
            if arm.format == "gguf":
                prompt = _example(experiment, 1, PROMPT)["input_ids"][0].tolist()
                arm.facts["same_tokens"] = same_tokens(arm, prompt, TOKENS)
            value, size = arm.facts["value"], arm.facts["file_bytes"] / 1e6
            say(f"{task.name}: {arm.name}: {task.metric} {value:.4g}, {size:.1f} MB")
        return cls(task, experiment, folder, arms, refused)


def _arms(
    task: Task, experiment: Experiment, options: argparse.Namespace, folder: Path
) -> tuple[list[Arm], list[dict[str, Any]]]:
    """All variants in all runtimes; and the rows of those that could not be had, with the reason."""
    arms: list[Arm] = []
    rows: list[dict[str, Any]] = []
    unable: set[str] = set()  # runtimes that can't have the dense model, nor so those that are like it
    for variant in variants(task, experiment, options.keep):
        example = caught_call(task, variant.model)
        for format in sorted({*options.runtimes} - unable, key=list(RUNTIMES).index):
            for weights in (FLOAT32, INT8) if format in EIGHT_BITS else (FLOAT32,):
                if format in unable:
                    continue
                directory = folder / f"{len(arms)}-{len(rows)}"
                try:
                    arms.append(arm_of(variant, format, weights, directory, example))
                except mha.MhaError as error:
                    status = FAILED if isinstance(error, mha.EquivalenceError) else REFUSED
                    unable |= {format} if variant.kind == DENSE and weights == FLOAT32 else set()
                    row = _about(task, variant, format, weights)
                    rows.append({**row, "status": status, "reason": _why(error, directory)})
                    say(f"{task.name}: {variant.name}, {weights}, {RUNTIMES[format]}: {rows[-1]['reason']}")
    return arms, rows


def _why(error: mha.MhaError, directory: Path) -> str:
    """What an error says, on one line and without a folder of this machine; of a proof, the line with its verdict."""
    lines = str(error).replace(str(directory), "the export").strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1 if isinstance(error, mha.EquivalenceError) else 0]}"


def _example(experiment: Experiment, batch: int, length: int | None) -> Inputs:
    """Inputs of that size, by name: tensors alone."""
    return tensors_of(named(experiment.model(), experiment.inputs(batch, "cpu", length)))


def _about(task: Task, variant: Variant, format: str, weights: str) -> dict[str, Any]:
    """The columns that say what a row is about."""
    return {
        "task": task.name,
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "chance": task.chance,
        "variant": variant.kind,
        "kept_fraction": variant.kept_fraction,
        "heads_kept": variant.heads,
        "heads_total": variant.total,
        "runtime": RUNTIMES[format],
        "weights": weights,
    }


def _quality(metric: Estimate, dense: Estimate) -> dict[str, float]:
    """The metric, and how far it is from the dense model's in torch, each with its 95 % interval over examples."""
    names = ("difference", "difference_low", "difference_high")
    return {**metric.interval()._asdict(), **dict(zip(names, (metric - dense).interval(), strict=True))}


def _timed(entrant: Entrant, options: argparse.Namespace, samples: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a task: the memory that its arms take, and their times in turns, which are added to samples."""
    task, arms = entrant.task, entrant.arms
    batch_size, length = PREFILL if task.generates else (task.batch_size, None)
    for batch in options.batch or (batch_size,):
        inputs = _with_mask(_example(entrant.experiment, batch, options.length or length), arms)
        for arm in arms:
            arm.facts["memory_bytes"] = _peak(arm, inputs, entrant.folder)
        say(f"{task.name}: {len(arms)} models take turns at batch {batch}")
        rounds = Rounds()
        for arm in arms:
            rounds.add(arm.name, partial(_after_its_own, call_of(arm.format, arm.run, inputs), options.own))
        fewest, most = ROUNDS
        ended = rounds.until(seconds=options.seconds, fewest=fewest, most=most)
        whole = [arm for arm in arms if arm.variant.kind == DENSE]
        baseline, own = whole[0].name, {_where(arm): arm.name for arm in whole}
        for arm in arms:
            yield {
                **_about(task, arm.variant, arm.format, arm.weights),
                "status": OK,
                "reason": "-",
                **arm.facts,
                "batch": batch,
                "length": max(value.shape[1] for value in inputs.values() if value.dim() > 1),
                **_spread("seconds", rounds.seconds(arm.name)),
                **_spread("ratio", rounds.ratio(arm.name, baseline)),
                **(_spread("own_ratio", rounds.ratio(arm.name, beside)) if (beside := own.get(_where(arm))) else {}),
                "baseline": baseline,
                "rounds": rounds.count,
                "ended": ended,
            }
        samples += [
            {"task": task.name, "batch": batch, "arm": each.name, "round": each.round, "seconds": each.seconds}
            for each in rounds.samples()
        ]


def _after_its_own(call: Callable[[], object], seconds: float) -> Callable[[], object]:
    """The call, after as many of it as take these seconds, at least one, none of which is timed; with 0 after none.

    Where runtimes take turns, one's threads still wait busily when the next begins, and its model has left the caches.
    """
    end = time.perf_counter() + seconds
    while seconds:
        call()
        if time.perf_counter() >= end:
            break
    return call


def _with_mask(inputs: Inputs, arms: Sequence[Arm]) -> Inputs:
    """Inputs with a mask of ones, if the exports take one that is not there: tasks call some models with it."""
    taken = {name for arm in arms if arm.export is not None for name in arm.export.sizes}
    if MASK in taken - inputs.keys() and "input_ids" in inputs:
        return {**inputs, MASK: torch.ones_like(inputs["input_ids"])}
    return inputs


def _peak(arm: Arm, inputs: Inputs, folder: Path) -> float | None:
    """The memory that an arm takes, in bytes; NaN, with the reason told, where it can't be measured: times can."""
    try:
        return peak_of(arm, inputs, folder)
    except RuntimeError as error:
        say(str(error))
        return float("nan")


def _where(arm: Arm) -> tuple[str, str]:
    """In which runtime an arm is, with which weights."""
    return arm.format, arm.weights


def _spread(name: str, spread: Any) -> Mapping[str, float]:
    return {name: spread.value, f"{name}_low": spread.low, f"{name}_high": spread.high}


if __name__ == "__main__":
    sys.exit(main())
