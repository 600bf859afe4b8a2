"""`pytest bench --cluster`: the same results as on one machine, also after Ctrl-C; and what is refused."""

import json
import signal
import subprocess
import time

import pytest

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

import psutil

from bench.cluster.connect import connected
from tests.bench.cluster.processes import Cluster
from tests.bench.harness import TINY, Run, arguments

SELECTED = ("--task", TINY, "-k", "magnitude and (scores or accuracy or slices or latency) or accuracy and dense")
TIMED = ("samples", "ended", "warm_up", "counts")  # of a case; peak memory is not measured in forks


def started_by(pid):
    """The processes that a process has started, directly or not."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait(condition, seconds=600):  # that it hangs; on a busy machine it takes long
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.thorough
def test_a_sweep_interrupted_and_gone_on_with_has_what_one_machine_has(bench, forks, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    path = tmp_path / "run"
    first = forks.start(arguments(path, *SELECTED, "--cluster", "local:1"), TMPDIR=str(tmp_path))
    wait(lambda: first.poll() is not None or [*path.glob("plans/*.json")])
    assert first.poll() is None, first.output()
    children = started_by(first.pid)
    assert any("bench.cluster.forking" in process.cmdline() for process in children)
    first.send_signal(signal.SIGINT)
    assert first.wait() == pytest.ExitCode.INTERRUPTED, first.output()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    there = {file: file.read_bytes() for file in path.glob("plans/*.json")}
    assert there
    again = forks.start(arguments(path, *SELECTED, "--cluster", "local:1"), TMPDIR=str(tmp_path))
    assert again.wait() == 0, again.output()
    assert " are there already in " in again.output()
    assert {file: file.read_bytes() for file in there} == there
    many, one = Run(path, 0, ""), bench(*SELECTED)
    assert one.code == 0, one.output
    assert many.records("plans") == one.records("plans")
    for table in ("plans.csv", "slices.csv"):
        assert (path / table).read_text() == (one.path / table).read_text()
    scores = [
        [row.rpartition(",")[0] for row in (run.path / "scores.csv").read_text().splitlines()] for run in (many, one)
    ]
    assert scores[0] == scores[1]
    cases = [
        {name: {**case, **dict.fromkeys(TIMED)} for name, case in run.records("cases").items()} for run in (many, one)
    ]
    assert cases[0] == cases[1]
    assert all(len(case["samples"]) >= 8 and case["machine"] == "own" for case in many.records("cases").values())
    environments = [run.json("environment.json") for run in (many, one)]
    assert environments[0]["tasks"] == environments[1]["tasks"]
    assert environments[0]["fingerprint"] == environments[1]["fingerprint"]
    assert len(json.loads((path / "benchmarks.json").read_text())["benchmarks"]) == 1
    assert not (path / ".made").exists()


def test_a_token_without_a_cluster_is_refused(forks, tmp_path):
    fork = forks.start(arguments(tmp_path / "run", *SELECTED, "--on", "H100"))
    assert fork.wait() == pytest.ExitCode.USAGE_ERROR
    assert "--on says what a worker of --cluster must have; give that, too" in fork.output()
    assert not (tmp_path / "run").exists()


def test_only_holders_of_the_key_connect(tmp_path, monkeypatch):
    """A certificate of openssl, as docs/cluster.md makes one, and dask's own settings."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    try:
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mha-bench"]
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    settings = {
        "distributed.comm.require-encryption": True,
        "distributed.comm.tls.ca-file": str(certificate),
        "distributed.comm.tls.client.cert": str(certificate),
        "distributed.comm.tls.client.key": str(key),
    }
    tls = {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(certificate),
    }
    for role in ("SCHEDULER", "WORKER"):
        tls[f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT"] = str(certificate)
        tls[f"DASK_DISTRIBUTED__COMM__TLS__{role}__KEY"] = str(key)
    import dask.config

    from bench.cluster.errors import SweepError

    for name, value in tls.items():
        monkeypatch.setenv(name, value)
    with Cluster(tmp_path, "tls") as cluster:
        cluster.start_worker("one")
        with dask.config.set(settings), connected(cluster.address) as client:
            client.wait_for_workers(1, timeout=60)
            assert client.submit(sum, [3, 4]).result(timeout=30) == 7
        with pytest.raises(SweepError, match=r"no dask scheduler answers at tls://127\.0"):
            connected(cluster.address, seconds=2)
        with pytest.raises(SweepError, match=r"no dask scheduler answers at tcp://127\.0"):
            connected(cluster.address.replace("tls", "tcp"), seconds=2)
