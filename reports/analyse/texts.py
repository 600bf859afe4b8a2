"""Greedy text of the dense and of pruned models side by side, and where they part."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from reports.analyse.changes import told_plans
from reports.base.table_cells import Cell, Summary, number, word
from reports.read.run import Run

DENSE = "dense"
MOST_PROMPTS, MOST_PLANS, LONGEST = 10, 8, 2000  # of a page; characters of one text


@dataclass(frozen=True)
class Text:
    """What one model writes for a prompt.

    Attributes:
        label: what its plan is called.
        same: what it has in common with the dense model's text, from the beginning.
        first: the first token in which it differs; "" where none does.
        rest: what follows.
        agrees: how many tokens `same` has.
        tokens: how many tokens there are; of the two texts the more.
    """

    label: str
    same: str
    first: str
    rest: str
    agrees: int
    tokens: int

    @property
    def told(self) -> str:
        """How far it agrees with the dense model's text, in words; "" for the dense model itself."""
        if self.label == DENSE:
            return ""
        return "the same" if self.agrees == self.tokens else f"{self.agrees} of {self.tokens} tokens agree"


@dataclass(frozen=True)
class Prompt:
    """A prompt, and what the dense and the pruned models write for it, the dense one first."""

    prompt: str
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class Texts:
    """What models write for some prompts, and a table of how far each pruned one agrees with the dense one."""

    prompts: tuple[Prompt, ...]
    tables: tuple[Summary, ...]


def texts(run: Run, task: str) -> Texts | None:
    """The texts of a task's models for its first prompts; None where those of the dense model are not known."""
    mine = run.texts[run.texts["task"] == task]
    told = told_plans(run, task, mine["plan"])
    labelled = mine.merge(told[["plan", "label"]], on="plan")
    found = [_prompt(rows, list(told["label"])) for _, rows in labelled.groupby("number", sort=True)]
    prompts = tuple(prompt for prompt in found if prompt is not None)[:MOST_PROMPTS]
    return Texts(prompts, tuple(_summaries(prompts))) if prompts else None


def _prompt(rows: pd.DataFrame, order: Sequence[str]) -> Prompt | None:
    """One prompt, from its rows of the table of texts; None if the dense model's text is not among them.

    Args:
        order: the labels of all plans, in order.
    """
    pieces = {str(row["label"]): json.loads(row["pieces"]) for _, row in rows.iterrows()}
    if DENSE not in pieces:
        return None
    shown = [label for label in order if label in pieces][:MOST_PLANS]
    return Prompt(_short(rows["prompt"].iloc[0]), tuple(_text(label, pieces) for label in shown))


def _text(label: str, pieces: dict[str, list[str]]) -> Text:
    """The text of one model, given the tokens of all by their labels."""
    mine, dense = pieces[label], pieces[DENSE]
    agrees = agreement(mine, dense)
    first = mine[agrees] if agrees < len(mine) else ""
    same, rest = _short("".join(mine[:agrees])), _short("".join(mine[agrees + 1 :]))
    return Text(label, same, first, rest, agrees, max(len(mine), len(dense)))


def agreement(one: Sequence[str], other: Sequence[str]) -> int:
    """How many tokens two texts have in common from the beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def _summaries(prompts: Sequence[Prompt]) -> Iterator[Summary]:
    """Yield the table of how far each pruned model agrees with the dense one; none where there is no pruned model."""
    texts = pd.DataFrame(
        [(text.label, text.agrees, text.tokens) for each in prompts for text in each.texts if text.label != DENSE],
        columns=["label", "agrees", "tokens"],
    )
    rows = [_row(str(label), mine) for label, mine in texts.groupby("label", sort=False)]
    if rows:
        yield Summary(
            title="How long greedy text stays that of the dense model",
            note="Tokens from the beginning that are the dense model's own. Text that goes another way need not be "
            "worse; below, each prompt has all texts side by side, with the first token marked that differs.",
            columns=("plan", "texts that are the same", "agreeing tokens, mean", "least", "most", "of at most"),
            rows=tuple(rows),
        )


def _row(label: str, mine: pd.DataFrame) -> tuple[Cell, ...]:
    agrees, whole = mine["agrees"], int((mine["agrees"] == mine["tokens"]).sum())
    counts = [number(count, "{:.0f}".format) for count in (agrees.min(), agrees.max(), mine["tokens"].max())]
    of = Cell(f"{whole} of {len(mine)}", order=whole)
    return (word(label), of, number(agrees.mean(), "{:.1f}".format), *counts)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
