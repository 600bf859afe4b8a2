"""How a measured speedup compares with what the machine and attention's share of the time allow."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from reports.analyse import frames
from reports.analyse.frames import Setting
from reports.base import stats
from reports.base.formatting import count, listed
from reports.read.run import Run

EXPLAINED = 0.5  # a ceiling that explains less than this share of the time does not bound it
BOUNDS = ("compute", "memory", "overhead")
MODEL_ARMS = ("dense", "pruned", "mha")


def points(run: Run, task: str) -> pd.DataFrame:
    """One row for each case and arm of a task that was timed and counted on a device with measured ceilings.

    Only the arms "dense", "pruned" and "mha" (the bare layer) have rows, and only where neither count is 0. Columns:
    those of `Run.cases`, arm, seconds (the median), flops, bytes, the ceilings of the device and dtype (matmul in
    FLOP/s, copy and cached copy in bytes/s, the last one NaN where it was not measured), and those that `judged` adds.

    Args:
        task: the name of a task, or LAYER or GENERATION, as for `frames.cases_of`.
    """
    cases = frames.cases_of(run, task)
    timed = cases[cases["case"] == cases["timed_by"]]
    arms = run.counts[run.counts["arm"].isin(MODEL_ARMS)][["case", "arm", "flops", "bytes"]]
    frame = timed.merge(arms, on="case").merge(_ceilings(run), on=["device", "dtype", "machine"])
    samples = [run.seconds.get(key) for key in zip(frame["case"], frame["arm"], strict=True)]
    seconds = [np.nan if processes is None else stats.median_of(processes) for processes in samples]
    frame = frame.assign(seconds=np.array(seconds, dtype=float))
    frame = frame.dropna(subset=["seconds", "flops", "bytes", "matmul", "copy"])
    return judged(frame[(frame["flops"] > 0) & (frame["bytes"] > 0)])


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame, which has the other columns of `points`, with added ones that say how near each row is to a ceiling.

    Added are intensity: FLOP per byte; achieved: FLOP/s; ceiling: max(flops / matmul, bytes / copy), the seconds that
    the machine needs at the least; share: ceiling / seconds; bound: "overhead" where share is below EXPLAINED, else
    "compute" or "memory", whichever takes longer. A row that is faster than its bytes can be copied from memory had
    them in the caches, and is judged by the copy within those.
    """
    compute, memory = frame["flops"] / frame["matmul"], frame["bytes"] / frame["copy"]
    fastest = frame[["copy", "cached copy"]].max(axis=1)
    memory = memory.where(memory <= frame["seconds"], frame["bytes"] / fastest)
    ceiling = np.maximum(compute, memory)
    share = ceiling / frame["seconds"]
    by_ceiling = np.where(compute >= memory, "compute", "memory")
    return frame.assign(
        intensity=frame["flops"] / frame["bytes"], achieved=frame["flops"] / frame["seconds"], ceiling=ceiling,
        share=share, bound=np.where(share < EXPLAINED, "overhead", by_ceiling),
    )  # fmt: skip


def clause(bounds: pd.Series, noun: str) -> str:
    """A clause that counts by what things are bound: "of 3 cases 2 are compute-bound and 1 is memory-bound".

    Args:
        bounds: one of BOUNDS for each thing, or "unknown", which is counted in the total alone; "" if all are unknown.
        noun: what each thing is called, in the singular.
    """
    kinds = [(bound, int((bounds == bound).sum())) for bound in BOUNDS if (bounds == bound).any()]
    if not kinds:
        return ""
    first, several = kinds[0][0], count(len(bounds), noun)
    if kinds[0][1] == len(bounds):
        return f"the {noun} is {first}-bound" if len(bounds) == 1 else f"all {several} are {first}-bound"
    return f"of {several} " + listed(
        [f"{number} {'is' if number == 1 else 'are'} {bound}-bound" for bound, number in kinds]
    )


def amdahl(share: pd.Series, kept: pd.Series) -> pd.Series:
    """The largest speedup of a model that keeps the fraction `kept` of its heads: 1 / (1 - share (1 - kept)).

    `share` is the share of the dense model's time that goes into attention (Amdahl 1967).
    """
    return 1 / (1 - share * (1 - kept))


def speedups(run: Run, task: str) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """Yield each setting with a frame of its pruned shapes: the speedup of each, beside what bounds it.

    Columns: batch, heads_kept, heads_total, kept (their ratio), timed_by, speedup with its interval, attention (its
    share of the dense time: what a model without heads saves), amdahl (what the function gives), ideal (1 / kept), and
    of both arms, dense and pruned, ARM_bound and ARM_share (see `judged`; "unknown" and NaN where there are no counts
    or no ceilings). Batch sizes at which no model without heads was timed have no rows.
    """
    known = points(run, task).set_index(["case", "arm"])[["bound", "share"]]
    for setting, cases in frames.settings(frames.cases_of(run, task)):
        shapes = frames.latencies(run, cases, ["batch", "heads_kept", "heads_total", "timed_by"])
        if shapes.empty:
            continue
        without = shapes[shapes["heads_kept"] == 0].groupby("batch")["speedup"].first()
        pruned = shapes[(shapes["heads_kept"] > 0) & shapes["batch"].isin(without.index)].copy()
        if len(pruned):
            pruned["kept"] = pruned["heads_kept"] / pruned["heads_total"]
            pruned["attention"] = 1 - 1 / pruned["batch"].map(without)
            pruned["amdahl"] = amdahl(pruned["attention"], pruned["kept"])
            pruned["ideal"] = 1 / pruned["kept"]
            yield setting, _with_bounds(pruned.reset_index(drop=True), known)


def _with_bounds(frame: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Add the columns ARM_bound ("unknown" if not known) and ARM_share (NaN) of both arms to the frame; returns it.

    Args:
        frame: a row for each shape; `timed_by` names the case that timed it.
        known: the columns bound and share of `points`, with an index of case and arm.
    """
    for arm in frames.ARMS:
        keys = pd.MultiIndex.from_product([frame["timed_by"], [arm]])
        bounds = known.reindex(keys)
        frame[f"{arm}_bound"] = bounds["bound"].fillna("unknown").to_numpy()
        frame[f"{arm}_share"] = bounds["share"].to_numpy(dtype=float)
    return frame


def _ceilings(run: Run) -> pd.DataFrame:
    """The run's ceilings, medians over processes, a row for each device and dtype of each kind of machine.

    Columns: device, dtype, machine, matmul, copy and cached copy, each NaN where it was not measured.
    """
    by = ["device", "dtype", "machine"]
    wide = run.ceilings.pivot_table(index=by, columns="ceiling", values="value", aggfunc="median")
    return wide.reindex(columns=["matmul", "copy", "cached copy"]).astype(float).reset_index()
