"""Which texts are copies, or nearly, of others: by words, whatever their case, punctuation and line breaks."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

SHINGLE = 5  # words
PIECE = 64  # words of a long text that are looked for together
COPIED = 0.5  # the share of its shingles by which a piece is a copy
SHORTEST = 10  # words of a text that may be a near copy; shorter ones are copies where they are equal
COMMON = 5  # texts that may have a shingle which tells them apart: one that more have is a turn of phrase


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, in lower case."""
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()


def shingles(words: Sequence[str], length: int = SHINGLE) -> set[int]:
    """The hashes of every `length` words in a row; the same in one process, not in two."""
    return {hash(" ".join(words[start : start + length])) for start in range(len(words) - length + 1)}


class Known:
    """Texts that others are compared with.

    A text is a copy of a known one if both have the same words; and nearly one if at least half of the shingles (5
    words in a row) of a piece of it (64 words), or of the known text if that is shorter, are in both. Shingles that
    more than 5 known texts have do not count, so that a template is no copy; nor do texts of fewer than 10 words.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._whole: dict[str, int] = {}
        self._having: defaultdict[int, list[int]] = defaultdict(list)
        self._sizes: list[int] = []
        for number, text in enumerate(texts):
            words = words_of(text)
            self._whole.setdefault(_whole(text, words), number)
            own = shingles(words) if len(words) >= SHORTEST else set()
            self._sizes.append(len(own))
            for shingle in own:
                self._having[shingle].append(number)

    def copied_by(self, text: str) -> int | None:
        """The number of a known text of which this is a copy, or nearly; None where there is none."""
        words = words_of(text)
        whole = self._whole.get(_whole(text, words))
        if whole is not None:
            return whole
        found = (self._nearly(piece) for piece in _pieces(words))
        return next((number for number in found if number is not None), None)

    def _nearly(self, piece: Sequence[str]) -> int | None:
        """The known text that shares most with a piece, if it is half of what the shorter of both has; else None."""
        own = shingles(piece)
        having = (self._having[shingle] for shingle in own if shingle in self._having)
        shared = Counter(number for numbers in having if len(numbers) <= COMMON for number in numbers)
        number, most = max(shared.items(), key=lambda one: one[1], default=(None, 0))
        return number if number is not None and most >= COPIED * min(len(own), self._sizes[number]) else None


def _whole(text: str, words: Sequence[str]) -> str:
    """What a text is known by: its words, or, of a text without any, the text itself."""
    return " ".join(words) or text


def _pieces(words: Sequence[str]) -> Iterator[Sequence[str]]:
    """A text's words, 64 at a time, the last piece as long as the others; none of a text that is too short."""
    if len(words) < SHORTEST:
        return
    for start in range(0, len(words), PIECE):
        yield words[max(min(start, len(words) - PIECE), 0) :][:PIECE]
