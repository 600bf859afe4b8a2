"""The command `mha`: its subcommands, and how errors end it."""

import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from mha.cli.attention import attention
from mha.cli.bench import bench
from mha.cli.check import check
from mha.cli.export import export
from mha.cli.heads import heads
from mha.cli.prune import prune
from mha.cli.score import score
from mha.cli.settings import note
from mha.cli.task import task
from mha.values.errors import MhaError

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mha", message="%(version)s")
def command() -> None:
    """Find out which attention heads of a model matter, and cut the others out for good.

    MODEL is a directory that transformers or this library has saved, a GGUF file, a name on the Hugging Face hub, or
    a function in a file of yours, as my_model.py:build. TASK is a TOML file (mha task init writes a first one), or an
    object in a file, as my_task.py:task.

    \b
    Examples:
      mha heads my-model
      mha task init my-model reviews.csv -o task.toml
      mha score my-model --task task.toml -o scores.json
      mha prune my-model --task task.toml --keep 0.5 -o smaller
      mha check my-model smaller --task task.toml
      mha export smaller --to torch -o exported

    Tab completion of bash: eval "$(_MHA_COMPLETE=bash_source mha)"; zsh_source and fish_source likewise.
    """


for _subcommand in (heads, score, prune, check, export, attention, task, bench):
    command.add_command(_subcommand)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments, those of the process unless given.

    Returns:
        The exit code: 0, 1 for an error that the message on stderr explains, 2 for wrong use, 130 if interrupted.
    """
    try:
        ended: Any = command.main(args=arguments, prog_name="mha", standalone_mode=False)
        return ended if isinstance(ended, int) else 0
    except click.ClickException as error:  # wrong use, most of all
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        note("interrupted; nothing was written")
        return INTERRUPTED
    except (MhaError, OSError) as error:
        note(f"mha: error: {error}")
        return FAILED


def run() -> None:
    """End the process with the exit code of `main`; a request to end it is treated like an interruption."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    sys.exit(main())
