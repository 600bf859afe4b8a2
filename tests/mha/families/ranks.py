"""One of two ranks that train models, and prune one on the way: `python -m tests.mha.families.ranks STORE FOLDER RANK`.

FOLDER is the directory of a pruned `stack()`; beside it, in `trained`, is written what sharded training made.
"""

import copy
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import mha

PLAN = mha.HeadPlan({"attention": (1, 3)})


class Alone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = mha.MultiHeadAttention.square(13, 5, head_dim=7)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x)


def stack() -> nn.Sequential:
    """Three layers in float64."""
    torch.manual_seed(3)
    return nn.Sequential(Alone(), Alone(), Alone()).double()


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


def pruned_on_the_way(rank: int) -> dict[str, float]:
    """How far apart the ranks are after a replicated model was pruned and trained on, wrapped anew or not."""
    torch.manual_seed(2)
    replicated = DistributedDataParallel(Alone())
    optimizer = torch.optim.SGD(replicated.parameters(), lr=0.1, momentum=0.9)
    train(replicated, optimizer, 3, rank)
    pruned = mha.prune(replicated, PLAN)
    alone = copy.deepcopy(pruned)
    again = DistributedDataParallel(pruned)
    train(again, mha.slice_optimizer(optimizer, replicated, pruned), 3, rank)
    train(alone, torch.optim.SGD(alone.parameters(), lr=0.1), 3, rank)
    return {"wrapped anew": apart(again), "not wrapped": apart(alone)}


def sharded(model: nn.Sequential) -> nn.Module:
    """The model, with every layer's parameters divided among the ranks."""
    for layer in model:
        fully_shard(layer)
    return fully_shard(model)


def step(model: nn.Module, x: Tensor) -> list[Tensor | None]:
    """Take two steps on these inputs; returns the gradients of the second."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (model(x) - x.flip(1)).square().mean().backward()
        optimizer.step()
    return [parameter.grad for parameter in model.parameters()]


def furthest(made: list, expected: list) -> float:
    """The largest difference of two lists of tensors, of which the first may be sharded."""
    whole = [one.full_tensor() if hasattr(one, "full_tensor") else one for one in made]
    return max(float((one - other).detach().abs().max()) for one, other in zip(whole, expected, strict=True))


def trained_by_both(rank: int, smaller: Path) -> dict[str, float]:
    """How far gradients and parameters of the pruned model are from those of one process that sees all examples."""
    expected = mha.load_pruned(smaller, stack())
    x = torch.randn(4, 11, 13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = step(expected, x)
    found = {}
    for name, wrap in (("replicated", DistributedDataParallel), ("sharded", sharded)):
        model = wrap(mha.load_pruned(smaller, stack()))
        found[f"gradients, {name}"] = furthest(step(model, x[rank::2]), gradients)
        found[f"parameters, {name}"] = furthest(list(model.parameters()), list(expected.parameters()))
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        whole = mha.load_pruned(smaller, stack())
        whole.load_state_dict(weights)
        mha.save_pruned(whole, smaller.parent / "trained")
        found["saved"] = furthest(list(whole.parameters()), list(expected.parameters()))
    return found


def main(store: str, smaller: str, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    json.dump(pruned_on_the_way(rank) | trained_by_both(rank, Path(smaller)), sys.stdout)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
