"""How much is measured."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ImportanceSettings:
    """How much is measured; the same for all cases of a run directory.

    Attributes:
        quick: tiny models and few examples, only to see that everything runs.
        random_draws: random plans, where they are not all known.
        kind_draws: how many of them also prune each kind of attention alone.
        resamples: bootstrap resamples of the calibration set, where every subset of heads is known.
        sizes: of parts of the calibration set; slices: parts of each size, as far as they do not overlap.
        rounds: of iterative scoring, where a model has many heads; where it has few: one for each head.
        permutations: for Shapley values, of few heads and of many.
        parts: in how many cases every subset of a trained model's heads is evaluated.
    """

    quick: bool = False
    random_draws: int = 20
    kind_draws: int = 7
    resamples: int = 4
    sizes: tuple[int, ...] = (32, 64, 128, 256)
    slices: int = 4
    rounds: int = 6
    permutations: tuple[int, int] = (16, 6)
    parts: int = 8

    def document(self) -> dict[str, Any]:
        """The settings as they stand in `environment.json`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


FULL = ImportanceSettings()
QUICK = ImportanceSettings(
    quick=True, random_draws=2, kind_draws=1, resamples=2, sizes=(16, 32), slices=2, rounds=2, permutations=(2, 2),
    parts=2,
)  # fmt: skip
