"""The files for Slurm and Kubernetes, checked as far as one machine can: they parse, and what they call exists."""

import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

import yaml
from distributed.cli import dask_scheduler, dask_worker

FILES = Path(__file__).parents[3] / "docs" / "cluster"
OPTIONS = {
    name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for name, command in (("scheduler", dask_scheduler.main), ("worker", dask_worker.main))
}


def assert_known(command, words):
    options = {word for word in words if word.startswith("--")}
    assert options <= OPTIONS[command], f"dask {command} has no {options - OPTIONS[command]}"


def test_the_script_for_slurm_parses_and_names_options_that_dask_has():
    script = FILES / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    commands = re.findall(r"\bdask (scheduler|worker) (.+)", text)
    assert [name for name, _ in commands] == ["scheduler", "worker"]
    for name, rest in commands:
        assert_known(name, rest.split())
    for kept in re.findall(r"keep worker (.+)", text):
        assert_known("worker", kept.split())
    assert "pytest bench --cluster" in text
    assert re.search(r"/(work|tmp|home)/", text) is None


def test_the_file_for_kubernetes_is_read_and_names_options_that_dask_has():
    cluster, group, policy, claim, job = yaml.safe_load_all((FILES / "kubernetes.yaml").read_text())
    assert [each["kind"] for each in (cluster, group, policy, claim, job)] == [
        *("DaskCluster", "DaskWorkerGroup", "NetworkPolicy", "PersistentVolumeClaim", "Job"),
    ]
    name = cluster["metadata"]["name"]
    workers = [cluster["spec"]["worker"], group["spec"]["worker"]]
    pods = [each["spec"] for each in (*workers, cluster["spec"]["scheduler"])] + [job["spec"]["template"]["spec"]]
    images = {container["image"] for pod in pods for container in pod["containers"]}
    assert len(images) == 1
    for worker in workers:
        (container,) = worker["spec"]["containers"]
        assert container["args"][:2] == ["dask", "worker"]
        assert_known("worker", container["args"])
        assert re.fullmatch(r"(CPU|GPU)=1( \w+=1)*", container["args"][-1])
    assert group["spec"]["cluster"] == name
    (driver,) = pods[-1]["containers"]
    assert f"tcp://{name}-scheduler:8786" in driver["command"]
    assert pods[-1]["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    allowed = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert allowed.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert "mha-bench" in (FILES / "Dockerfile").read_text()
