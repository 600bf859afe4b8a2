"""What a run on an accelerator found, beside what it should be: cell by cell, from the run directory."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench.measure.bootstrap import Interval, ratio
from bench.measure.files import write_json
from bench.rundir.case_store import read_records
from bench.rundir.description import OK, USUAL
from mha.timing import median

BESIDE_PEERS = 1.03  # of the fastest peer's time, upper bound
SLICED = 1.10  # times the kept fraction, of the dense layer's time, where that takes more than `SLOW`
SLOW = 1e-3  # seconds
PADDED = 1 / 1.6  # of the time of the fastest peer that computes padding
PREDICTED = 0.05  # error of the predicted latency
LEFT = 0.05  # of the dense latency; a share below says nothing of a prediction
NO_PEERS = ("products", "float32", "eager")  # arms that nobody would use in our place
WITHOUT_PADDING = "nested"  # the peer that computes no padding either


class Target(NamedTuple):
    """A number that was measured, and what it should be at most.

    Attributes:
        what: "peers", "sliced", "padded", "nested" or "predicted".
        cell: the case, or what was predicted.
        beside: what the number is a share of.
        share: with its interval; of predictions the error, without its sign.
        most: what its upper bound should be.
        seconds: our median time of a call; None for predictions.
    """

    what: str
    cell: str
    beside: str
    share: Interval
    most: float
    seconds: float | None

    @property
    def reached(self) -> bool:
        """Whether the whole interval is within what it should be."""
        return self.share.high <= self.most

    def __str__(self) -> str:
        mark = "reached " if self.reached else "MISSED  "
        return f"{mark} {self.what:9} {self.cell:58} {self.share} of {self.beside}, at most {self.most:.3g}"


def targets(run: Path) -> list[Target]:
    """All targets that the cases and predictions of a run directory can be held to."""
    cases = [case for case in read_records(run / "cases") if case["status"] == OK and case["samples"]]
    layer = [case for case in cases if case["kind"] == "attention"]
    return [target for case in layer for target in _of_case(case)] + [*_predicted(run)]


def _of_case(case: Mapping[str, Any]) -> Iterator[Target]:
    """Yield the targets of one case of the bare layer."""
    samples = case["samples"]
    arms = {sample["arm"] for sample in samples}
    if "pruned" in arms:
        dense = _median(samples, "dense")
        most = SLICED * case["heads_kept"] / case["heads_total"]
        if dense > SLOW:
            yield Target(
                "sliced", case["case"], "dense", ratio(samples, "pruned", "dense"), most, _median(samples, "pruned")
            )
        return
    peers = {peer: ratio(samples, "mha", peer) for peer in arms - {"mha", *NO_PEERS}}
    whole = {peer: share for peer, share in peers.items() if peer != WITHOUT_PADDING}
    if whole:
        peer = max(whole, key=lambda name: whole[name].value)
        padded = case["mask"] != USUAL["mask"] and case["mask"] == "padded"
        what, most = ("padded", PADDED) if padded else ("peers", BESIDE_PEERS)
        yield Target(what, case["case"], peer, whole[peer], most, _median(samples, "mha"))
    if WITHOUT_PADDING in peers:
        share = peers[WITHOUT_PADDING]
        yield Target("nested", case["case"], WITHOUT_PADDING, share, BESIDE_PEERS, _median(samples, "mha"))


def _predicted(run: Path) -> Iterator[Target]:
    """Yield a target for every plan whose latency was predicted, and that leaves something of the model to time."""
    if not (run / "predictions.csv").exists():
        return
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if float(row["measured"]) < LEFT:
                continue
            error = abs(float(row["error"]))
            cell = f"{row['task']}, {row['plan']}: {float(row['measured']):.3f} of dense"
            yield Target("predicted", cell, "measured", Interval(error, error, error), PREDICTED, None)


def _median(samples: list[dict[str, Any]], arm: str) -> float:
    """The median seconds of an arm."""
    return median([sample["seconds"] for sample in samples if sample["arm"] == arm]).value


class Decoding(NamedTuple):
    """What one token of a causal model took, beside what reading its weights and cache takes at least.

    Attributes:
        tokens: a second, of the whole batch.
        bound: share of the time that copying as many bytes takes on this device.
    """

    cell: str
    arm: str
    seconds: float
    tokens: float
    bound: float | None


def decoding(run: Path) -> Iterator[Decoding]:
    """Yield what every model that generates took for a token, or for a prompt, dense and pruned."""
    copied = _copy_rate(run)
    for case in read_records(run / "cases"):
        if case["kind"] != "generation" or case["status"] != OK:
            continue
        for arm in ("dense", "pruned"):
            seconds, moved = _median(case["samples"], arm), case["counts"][arm]["bytes"]
            bound = None if copied is None else moved / copied / seconds
            yield Decoding(case["case"], arm, seconds, case["tokens"] / seconds, bound)


def _copy_rate(run: Path) -> float | None:
    """Bytes a second of the largest copy from and to memory that the run measured; None if it did not."""
    if not (run / "ceilings.csv").exists():
        return None
    with (run / "ceilings.csv").open(encoding="utf-8", newline="") as file:
        rates = [float(row["value"]) for row in csv.DictReader(file) if row["ceiling"] == "copy"]
    return max(rates, default=None)


def summary(run: Path) -> Iterator[str]:
    """Yield the lines of a table: targets that were missed first, then those reached; and what decoding is bound by."""
    found = targets(run)
    for target in sorted(found, key=lambda each: (each.reached, each.what)):
        yield str(target)
    for what in dict.fromkeys(target.what for target in found):
        these = [target for target in found if target.what == what]
        yield f"{what}: {sum(target.reached for target in these)} of {len(these)} reached"
    for each in decoding(run):
        bound = "" if each.bound is None else f", {each.bound:.0%} of it is reading weights and cache"
        yield f"{each.cell} {each.arm}: {1e3 * each.seconds:.3f} ms, {each.tokens:,.0f} tokens/s{bound}"


def documents(run: Path) -> dict[str, Any]:
    """The targets and what decoding took, as JSON can hold them."""
    return {
        "targets": [
            {**target._asdict(), "share": list(target.share), "reached": target.reached} for target in targets(run)
        ],
        "decoding": [each._asdict() for each in decoding(run)],
    }


def missed(run: Path, most: int) -> list[str]:
    """The cases, at most so many, that are furthest above what they should be, the worst first."""
    failed = [target for target in targets(run) if not target.reached and target.seconds is not None]
    failed.sort(key=lambda target: -target.share.value / target.most)
    return list(dict.fromkeys(target.cell for target in failed))[:most]


def dump(run: Path, path: Path, outcomes: list[Any]) -> None:
    """Write the targets, and what became of each part, as a JSON file."""
    write_json(path, {"parts": outcomes, **documents(run)}, indent=1)
