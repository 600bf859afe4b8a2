import pytest

from tests.bench.harness import Run, arguments
from tests.bench.prefork import Forks


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory):
    """Where tests of the importance experiments keep their tiny models, to train each only once."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def forks():
    """Starts processes of pytest that have imported already what a run of the benchmarks imports."""
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def bench(forks, tmp_path_factory):
    """Runs the suite with these options."""

    def run(*options):
        path = tmp_path_factory.mktemp("bench") / "run"
        fork = forks.start(arguments(path, *options))
        return Run(path, fork.wait(), fork.output())

    return run
