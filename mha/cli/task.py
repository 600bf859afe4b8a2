"""`mha task init`: a first task file."""

from pathlib import Path

import click

from mha.cli.models import read_model
from mha.cli.settings import Settings, note, with_settings
from mha.cli.tasks import first_task
from mha.values.atomic_files import appears_whole
from mha.values.whole_directory import check_new


@click.group()
def task() -> None:
    """Write task files."""


@task.command()
@click.argument("model")
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write; default: stdout.")
@with_settings
def init(model: str, data: Path, output: Path | None, settings: Settings) -> None:
    """Write a first task file (TOML), by looking at MODEL and at DATA, a file or a folder of examples.

    \b
    Examples:
      mha task init my-model reviews.csv -o task.toml
      mha task init my-model reviews.csv
    """
    check_new(output)
    loaded = read_model(model, settings)
    if loaded.processor is None:
        note(f"{model} has no tokenizer or processor, which most tasks need; save one there, by save_pretrained")
    text = first_task(loaded, data)
    if output is None:
        settings.tell(text.rstrip("\n"), {"task": text})
        return
    with appears_whole(output) as partial:
        partial.write_text(text, encoding="utf-8")
    settings.tell(f"Written to {output}. Look it over, then: mha score {model} --task {output}", {"task": text})
