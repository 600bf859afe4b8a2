"""How an error says that a word is unknown: which it could be, and which is the nearest."""

import difflib
from collections.abc import Iterable

SHOWN = 20
CUTOFF = 0.5  # "eval" is near "evaluation"


def meant(word: object, known: Iterable[object]) -> str:
    """The question whether the nearest of the known words was meant; empty where none is near."""
    near = difflib.get_close_matches(str(word), [str(one) for one in known], 1, CUTOFF)
    return f"did you mean {near[0]!r}?" if near else ""


def unknown(what: str, word: object, known: Iterable[object]) -> str:
    """That there is no such word, the nearest one, and all that there are; at most 20 of them.

    Args:
        what: what the word should be, as "kind".
    """
    words = [str(one) for one in known]
    guess = " ".join(filter(None, [";", meant(word, words)]))
    more = ", …" if len(words) > SHOWN else ""
    return f"unknown {what} {word!r}{guess} There are: {', '.join(words[:SHOWN]) or 'none'}{more}"
