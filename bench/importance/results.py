"""What the cases of a run directory found out, as arrays."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.importance.records import OK, unpack
from bench.importance.variants import CROSSED, FLOOR

Array = NDArray[np.float64]
Record = Mapping[str, Any]

BEST, RIVAL = "best subset", "trained small"
ACROSS = ", across layers"  # after a criterion's label, where `mha.choose` does not compare its scores so by default


@dataclass(frozen=True)
class Subsets:
    """The results of one model under every subset of its heads; subset m keeps the head at position i if bit i is set.

    Attributes:
        losses: (2^h,), the held-out loss under each subset.
        values: (2^h, n), each held-out example's value under each subset.
        sizes: (2^h,), how many heads each keeps.
    """

    losses: Array
    values: NDArray[np.float32]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """How many heads each subset keeps, (2^h,)."""
        return np.array([int(mask).bit_count() for mask in range(len(self.losses))])

    @cached_property
    def metric(self) -> Array:
        """The metric under each subset (2^h,), which is the mean of the examples' values."""
        return self.values.mean(axis=1, dtype=np.float64)

    def of_size(self, kept: int) -> NDArray[np.int64]:
        """The numbers of the subsets that keep `kept` heads, the one with the smallest loss first."""
        masks = np.flatnonzero(self.sizes == kept)
        return masks[np.argsort(self.losses[masks], kind="stable")]


class Results:
    """The results of the finished cases of a run, from its records (case id -> record); failed cases are left out."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        self._found = {
            (record["subject"], record["seed"], what, detail): part
            for record in records.values()
            if record["status"] == OK
            for what, detail, part in _parts(record)
        }
        self._subsets: dict[tuple[str, int], Subsets | None] = {}

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """The subjects that have a finished case "truth": leave-one-out on held-out data."""
        return tuple(dict.fromkeys(name for name, _, what, _ in sorted(self._found) if what == "truth"))

    def of_section(self, *sections: str) -> tuple[str, ...]:
        """Those of `subjects` that belong to one of these sections."""
        return tuple(name for name in self.subjects if self.about(name)["section"] in sections)

    def seeds(self, subject: str) -> tuple[int, ...]:
        """The training seeds for which the subject has a finished case "truth"."""
        return tuple(sorted(seed for name, seed, what, _ in self._found if name == subject and what == "truth"))

    def about(self, subject: str) -> Record:
        """The record of the first seed's case "truth", whose heads, examples and so on are those of all seeds."""
        return self.truth(subject, self.seeds(subject)[0])

    def truth(self, subject: str, seed: int) -> Record:
        """The record of the finished case "truth" of a subject and training seed: leave-one-out on held-out data.

        Raises:
            KeyError: there is none.
        """
        return self._found[subject, seed, "truth", ""]

    def increases(self, subject: str, seed: int) -> Array:
        """How much the held-out loss rises without each head, (h,), a mean over all held-out examples."""
        halves = self.truth(subject, seed)["halves"]
        weights = [half["examples"] for half in halves]
        return np.average([half["scores"] for half in halves], axis=0, weights=weights)

    def labels(self, subject: str) -> tuple[str, ...]:
        """The labels, sorted, of the variants that have scored the subject for each training seed; not random ones."""
        seeds = self.seeds(subject)
        seen: dict[str, set[int]] = {}
        for name, seed, what, detail in self._found:
            if (name, what) == (subject, "scores") and not detail.startswith(FLOOR):
                seen.setdefault(detail, set()).add(seed)
        return tuple(sorted(label for label, seeds_done in seen.items() if seeds_done >= set(seeds)))

    def scored(self, subject: str, seed: int, label: str) -> Record:
        """The record of the finished case "scores" of a subject and training seed by the variant of this label.

        Raises:
            KeyError: there is none.
        """
        return self._found[subject, seed, "scores", label]

    def draws(self, subject: str, seed: int) -> list[Record]:
        """The records of the finished cases "scores" of a subject and seed by random scores, one for each draw."""
        return [record for _, record in self.details(subject, seed, "scores", f"{FLOOR}@")]

    def details(self, subject: str, seed: int, what: str, start: str = "") -> Iterator[tuple[str, Record]]:
        """Yield detail and record of each finished case of a subject and training seed, sorted by detail.

        Args:
            what: the sort of work, such as "scores" (`bench.importance.cases.ORDER`).
            start: what the detail must begin with.
        """
        for (name, number, kind, detail), record in sorted(self._found.items()):
            if (name, number, kind) == (subject, seed, what) and detail.startswith(start):
                yield detail, record

    def subsets(self, subject: str, seed: int) -> Subsets | None:
        """The results under every subset of the heads for a training seed; None where some are not evaluated."""
        if (subject, seed) not in self._subsets:
            parts = {int(detail): record for detail, record in self.details(subject, seed, "subsets")}
            heads = len(self.truth(subject, seed)["heads"])
            whole = sum(len(part["losses"]) for part in parts.values()) == 2**heads
            self._subsets[subject, seed] = _joined([parts[part] for part in sorted(parts)]) if whole else None
        return self._subsets[subject, seed]


def _parts(record: Record) -> Iterator[tuple[str, str, Record]]:
    """The record by its sort of work and detail; and what it holds that stands for a case of its own.

    That is scores by which heads of different layers were also compared as they are (ACROSS), and the truth's halves
    as they were evaluated one on the other (CROSSED).
    """
    yield record["what"], record["detail"], record
    if "across_layers" in record:
        yield record["what"], record["detail"] + ACROSS, {**record, **record["across_layers"]}
    if "crossed" in record:
        yield "scores", CROSSED, record["crossed"]


def mask_of(kept: list[int]) -> int:
    """The number of the subset that keeps the heads at these positions: the sum of 2^position."""
    return sum(1 << position for position in kept)


def _joined(parts: list[Record]) -> Subsets:
    """The results under all subsets, from the records of the cases "subsets", in the order of their parts."""
    losses = np.concatenate([part["losses"] for part in parts])
    return Subsets(losses, np.concatenate([unpack(part["values"]).astype(np.float32) for part in parts]))
