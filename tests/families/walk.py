"""Build and run every model type in parallel processes, and write down what came of it."""

import argparse
import json
import multiprocessing
import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from tests.families.reasons import reason_of
from tests.families.zoo import NotBuilt, build, build_generating, generate, model_types, run, tensors

TOLERANCE = 1e-9


def main(arguments: Sequence[str] | None = None) -> None:
    """Walk all types, or those named by --only; types that stand in the file already are passed over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one per type; continued where it exists")
    parser.add_argument("--only", nargs="+", default=model_types(), metavar="TYPE")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=int, default=60, help="time limit for each type")
    parser.add_argument("--generate", action="store_true", help="compare logits with and without the cache, too")
    options = parser.parse_args(arguments)
    done = _types_in(options.out)
    waiting = [name for name in options.only if name not in done]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawn, initializer=_quiet) as pool, options.out.open("a") as file:
        jobs = [pool.submit(walked, name, options.seconds, options.generate) for name in waiting]
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="type"):
            file.write(json.dumps(job.result()) + "\n")
            file.flush()
    _summarize([json.loads(line) for line in options.out.read_text().splitlines()])


def walked(model_type: str, seconds: int, generating: bool) -> dict[str, Any]:
    """What came of one type: built, ran, finite, repeatable, and the reason where something is missing."""
    began = time.perf_counter()
    record: dict[str, Any] = {"type": model_type, "built": False, "ran": False}
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(seconds)
    try:
        record |= _tried(model_type)
        record |= _generated(model_type) if generating and record["generates"] else {}
    except NotBuilt as error:
        record["reason"] = str(error)
    except Exception as error:
        record |= {"built": True, "reason": reason_of(error)}
    finally:
        signal.alarm(0)
    return record | {"seconds": round(time.perf_counter() - began, 2)}


def _tried(model_type: str) -> dict[str, Any]:
    specimen = build(model_type)
    with torch.no_grad():
        first, second = (list(tensors(run(specimen))) for _ in range(2))
    numbers = [tensor for tensor in first if tensor.is_floating_point()]
    return {
        "built": True,
        "ran": True,
        "class": type(specimen.model).__name__,
        "parameters": sum(parameter.numel() for parameter in specimen.model.parameters()),
        "attention": specimen.attention,
        "generates": specimen.generates,
        "finite": bool(numbers) and all(bool(tensor.isfinite().all()) for tensor in numbers),
        "largest": max((float(tensor.abs().max()) for tensor in numbers if tensor.numel()), default=0.0),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in numbers}),
        "repeatable": all(torch.equal(one, other) for one, other in zip(first, second, strict=True)),
        "inputs": {name: list(getattr(value, "shape", ())) for name, value in specimen.inputs.items()},
    }


def _generated(model_type: str) -> dict[str, Any]:
    """Whether the whole model gives the same logits with its cache as without."""
    try:
        specimen = build_generating(model_type)
        plain, cached = (generate(specimen, cache=cache) for cache in (None, "dynamic"))
        return {"cache_difference": float((plain - cached).abs().max())}
    except TimeoutError:
        raise
    except Exception as error:
        return {"cache_reason": reason_of(error)}


def _types_in(path: Path) -> set[str]:
    return {json.loads(line)["type"] for line in path.read_text().splitlines()} if path.exists() else set()


def _summarize(records: Sequence[dict[str, Any]]) -> None:
    counts = Counter(key for record in records for key in ("built", "ran", "finite", "repeatable") if record.get(key))
    agreeing = sum(record.get("cache_difference", 1.0) < TOLERANCE for record in records)
    tqdm.write(f"{len(records)} types: {dict(counts)}, {agreeing} generate the same with a cache")
    for record in records:
        if not record.get("finite"):
            tqdm.write(f"  {record['type']}: {record.get('reason', 'not finite')}")


def _out_of_time(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError


def _quiet() -> None:
    import transformers

    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
