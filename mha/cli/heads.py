"""`mha heads`: which attention layers a model has, how large they are, and what can't be pruned."""

from collections.abc import Mapping
from typing import Any

import click

from mha.cli.history import heads_of as count_heads
from mha.cli.history import history_in, told
from mha.cli.inputs import inputs_of
from mha.cli.models import Loaded, read_model
from mha.cli.settings import Settings, lines_of, note, with_settings
from mha.cli.tasks import read_task
from mha.costs import CostTable, measure_costs, parameters_of
from mha.families import AttentionLayer, find_attention


@click.command(short_help="List attention layers, their sizes, and what can't be pruned.")
@click.argument("model")
@click.option("--time", is_flag=True, help="Measure each layer's share of the latency, too.")
@click.option(
    "--task", metavar="TASK", help="Time with inputs of this task; else with 8 random sequences of 64 tokens."
)
@click.option("--seconds", type=click.FloatRange(0.01), default=30.0, show_default=True, help="How long timing takes.")
@with_settings
def heads(model: str, time: bool, task: str | None, seconds: float, settings: Settings) -> None:
    """List the attention layers of MODEL: heads, key/value groups, family, size, and what can't be pruned and why.

    \b
    Examples:
      mha heads my-model
      mha heads my-model --time --task task.toml
      mha heads my-model --json
    """
    loaded = read_model(model, settings)
    costs = _costs(loaded, task, seconds) if time else None
    found = find_attention(loaded.model)
    size = parameters_of(loaded.model)
    rows = [_row(layer, size, costs) for layer in found.values()]
    counted = count_heads(loaded.model)
    document = {
        "model": model,
        "class": type(loaded.model).__name__,
        "parameters": size,
        "heads": counted.present,
        "heads_made_with": counted.made,
        "layers": rows,
        "unsupported": dict(found.unsupported),
        "history": history_in(loaded.folder),
        "seconds": None if costs is None else costs.dense.seconds,
    }
    settings.tell(_text(loaded, document), document)


def _costs(loaded: Loaded, task: str | None, seconds: float) -> CostTable:
    """What each layer costs in time, with inputs of the task or random ones."""
    chosen = None if task is None else read_task(task, loaded)
    args, kwargs = inputs_of(loaded.model, chosen, loaded.device)
    note(f"timing the layers, for {seconds:g} s")
    return measure_costs(loaded.model, args, kwargs, seconds=seconds)


def _row(layer: AttentionLayer, size: int, costs: CostTable | None) -> dict[str, Any]:
    """What there is to say of a layer."""
    row: dict[str, Any] = {
        "layer": layer.name,
        "heads": layer.num_heads,
        "heads_made_with": layer.lineage.total_heads,
        "groups": layer.num_kv_heads,
        "head_width": layer.head_dim,
        "role": layer.role,
        "family": layer.family,
        "share_of_parameters": parameters_of(layer.module) / max(size, 1),
        "original_heads": list(layer.heads),
    }
    if costs is not None:
        measured = costs.layers[layer.name]
        row["share_of_latency"] = measured.costs[measured.whole].seconds / costs.dense.seconds
    return row


def _text(loaded: Loaded, document: Mapping[str, Any]) -> str:
    """The listing as text: a table, what can't be pruned, and a summary."""
    timed = document["seconds"] is not None
    header = ["layer", "heads", "groups", "width", "role", "parameters", *(["latency"] if timed else []), "family"]
    table = [header, *(_cells(row, timed) for row in document["layers"])]
    refused = [f"can't be pruned: {name or '(root)'}: {why}" for name, why in document["unsupported"].items()]
    counted, count = count_heads(loaded.model), len(document["layers"])
    summary = (
        f"{document['class']}: {counted.present} heads in {count} layer{'' if count == 1 else 's'}, "
        f"{document['parameters']:,} parameters, {_share(document['layers'], 'share_of_parameters')} of them in "
        "attention."
    )
    if timed:
        summary += (
            f" A call takes {1e3 * document['seconds']:.3g} ms, {_share(document['layers'], 'share_of_latency')} of it "
            "in attention."
        )
    before = told(counted, document["history"])
    return "\n".join(
        [*([lines_of(table)] if document["layers"] else []), *refused, summary, *([before] * bool(before))]
    )


def _cells(row: Mapping[str, Any], timed: bool) -> list[str]:
    """A layer as cells of the table."""
    made = row["heads_made_with"]
    count = str(made) if row["heads"] == made else f"{row['heads']} of {made}"
    latency = [f"{100 * row['share_of_latency']:.1f} %"] if timed else []
    share = f"{100 * row['share_of_parameters']:.1f} %"
    cells = [row["layer"] or "(root)", count, str(row["groups"]), str(row["head_width"]), row["role"] or "–"]
    return [*cells, share, *latency, row["family"]]


def _share(rows: list[dict[str, Any]], what: str) -> str:
    """The sum of a share over all layers, in percent."""
    return f"{100 * sum(row[what] for row in rows):.0f} %"
