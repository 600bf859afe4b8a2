"""Which images are copies, or nearly, of others: whatever their size and however they were encoded."""

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 16  # pixels of a thumbnail
NEAR = 0.1  # of an image's own contrast, by which the thumbnails of copies may differ
FLAT = 2.0  # of 255: the contrast below which images are copies only where they are equal


class Looks(NamedTuple):
    """What an image is known by.

    Attributes:
        digest: SHA-256 of its size and pixels.
        thumbnail: its colours at 16 × 16 pixels, (768,), from 0 to 255.
    """

    digest: str
    thumbnail: NDArray[np.float32]


def looks_of(image: Any) -> Looks:
    """What an image of PIL is known by."""
    pixels = image.convert("RGB")
    digest = hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()
    small = pixels.resize((SIDE, SIDE), resample=2)  # PIL's bilinear filter, which is a mean where it shrinks
    return Looks(digest, np.asarray(small, dtype=np.float32).ravel())


class KnownImages:
    """Images that others are compared with.

    An image is a copy of a known one if both have the same pixels; and nearly one if the root mean square by which
    their thumbnails differ is at most a tenth of the standard deviation of either. Resized and encoded again, an
    image is still near to itself; images of hardly any contrast are copies only where they are equal.
    """

    def __init__(self, images: Iterable[Looks]) -> None:
        known = list(images)
        self._digests: dict[str, int] = {}
        for number, one in enumerate(known):
            self._digests.setdefault(one.digest, number)
        self._thumbnails = np.stack([one.thumbnail for one in known]) if known else np.zeros((0, 3 * SIDE**2))
        self._contrasts = self._thumbnails.std(axis=1)

    def copied_by(self, image: Looks) -> int | None:
        """The number of a known image of which this is a copy, or nearly; None where there is none."""
        if (same := self._digests.get(image.digest)) is not None:
            return same
        contrast = float(image.thumbnail.std())
        if not len(self._thumbnails) or contrast < FLAT:
            return None
        away = np.sqrt(np.square(self._thumbnails - image.thumbnail).mean(axis=1))
        nearest = int(away.argmin())
        limit = NEAR * min(contrast, float(self._contrasts[nearest]))
        return nearest if away[nearest] <= limit else None
