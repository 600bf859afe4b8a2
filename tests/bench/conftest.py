import subprocess

import pytest

from tests.bench.harness import Run, command


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory):
    """Where tests of the importance experiments keep their tiny models, to train each only once."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def bench(pytestconfig, tmp_path_factory):
    """Runs the suite with these options."""

    def run(*options):
        path = tmp_path_factory.mktemp("bench") / "run"
        done = subprocess.run(command(path, *options), cwd=pytestconfig.rootpath, capture_output=True, text=True)
        return Run(path, done.returncode, done.stdout + done.stderr)

    return run
