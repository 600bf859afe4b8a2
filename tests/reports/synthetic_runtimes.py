"""The table of a run of bench.runtimes with planted numbers."""

import json
from pathlib import Path

import pandas as pd

MODELS = {("dense", 1.0): (0.9, 1.0), ("pruned", 0.75): (0.89, 0.85), ("pruned", 0.5): (0.86, 0.7)}
RUNTIMES = {("PyTorch", "float32"): 1.0, ("ONNX Runtime", "float32"): 0.8, ("ONNX Runtime", "int8"): 0.5}


def write(directory: Path) -> Path:
    """A run of one task, judged by accuracy, in two runtimes; in a third it is refused. Returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [_row(*model, *there) for model in MODELS for there in RUNTIMES]
    refused = {"status": "refused", "reason": "ExportError: not a Llama", "runtime": "llama.cpp", "weights": "float32"}
    rows.append({**_about("dense", 1.0), **refused})
    pd.DataFrame(rows).to_csv(directory / "runtimes.csv", index=False)
    facts = {"schema": 1, "command": "python -m bench.runtimes -o RUN", "cpu": "AMD EPYC"}
    (directory / "environment.json").write_text(json.dumps(facts))
    return directory


def _about(variant, kept):
    return {
        "task": "digits", "metric": "accuracy", "higher_is_better": True, "chance": 0.31, "variant": variant,
        "kept_fraction": kept, "heads_kept": round(32 * kept), "heads_total": 32,
    }  # fmt: skip


def _row(variant, kept, runtime, weights):
    (value, time), factor = MODELS[variant, kept], RUNTIMES[runtime, weights]
    value -= 0.01 * (weights == "int8")
    ratio, size = time * factor, (4e6 if weights == "float32" else 1e6) * kept
    return {
        **_about(variant, kept), "status": "ok", "reason": "-", "runtime": runtime, "weights": weights,
        "value": value, "low": value - 0.01, "high": value + 0.01, "difference": value - 0.9,
        "difference_low": value - 0.91, "difference_high": value - 0.89, "file_bytes": size,
        "memory_bytes": 3 * size, "batch": 32, "length": 16, "seconds": 0.01 * ratio, "ratio": ratio,
        "ratio_low": 0.98 * ratio, "ratio_high": 1.02 * ratio, "own_ratio": time, "own_ratio_low": 0.98 * time,
        "own_ratio_high": 1.02 * time,
    }  # fmt: skip
