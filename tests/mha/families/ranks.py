"""One of two ranks that train a model, prune it, and go on: `python -m tests.mha.families.ranks STORE RANK`."""

import copy
import json
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import mha

PLAN = mha.HeadPlan({"attention": (1, 3)})


class Alone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = mha.MultiHeadAttention.square(13, 5, head_dim=7)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, rank: int) -> None:
    """Train the model for some steps, on other data on each rank."""
    generator = torch.Generator().manual_seed(rank)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(3, 11, 13, generator=generator)
        (model(x) - x.flip(0)).square().mean().backward()
        optimizer.step()


def apart(model: nn.Module) -> float:
    """The largest difference of a parameter between the ranks."""
    differences = []
    for parameter in model.parameters():
        both = [torch.empty_like(parameter) for _ in range(2)]
        dist.all_gather(both, parameter.detach().contiguous())
        differences.append((both[0] - both[1]).abs().max().item())
    return max(differences)


def main(store: str, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(2)
    replicated = DistributedDataParallel(Alone())
    optimizer = torch.optim.SGD(replicated.parameters(), lr=0.1, momentum=0.9)
    train(replicated, optimizer, 3, rank)
    pruned = mha.prune(replicated, PLAN)
    alone = copy.deepcopy(pruned)
    again = DistributedDataParallel(pruned)
    train(again, mha.slice_optimizer(optimizer, replicated, pruned), 3, rank)
    train(alone, torch.optim.SGD(alone.parameters(), lr=0.1), 3, rank)
    json.dump({"wrapped anew": apart(again), "not wrapped": apart(alone)}, sys.stdout)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
