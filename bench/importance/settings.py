"""How much the importance experiments measure."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ImportanceSettings:
    """How much is measured; the same for all cases of a run directory.

    Attributes:
        quick: tiny models and few examples, only to see that everything runs.
        random_draws: how often heads are scored at random, where not every subset of them is evaluated.
        pretrained_draws: for how many of these a pretrained model is evaluated, where that takes minutes.
        kind_draws: for how many of these draws each kind of attention is also pruned alone.
        resamples: bootstrap resamples of the calibration set, where every subset of heads is evaluated.
        sizes: how many examples the parts of the calibration set have that are scored on their own.
        slices: how many parts of each size, at most, since they do not overlap.
        rounds: of iterative scoring, where a model has many heads; where it has few: one for each head.
        permutations: at most, for Shapley values of a model with few heads, and of one with many.
        parts: over how many cases the subsets of a trained model's heads are divided.
    """

    quick: bool = False
    random_draws: int = 20
    pretrained_draws: int = 3
    kind_draws: int = 7
    resamples: int = 4
    sizes: tuple[int, ...] = (32, 64, 128, 256)
    slices: int = 4
    rounds: int = 6
    permutations: tuple[int, int] = (16, 6)
    parts: int = 8

    def document(self) -> dict[str, Any]:
        """The settings as a mapping that JSON can hold, as it stands in `environment.json`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


FULL = ImportanceSettings()
QUICK = ImportanceSettings(
    quick=True, random_draws=2, kind_draws=1, resamples=2, sizes=(16, 32), slices=2, rounds=2, permutations=(2, 2),
    parts=2,
)  # fmt: skip
