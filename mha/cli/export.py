"""`mha export`: a model, pruned or not, in the format of a runtime, proved there."""

from pathlib import Path

import click
from torch import nn

from mha.certifying.ladder import check_pruned_from
from mha.cli.inputs import inputs_of
from mha.cli.models import read_model
from mha.cli.settings import Settings, note, with_settings
from mha.cli.tasks import read_task
from mha.exporting.check_export import check_export
from mha.exporting.export import export as write
from mha.families import find_attention
from mha.pruning.slicing import plan_of, prune
from mha.values.errors import CheckpointError, EquivalenceError


@click.command(short_help="Write a model for another runtime, and prove it there.")
@click.argument("model")
@click.option(
    "--to",
    "format_name",
    required=True,
    metavar="FORMAT",
    help="torch, onnx, openvino, executorch, gguf, transformers.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="New directory.")
@click.option("--dense", metavar="MODEL", help="What it was pruned from and not repaired; default: itself, in torch.")
@click.option("--int8", is_flag=True, help="Weights as 8-bit integers.")
@click.option("--cache", is_flag=True, help="Of a decoder: keep keys and values from token to token.")
@click.option("--task", metavar="TASK", help="Whose inputs the proof begins with; default: made up for the model.")
@click.option("--batch-size", type=click.IntRange(1), help="Of the first example; default: the task's, or 8.")
@click.option("--length", type=click.IntRange(1), help="Tokens of the first example; default: the task's, or 64.")
@with_settings
def export(
    model: str,
    format_name: str,
    output: Path,
    dense: str | None,
    int8: bool,
    cache: bool,
    task: str | None,
    batch_size: int | None,
    length: int | None,
    settings: Settings,
) -> None:
    """Write MODEL in the format of a runtime into a new directory, and prove there that it computes the same.

    What was written is run in the runtime, at several batch sizes and lengths, and compared with MODEL in torch, or,
    with --dense, with the model that it was cut from, with the same heads switched off. If it computes something else,
    that is an error, and the files stay there to be looked at.

    \b
    Examples:
      mha export my-model --to torch -o exported
      mha export smaller --to torch --task task.toml -o exported
    """
    loaded = read_model(model, settings)
    whole = loaded if dense is None else read_model(dense, settings)
    if dense is not None:
        check_pruned_from(find_attention(whole.model), find_attention(loaded.model), model)
        _check_only_cut(whole.model, loaded.model, model)
    chosen = None if task is None else read_task(task, loaded)
    example = inputs_of(loaded.model, chosen, loaded.device, batch_size, length)
    note(f"writing {output}")
    tokenizer = loaded.folder / loaded.gguf if loaded.folder is not None and loaded.gguf else None
    files = write(loaded.model, format_name, output, example=example, int8=int8, cache=cache, tokenizer=tokenizer)
    note(f"running it in {files.format}")
    try:
        found = check_export(files, whole.model, plan_of(loaded.model), [example])
    except EquivalenceError as error:
        raise EquivalenceError(f"{error}\nThe files stay in {output}, to be looked at; don't use them") from error
    found.save(output)
    document = {
        "directory": str(output),
        "format": files.format,
        "int8": files.int8,
        "cache": files.cache,
        "bytes": files.bytes,
        "runtime": found.runtime,
        "equal": found.equal,
        "share": found.worst.share,
        "allowed": found.allowed,
        "tries": [each._asdict() for each in found.tries],
    }
    settings.tell(f"{files}\n{found}", document)


def _check_only_cut(dense: nn.Module, small: nn.Module, name: str) -> None:
    """Refuse a smaller model that was repaired or trained after it was cut: it computes something else, on purpose.

    Raises:
        CheckpointError: a weight is another than that of the dense model, cut in the same way.
    """
    cut, there = prune(dense, plan_of(small)).state_dict(), small.state_dict()
    other = [key for key, value in cut.items() if key not in there or not value.equal(there[key].to(value))]
    if other:
        raise CheckpointError(
            f"{name} was repaired or trained after heads were cut ({other[0]} is another), so it computes something "
            "else than the dense model with those heads off; leave out --dense: it is compared with itself in torch"
        )
