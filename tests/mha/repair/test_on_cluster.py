"""Repair by the workers of a dask.distributed cluster, in real processes on loopback, against repair here."""

import os
import signal

import pytest
import torch
from torch import nn

import mha
from mha.importance import Shard
from tests.mha.support.encoder import Encoder
from tests.mha.support.two_workers import two_workers
from tests.thorough import few

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")


@pytest.fixture(scope="module")
def client():
    with two_workers() as cluster, distributed.Client(cluster) as made:
        yield made


class Block(nn.Module):
    """5 heads of width 3 in a model of width 11, and a feed-forward network: after one another, or side by side."""

    def __init__(self, *, parallel: bool) -> None:
        super().__init__()
        self.parallel = parallel
        self.attention = mha.MultiHeadAttention.square(11, 5, bias=True, head_dim=3)
        self.first, self.second = nn.LayerNorm(11), nn.LayerNorm(11)
        self.up, self.down = nn.Linear(11, 17), nn.Linear(17, 11)

    def forward(self, x, lengths):
        y = self.first(x)
        if self.parallel:
            return x + self.attention(y, y, y, lengths) + self.down(torch.tanh(self.up(y)))
        x = x + self.attention(y, y, y, lengths)
        return x + self.down(torch.tanh(self.up(self.second(x))))


def forward(model, batch):
    return model(*batch)


@pytest.fixture(scope="module")
def models():
    """The dense model and the pruned one, in float64; a layer of this has no head."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        teacher = Encoder(Block(parallel=parallel) for parallel in (True, False)).double().eval()
    kept = {"blocks.0.attention": (0, 2, 3), "blocks.1.attention": ()}
    return teacher, mha.prune(teacher, mha.HeadPlan(kept))


@pytest.fixture(scope="module")
def batches():
    """Five batches of 23, 23, 23, 23 and 1 examples, with padding."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(93, 13, 7, generator=generator, dtype=torch.float64)
    lengths = torch.randint(2, 14, (93,), generator=generator)
    return list(zip(x.split(23), lengths.split(23), strict=True))


@pytest.fixture(scope="module")
def shards(batches):
    return [Shard(), Shard(batches[:4]), batches[4]]


@pytest.mark.parametrize("how", few(["least_squares all", "scale attention", "bias attention"], "least_squares all"))
def test_the_repaired_model_is_that_of_one_process(client, models, batches, shards, how):
    method, scope = how.split()
    teacher, pruned = models
    here = mha.compensate(pruned, teacher, batches, forward, method, scope=scope)
    there = mha.compensate(pruned, teacher, shards, forward, method, scope=scope, cluster=client)
    with torch.no_grad():
        for batch in batches:
            expected = forward(here, batch)
            assert torch.allclose(forward(there, batch), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
        assert not torch.allclose(forward(pruned, batches[0]), forward(there, batches[0]), rtol=1e-3)


@pytest.mark.thorough
def test_a_worker_killed_in_the_middle_changes_nothing_and_batches_may_be_there(
    client, models, batches, shards, tmp_path
):
    teacher, pruned = models
    here, seen = os.getpid(), tmp_path / "seen"

    def mortal(model, batch):
        if os.getpid() != here and len(batch[0]) == 1:
            with open(seen, "a") as file:  # noqa: PTH123
                file.write("1")
            if seen.stat().st_size == 4:  # after some layers have been fitted
                os.kill(os.getpid(), signal.SIGKILL)
        return model(*batch)

    futures = [client.submit(lambda shard: shard, shard, pure=False) for shard in shards]
    calm = mha.compensate(pruned, teacher, batches, forward, scope="stream")
    killed = mha.compensate(pruned, teacher, futures, mortal, scope="stream", cluster=client)
    assert seen.stat().st_size > 4
    for name, weight in calm.state_dict().items():
        assert torch.allclose(weight, killed.state_dict()[name], rtol=0, atol=1e-6 * float(weight.abs().max()))


@pytest.mark.thorough
def test_what_is_wrong_is_said_as_here(client, models, batches):
    teacher, pruned = models
    wrong = [batches[0], (batches[1][0] * float("nan"), batches[1][1])]
    messages = []
    for where in (None, client):
        with pytest.raises(mha.CalibrationError) as caught:
            mha.compensate(pruned, teacher, wrong, forward, cluster=where)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    with pytest.raises(mha.CalibrationError, match="the calibration set is empty"):
        mha.compensate(pruned, teacher, [], forward, cluster=client)
    with pytest.raises(mha.CalibrationError, match="cluster is a dask"):
        mha.compensate(pruned, teacher, batches, forward, cluster=3)
