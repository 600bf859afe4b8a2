"""What scoring on a dask cluster gains and costs: the same scores here and on 1, 2, … workers of this machine.

    python -m bench.importance.on_cluster                    # docs/cluster-scoring.md has its table
    python -m bench.importance.on_cluster --workers 1 2 4 8 --batches 256

An encoder of MiniLM's sizes with random weights is scored, by one thread in each process; the ways take turns, and the
medians of their times are shown beside the smallest and the largest. A model of one tiny layer shows the overhead of a
shard. A worker's first call, in which it imports torch, is not timed.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import mha
from bench.measure.row_tables import say
from bench.measure.threads import one_thread
from mha.values.optional_packages import needed

WIDTH, LAYERS, HEADS = 384, 6, 12
SHAPE = 8, 32  # examples and tokens of a batch
CRITERIA = "fisher", "least_squares"
TINY = 100  # shards of the tiny model
HERE = "one process, no cluster"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m bench.importance.on_cluster`: measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.importance.on_cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--shard", type=int, default=1, help="batches of a shard")
    parser.add_argument("--criteria", nargs="+", default=CRITERIA, choices=mha.criteria())
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    tiny, model = _encoder(8, 1, 2), _encoder(WIDTH, LAYERS, HEADS)
    batches = [torch.randn(*SHAPE, WIDTH) for _ in range(options.batches)]
    shards = [mha.importance.Shard(batches[at : at + options.shard]) for at in range(0, len(batches), options.shard)]
    say(f"{os.cpu_count()} logical processors, torch {torch.__version__}, {len(batches)} batches of {SHAPE}")
    with one_thread(), _clients(options.workers) as clients:
        say("| criterion | where | seconds | times one process | largest difference |\n|---|---|---|---|---|")
        for criterion in options.criteria:
            for line in _lines(criterion, model, shards, clients, options.turns):
                say(line)
        alone = [torch.randn(2, 3, 8) for _ in range(TINY)]
        for line in _lines("fisher", tiny, alone, clients, options.turns, name=f"fisher, {TINY} tiny shards"):
            say(line)


def _lines(
    criterion: str, model: nn.Module, batches: Sequence[Any], clients: dict[str, Any], turns: int, name: str = ""
) -> Iterator[str]:
    """Rows of the table: what scoring takes in each place, by turns."""
    seconds: dict[str, list[float]] = {where: [] for where in clients}
    scores: dict[str, mha.HeadScores] = {}
    for _ in range(turns):
        for where, client in clients.items():
            begin = time.perf_counter()
            scores[where] = mha.score(model, batches, _loss, criterion, cluster=client)
            seconds[where].append(time.perf_counter() - begin)
    for where, times in seconds.items():
        spread = f"{median(times):.2f} [{min(times):.2f}, {max(times):.2f}]"
        share, apart = median(times) / median(seconds[HERE]), _difference(scores[where], scores[HERE])
        yield f"| {name or criterion} | {where} | {spread} | {share:.2f} | {apart:.0e} |"


def _difference(one: mha.HeadScores, other: mha.HeadScores) -> float:
    """The largest difference of two scores of a head, relative to the largest score of its layer."""
    return max(float((row - other[name]).abs().max() / other[name].abs().max()) for name, row in one.items())


def _encoder(width: int, layers: int, heads: int) -> nn.Module:
    """An encoder with random weights."""
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    """How far the encoder moves its input, the mean over examples."""
    moved: Tensor = (model(x) - x).square().mean()
    return moved


@contextmanager
def _clients(workers: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield name -> a client of so many workers of one thread on this machine, None for none; all have run a shard."""
    distributed = needed("distributed", "cluster", "to measure on a cluster")
    clients: dict[str, Any] = {HERE: None}
    try:
        for count in workers:
            cluster = distributed.LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=50,
            )
            clients[f"{count} {'worker' if count == 1 else 'workers'}"] = distributed.Client(cluster)
        for client in clients.values():
            batches = [torch.randn(2, 3, 8) for _ in range(8)]
            mha.score(_encoder(8, 1, 2), batches, _loss, "fisher", cluster=client)
        yield clients
    finally:
        for client in clients.values():
            if client is not None:
                cluster = client.cluster
                client.close()
                cluster.close()


if __name__ == "__main__":
    main()
