"""`mha check`: a model and a smaller one made from it, side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from torch import nn

from mha.certifying.ladder import check_pruned_from
from mha.cli.comparison import Judged, Timed, as_document, judged, megabytes, number, timed
from mha.cli.history import heads_of, history_in, told
from mha.cli.inputs import inputs_of
from mha.cli.models import FUNCTION, Loaded, read_model
from mha.cli.proof import Proof, proved
from mha.cli.settings import Settings, lines_of, with_settings
from mha.cli.tasks import read_task
from mha.costs import parameters_of
from mha.families import find_attention
from mha.pruning.checkpoint.loading import load_pruned
from mha.pruning.slicing import plan_of


@click.command(short_help="Compare a model and a smaller one made from it.")
@click.argument("model")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--task", metavar="TASK", help="What the model is for; without it, quality is not compared.")
@click.option("--batch-size", type=click.IntRange(1), help="For timing; default: the task's, or 8.")
@click.option(
    "--length", type=click.IntRange(1), help="Tokens of each sequence, for timing; default: the task's, or 64."
)
@click.option("--seconds", type=click.FloatRange(0.01), default=10.0, show_default=True, help="How long timing takes.")
@with_settings
def check(
    model: str,
    directory: Path,
    task: str | None,
    batch_size: int | None,
    length: int | None,
    seconds: float,
    settings: Settings,
) -> None:
    """Compare MODEL with the smaller one in DIRECTORY: sliced = masked, quality, speed and size side by side.

    \b
    Examples:
      mha check my-model smaller --task task.toml
      mha check my-model smaller --json
    """
    loaded = read_model(model, settings)
    small = _small(loaded, directory, settings)
    check_pruned_from(find_attention(loaded.model), find_attention(small), str(directory))
    chosen = None if task is None else read_task(task, loaded)
    inputs = inputs_of(loaded.model, chosen, loaded.device, batch_size, length)
    proof = proved(loaded.model, plan_of(small), inputs)
    quality = None if chosen is None else judged(chosen, loaded.model, small)
    speed = timed(loaded.model, small, inputs, loaded.device, seconds)
    document = {
        "masked_minus_sliced": proof.difference,
        "models": [_size(loaded.model), _size(small)],
        "quality": as_document(quality),
        "speed": as_document(speed),
        "history": history_in(directory),
    }
    settings.tell(_text(document, proof, quality, speed, small), document)


def _small(loaded: Loaded, directory: Path, settings: Settings) -> nn.Module:
    """The smaller model, on the device and in the dtype of the other; of a class that only a function makes, too."""
    if FUNCTION.fullmatch(loaded.text):
        small = load_pruned(directory, loaded.model)
        return small.to(device=loaded.device)
    return read_model(str(directory), settings).model


def _size(model: nn.Module) -> dict[str, Any]:
    """How large a model is."""
    return {"heads": heads_of(model).present, "parameters": parameters_of(model), "megabytes": megabytes(model)}


def _text(document: Mapping[str, Any], proof: Proof, quality: Judged | None, speed: Timed, small: nn.Module) -> str:
    """The comparison as text: a table, and what it comes to in plain words."""
    dense, pruned = document["models"]
    table = [["", "model", "smaller", "smaller / model"]]
    for name, form in (("heads", "d"), ("parameters", ",d"), ("megabytes", ".3g")):
        share = pruned[name] / dense[name] if dense[name] else 1.0
        table.append([name, format(dense[name], form), format(pruned[name], form), f"{share:.2f}"])
    if quality is not None:
        table.append([quality.metric, number(quality.dense), number(quality.small), ""])
    table.append(
        ["ms a call", f"{1e3 * speed.dense:.3g}", f"{1e3 * speed.small:.3g}", f"{speed.small / speed.dense:.2f}"]
    )
    measured = [part.sentence() for part in (quality, speed) if part is not None]
    lines = [
        lines_of(table),
        proof.sentence(),
        told(heads_of(small), document["history"]).replace("Removed before", "Removed"),
        f"{dense['heads'] - pruned['heads']} of {dense['heads']} heads removed: {', '.join(measured)}.",
    ]
    return "\n".join(filter(None, lines))
