"""Verdicts of the regression gate as verdict.json has them, from a few planted numbers."""

from typing import Any

NAMES = (
    "dense-1x16", "dense-4x64", "dense-8x128", "half-1x16", "half-4x64", "half-8x128", "quarter-4x64", "causal-1x64",
    "causal-1x256", "grouped-4x64", "cross-4x64", "padded-4x64", "generate-1x64", "prune-gpt2",
)  # fmt: skip
FIGURES = ("parameters", "flops", "peak_bytes", "accuracy")
EFFECTS = (0.4, -0.6, 0.1, 1.2, -0.9, 0.3, 0.0, 0.7, -0.2, -1.4, 0.5, 0.2, -0.3, 0.9)  # per cent


def row(name: str, effect: float, width: float = 0.012, verdict: str = "PASS", **more: Any) -> dict[str, Any]:
    """A benchmark; effect and half the width of its interval as shares."""
    low, high = effect - width, effect + 1.1 * width
    found = {
        "name": name, "kind": "seconds", "verdict": verdict, "why": None, "base": 0.00637,
        "head": 0.00637 * (1 + effect), "effect": effect, "low": low, "high": high, "floor": 0.008, "p": 0.2,
        "adjusted": 0.6, "rounds": 10, "screen": None,
    }  # fmt: skip
    return found | more


def nothing(name: str, verdict: str, why: str) -> dict[str, Any]:
    """A benchmark without numbers."""
    numbers = ("base", "head", "effect", "low", "high", "floor", "p", "adjusted", "rounds", "screen")
    return {"name": name, "kind": "seconds", "verdict": verdict, "why": why} | dict.fromkeys(numbers)


def exact(name: str, figure: str, base: float, head: float, verdict: str = "PASS", **more: Any) -> dict[str, Any]:
    found = {"benchmark": name, "figure": figure, "verdict": verdict, "base": base, "head": head}
    return found | {"low": None, "high": None, "why": None} | more


def verdict(overall: str = "PASS", benchmarks: Any = None, **more: Any) -> dict[str, Any]:
    """A verdict of 14 benchmarks and 56 exact figures, all PASS unless something else is given."""
    if benchmarks is None:
        benchmarks = [
            row(name, effect / 100, 0.010 + 0.002 * (place % 4), floor=0.004 + 0.002 * (place % 5))
            for place, (name, effect) in enumerate(zip(NAMES, EFFECTS, strict=True))
        ]
    values = {"parameters": 1050624, "flops": 268435456, "peak_bytes": 4325376, "accuracy": 0.9512}
    found = {
        "schema": 1, "kind": "gate", "verdict": overall, "why": [], "mode": "base",
        "command": "python -m bench.regress --base origin/main",
        "base": {"label": "origin/main", "revision": "0123456789" * 4, "dirty": False, "python": "3.11.7"},
        "head": {"label": "HEAD", "revision": "abcdef0123" * 4, "dirty": False, "python": "3.11.7"},
        "machine": {"cpu": "AMD EPYC 7B13", "cores": 2, "threads": 1, "packages": {"torch": "2.13.0"}},
        "created": "2026-02-03T04:05:06+00:00", "seconds": 243.1, "budget": 600.0,
        "rules": {"threshold": 0.015, "least": 0.03, "level": 0.975, "fdr": 0.05, "blind": 0.10},
        "control": row("control", 0.001, 0.006, floor=0.005), "load": 0.03,
        "benchmarks": benchmarks,
        "figures": [exact(name, figure, values[figure], values[figure]) for name in NAMES for figure in FIGURES],
    }  # fmt: skip
    return found | more


def regressed() -> dict[str, Any]:
    """dense-4x64 is 10 % slower, measured twice, and its half has more parameters; the head is dirty."""
    found = verdict("REGRESSED", why=["the head has uncommitted changes"])
    screen = {"effect": 0.112, "low": 0.07, "high": 0.151, "floor": 0.012, "p": 0.001, "adjusted": 0.0137, "rounds": 10}
    found["benchmarks"][1] = row(
        "dense-4x64", 0.1, 0.015, "REGRESSED", base=0.0102, head=0.01122, floor=0.006, p=1e-6, adjusted=0.000013,
        rounds=20, screen=screen, why="slower in both measurements",
    )  # fmt: skip
    found["figures"][16] = exact("half-4x64", "parameters", 1050624, 1060000, "REGRESSED")
    found["head"]["dirty"] = True
    return found


def inconclusive() -> dict[str, Any]:
    """Wide intervals, as under a competing load, an unmoved control, and two rows without numbers."""
    found = verdict("INCONCLUSIVE", why=["other processes used 0.94 of 2 cores"], load=0.94)
    for place, one in enumerate(found["benchmarks"][:6]):
        one.update(row(one["name"], one["effect"] * 5, 0.08 + 0.03 * place, "INCONCLUSIVE", floor=0.05 + 0.01 * place))
        one["why"] = "a slowdown of 10 % could not have been seen"
    found["benchmarks"] += [
        nothing("cosine-4x64", "NEW", "only the head has it"),
        nothing("legacy-4x64", "ERROR", "RuntimeError: no such layer"),
    ]
    return found


def baseline() -> dict[str, Any]:
    """Ratios against a stored run."""
    rows_ = [
        row(name, effect / 100, kind="ratio", base=0.53, head=0.53 * (1 + effect / 100))
        for name, effect in zip(NAMES, EFFECTS, strict=True)
    ]
    return verdict("IMPROVED", rows_, mode="baseline", control=None, load=None) | {
        "benchmarks": [*rows_[:-1], row("prune-gpt2", -0.08, 0.02, "IMPROVED", kind="ratio", base=0.53, head=0.4876)]
    }
