"""`mha score`: how much each head matters."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mha.cli.criteria import CriterionName, OptionOfCriterion, check_needs, check_options
from mha.cli.models import read_model
from mha.cli.settings import Settings, lines_of, note, with_settings
from mha.cli.tasks import read_task
from mha.importance.registry import describe
from mha.importance.registry.criterion import DEFAULT
from mha.importance.score import score as score_heads
from mha.values.atomic_files import appears_whole
from mha.values.plan import HeadScores
from mha.values.whole_directory import check_new
from mha.visualize import show_importance

PICTURES = (".png", ".svg", ".pdf")
FILES = (".json", ".csv", *PICTURES)


@click.command(short_help="Score the heads: how much each matters.")
@click.argument("model")
@click.option("--task", metavar="TASK", help="What the model is for; without it, only criteria that need no data.")
@click.option("--criterion", type=CriterionName(), help="How heads are scored. Default: leave_one_out.")
@click.option("--option", "options", type=OptionOfCriterion(), multiple=True, help="Of the criterion, as unit=batch.")
@click.option("--rounds", type=click.IntRange(1), help="Remove heads in so many steps, and score again after each.")
@click.option("--seed", default=0, show_default=True, help="For criteria that draw at random.")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    type=click.Path(path_type=Path),
    help=f"File to write, by its end: {', '.join(FILES)}. May be given several times.",
)
@with_settings
def score(
    model: str,
    task: str | None,
    criterion: str | None,
    options: Sequence[tuple[str, Any]],
    rounds: int | None,
    seed: int,
    outputs: Sequence[Path],
    settings: Settings,
) -> None:
    """Score the heads of MODEL: how much each matters; larger = keep.

    \b
    Examples:
      mha score my-model --task task.toml -o scores.json -o scores.csv -o scores.png
      mha score my-model --task task.toml --criterion taylor --option unit=batch
      mha score my-model --criterion magnitude --json
    """
    check_needs(criterion, task)
    given = check_options(criterion, options)
    for path in outputs:
        if path.suffix not in FILES:
            raise click.UsageError(f"-o {path}: its end says what is written; give one of {', '.join(FILES)}")
        check_new(path)
    loaded = read_model(model, settings)
    chosen = None if task is None else read_task(task, loaded)
    note(f"scoring heads by {describe(criterion or DEFAULT).name}")
    scores = score_heads(
        loaded.model,
        None if chosen is None else chosen.calibration(),
        None if chosen is None else chosen.loss,
        criterion or DEFAULT,
        rounds=rounds,
        seed=seed,
        **given,
    )
    for path in outputs:
        write(scores, path, f"{model}: {criterion or DEFAULT}")
    settings.tell(text_of(scores, outputs), document_of(scores, criterion or DEFAULT))


def write(scores: HeadScores, path: Path, title: str) -> None:
    """Write the scores to a file of the kind that its end says: JSON, CSV, or a picture, which has a title."""
    if path.suffix == ".json":
        scores.to_json(path)
    elif path.suffix == ".csv":
        with appears_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["layer", "head", "score", *(["error"] if scores.errors is not None else [])])
            writer.writeheader()
            writer.writerows(rows_of(scores))
    else:
        figure = show_importance(scores)
        figure.axes[0].set_title(title, loc="left", fontsize="small", wrap=True)
        with appears_whole(path) as partial:
            figure.savefig(partial, format=path.suffix[1:])


def rows_of(scores: HeadScores) -> list[dict[str, Any]]:
    """A row for each head: layer, head (its original number), score, and the standard error where it is known."""
    rows: list[dict[str, Any]] = []
    for name, row in scores.items():
        errors = None if scores.errors is None else scores.errors[name].tolist()
        for place, (head, value) in enumerate(zip(scores.heads[name], row.tolist(), strict=True)):
            rows.append({"layer": name, "head": head, "score": value})
            if errors is not None:
                rows[-1]["error"] = errors[place]
    return rows


def document_of(scores: HeadScores, criterion: str) -> dict[str, Any]:
    """The scores for JSON."""
    spent = scores.spent
    return {
        "criterion": criterion,
        "comparable": scores.comparable,
        "examples": scores.examples,
        "seconds": None if spent is None else spent.seconds,
        "scores": rows_of(scores),
    }


def text_of(scores: HeadScores, outputs: Sequence[Path]) -> str:
    """A table with a row for each layer and a column for each head, and what it took."""
    most = 1 + max((max(heads, default=-1) for heads in scores.heads.values()), default=-1)
    table = [["layer", *map(str, range(most))]]
    for name, row in scores.items():
        cells = dict(zip(scores.heads[name], row.tolist(), strict=True))
        table.append([name or "(root)", *(f"{cells[head]:.3g}" if head in cells else "" for head in range(most))])
    within = "" if scores.comparable else " Heads are comparable within a layer only."
    spent = "" if scores.spent is None else f" Scoring took {scores.spent.seconds:.1f} s."
    written = f" Written to {', '.join(map(str, outputs))}." if outputs else ""
    return f"{lines_of(table)}\n{scores.num_heads} heads scored; larger = keep.{within}{spent}{written}"
