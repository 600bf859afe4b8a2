"""Scoring on workers of a dask.distributed cluster, in real processes on loopback, against scoring here."""

import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

import mha
from mha.importance import Shard
from mha.importance.registry import describe
from mha.runtime import cluster as engine
from tests.mha.support.criteria import QUICK
from tests.mha.support.losses import loss_of
from tests.mha.support.models import Reader

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")

CLOSE = 1e-6
WITH_DATA = [name for name in mha.criteria() if describe(name).needs != "nothing"]


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as local:
        yield local


@pytest.fixture(scope="module")
def client(cluster):
    with distributed.Client(cluster) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_left(request):
    yield
    if "client" in request.fixturenames:
        client = request.getfixturevalue("client")
        assert dict(client.futures) == {}


@pytest.fixture
def model() -> Reader:
    """A `Reader` in float32: rounding shows."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Reader()


@pytest.fixture
def batches(batches):
    """Four batches in float32, of 7, 7, 4 and 1 examples."""
    x, memory, labels = batches[-1]
    last = [(x[:4].float(), memory[:4].float(), labels[:4]), (x[4:].float(), memory[4:].float(), labels[4:])]
    return [(x.float(), memory.float(), labels) for x, memory, labels in batches[:-1]] + last


def assert_close(one: mha.HeadScores, other: mha.HeadScores) -> None:
    assert one.keys() == other.keys()
    assert one.examples == other.examples
    for name, row in one.items():
        assert torch.allclose(row.double(), other[name].double(), rtol=CLOSE, atol=CLOSE * float(row.abs().max()))


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_every_criterion_scores_as_here(client, model, batches, criterion):
    options = QUICK.get(criterion, {})
    here = mha.score(model, batches, loss_of, criterion, **options)
    there = mha.score(model, batches, loss_of, criterion, cluster=client, **options)
    assert_close(here, there)
    assert (here.spent.backward == there.spent.backward) and there.spent.forward >= here.spent.forward
