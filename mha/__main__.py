"""`python -m mha`, the same as the command `mha`."""

from mha.cli.main import run

run()
