"""What two sides both measured, with each side's estimate; sides are compared by the ratio of their paired ratios."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from reports.analyse import frames
from reports.analyse.compare.sides import Side
from reports.base import stats
from reports.base.stats import Estimate, Processes
from reports.read.description import AXES
from reports.read.run import LAYER, RAW

CASE = [
    "kind", "task", "criterion", "kept_fraction", "heads_total", "head_dim", "batch", "seq_len", *AXES,
]  # fmt: skip
MODEL = [name for name in CASE if name not in frames.PLAN]
PLAN = ["task", *frames.PLAN]
ENDS = ("", "_low", "_high")
OTHER_HEADS = "other heads"
ALIKE = SAME_HEADS, SAME_SHAPE, OTHER_SHAPE = "same heads", "same shape", "other shape"
ROUNDING = 1e-9  # by how much a ratio may be off without being another
Key = tuple[Hashable, ...]  # of a case, in the order of CASE, and last the arm it was timed beside


class Measured(NamedTuple):
    """What one side measured of the cases that share one key.

    Attributes:
        logs: logs of the ratios of two arms' times, paired by round, of each case in `timed_by`; `speedups` and
            `peers` say of which arms.
        timed_by: the names of the cases that timed the shapes.
        shapes: the shapes: how many heads stay in each layer.
        heads: the heads that the plans keep, a text for each plan; None where those of some plan are not known.
    """

    logs: tuple[Processes, ...]
    timed_by: tuple[str, ...]
    shapes: frozenset[Hashable]
    heads: frozenset[str] | None


def speedups(side: Side) -> dict[Key, Measured]:
    """The side's ratios of dense over pruned time, as logs paired by round, of cases that it timed with both arms.

    The keys of the dict are the values of CASE (task, criterion, kept fraction, batch size, …), and last "dense".
    Repaired plans have none that were timed as another case's shape, that of the raw plan.
    """
    cases = side.cases[(side.cases["repair"] == RAW) | (side.cases["case"] == side.cases["timed_by"])]
    return dict(_measured(side, cases, "pruned", 1))


def peers(side: Side) -> dict[Key, Measured]:
    """The side's ratios of our bare layer's time over that of each peer, as logs paired by round.

    The keys of the dict are the values of CASE (heads, batch size, sequence length, …), and last the name of the peer.
    """
    return dict(_measured(side, side.cases[side.cases["kind"] == LAYER], "mha", -1))


def joined(first: Mapping[Key, Measured], second: Mapping[Key, Measured]) -> pd.DataFrame:
    """The cases that both sides measured, a row each, with the ratio of each side (`Measured`) and how the two compare.

    Criteria with the same samples on both sides, since their shapes are the same, share one row. Columns: CASE, where
    criterion holds all names; peer: the arm timed beside ours, or beside the pruned one; heads: SAME_HEADS, SAME_SHAPE
    (other heads, or some that are not known) or OTHER_SHAPE; first and second (each side's ratio) and ratio (second /
    first), each with _low and _high; differs: whether the interval of `ratio` leaves 1 out; and the numbers of rounds
    and of processes of each side: first_rounds, second_rounds, first_processes, second_processes.
    """
    together: dict[Hashable, list[Key]] = {}
    place = CASE.index("criterion")
    for key in first.keys() & second.keys():
        shared = (*key[:place], *key[place + 1 :], first[key].timed_by, second[key].timed_by)
        together.setdefault(shared, []).append(key)
    rows = [_row(sorted(keys, key=str), first, second) for keys in together.values()]
    numbers = [f"{name}{end}" for name in ("first", "second", "ratio") for end in ENDS]
    sizes = [f"{side}_{what}" for side in ("first", "second") for what in ("rounds", "processes")]
    frame = pd.DataFrame(rows, columns=[*CASE, "peer", "heads", *numbers, "differs", *sizes])
    return frame.sort_values([*CASE, "peer"], na_position="first", ignore_index=True)


def accuracies(first: Side, second: Side, tasks: Sequence[str]) -> pd.DataFrame:
    """The plans of `tasks` whose accuracy both sides have measured, a row for each task and frames.PLAN.

    Columns: these; heads: "same heads" or "other heads", as both sides' plans keep the same or not; and with
    first_ and second_ in front draws, examples, value, and difference (to the dense model on the same examples), the
    last two with _low and _high as well.
    """
    columns = ["draws", "examples", "heads", *(f"value{end}" for end in ENDS), *(f"difference{end}" for end in ENDS)]
    tables = []
    for task in tasks if len(first.run.plans) and len(second.run.plans) else ():
        one, other = (
            _plans(side, task).set_index(PLAN)[columns].add_prefix(f"{name}_")
            for side, name in ((first, "first"), (second, "second"))
        )
        tables.append(one.join(other, how="inner").reset_index())
    tables = [table for table in tables if len(table)]
    if not tables:
        names = [f"{side}_{name}" for side in ("first", "second") for name in columns]
        return pd.DataFrame(columns=[*PLAN, "heads", *names])
    frame = pd.concat(tables, ignore_index=True)
    same = frame["first_heads"] == frame["second_heads"]
    return frame.drop(columns=["first_heads", "second_heads"]).assign(heads=np.where(same, SAME_HEADS, OTHER_HEADS))


def dense(first: Side, second: Side) -> pd.DataFrame:
    """Seconds of the dense models that both sides timed. Columns: MODEL; first and second, each with _low and _high.

    MODEL is what tells dense models apart: the columns CASE without criterion, kept fraction and repair.
    """
    one, other = _dense(first), _dense(second)
    rows = [
        dict(zip(MODEL, key, strict=True)) | frames.columns("first", one[key]) | frames.columns("second", other[key])
        for key in one
        if key in other
    ]
    return pd.DataFrame(rows, columns=[*MODEL, *(f"{side}{end}" for side in ("first", "second") for end in ENDS)])


def _measured(side: Side, cases: pd.DataFrame, under: str, sign: int) -> Iterator[tuple[Key, Measured]]:
    """Yield (key, what was measured), with paired ratios of another arm's time over that of the arm `under`.

    Each arm that was timed in the same rounds as `under` has its own keys.

    Args:
        cases: the side's cases to look at; those that agree in the columns CASE are taken together.
        sign: 1, or -1 for the inverse ratios, of `under` over the other arm.
    """
    keep = side.run.plans.set_index("plan")["keep"].to_dict()
    arms = sorted({over for _, over, below in side.run.log_ratios if below == under})
    for key, group in cases.groupby(CASE, dropna=False):
        for over in arms:
            timed = [case for case in group["timed_by"].unique() if (case, over, under) in side.run.log_ratios]
            if timed:
                logs = [side.run.log_ratios[case, over, under] for case in timed]
                heads = [keep.get(plan) for plan in group["plan"]]
                yield (
                    (*_known(key), over),
                    Measured(
                        tuple(tuple(sign * rounds for rounds in processes) for processes in logs),
                        tuple(timed),
                        frozenset(group["shape"]),
                        None if None in heads else frozenset(map(str, heads)),
                    ),
                )


def _row(keys: list[Key], first: Mapping[Key, Measured], second: Mapping[Key, Measured]) -> dict[str, Any]:
    """One row of `joined`, for keys that differ in their criterion alone and share their samples on both sides."""
    key, sides = keys[0], {"first": first[keys[0]], "second": second[keys[0]]}
    ratio = stats.independent_ratio(sides["second"].logs, sides["first"].logs)
    row: dict[str, Any] = dict(zip([*CASE, "peer"], key, strict=True))
    row |= {
        "criterion": ", ".join(str(key[CASE.index("criterion")]) for key in keys) if row["criterion"] else None,
        "heads": max((_heads(first[key], second[key]) for key in keys), key=ALIKE.index),
        "differs": ratio.low > 1 + ROUNDING or ratio.high < 1 - ROUNDING,
    }
    for name, measured in sides.items():
        row |= frames.columns(name, stats.ratio_estimate(*measured.logs)) | {
            f"{name}_rounds": sum(len(rounds) for processes in measured.logs for rounds in processes),
            f"{name}_processes": min(map(len, measured.logs)),
        }
    return row | frames.columns("ratio", ratio)


def _heads(first: Measured, second: Measured) -> str:
    """What two measurements are of: "same heads", "same shape" (of other heads) or "other shape".

    It is "same shape", too, where the shapes are the same and a side's heads are not known.
    """
    if first.shapes != second.shapes:
        return OTHER_SHAPE
    return SAME_HEADS if first.heads is not None and first.heads == second.heads else SAME_SHAPE


def _plans(side: Side, task: str) -> pd.DataFrame:
    """`frames.accuracies` of a task, with low and high as value_low and value_high, and a column `heads`.

    That is a text of the heads that the plans of a row keep, the same for the same heads.
    """
    heads = side.run.plans.groupby(PLAN)["keep"].agg(lambda keep: " ".join(sorted(map(str, keep))))
    accuracies_of_task = frames.accuracies(side.run, task).rename(columns={"low": "value_low", "high": "value_high"})
    return accuracies_of_task.merge(heads.rename("heads"), left_on=PLAN, right_index=True)


def _dense(side: Side) -> dict[Key, Estimate]:
    """The values of MODEL -> the median seconds of the dense model, with its interval, over the side's cases."""
    seconds = {}
    for key, group in side.cases.groupby(MODEL, dropna=False):
        timed = [case for case in group["timed_by"].unique() if (case, "dense") in side.run.seconds]
        if timed:
            seconds[_known(key)] = stats.median_estimate(*(side.run.seconds[case, "dense"] for case in timed))
    return seconds


def _known(key: Hashable) -> Key:
    """A group's key with None in place of NaN, which does not equal itself and so would never be found."""
    return tuple(None if pd.isna(name) else name for name in cast(tuple[Any, ...], key))
