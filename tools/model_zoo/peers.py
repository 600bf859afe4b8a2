"""What two peers prune of the same tiny models: `nox -s peers`.

`prune_heads` of transformers 4, which transformers 5 no longer has, is called on that release's own classes.
Torch-Pruning is told everything that its users must tell it: which linears hold heads and how many, and afterwards
every attribute that counts heads is set for it. Both are judged as `mha` is: parameters fall, the model runs, and its
output is that of the dense model in which the columns that left the output projections are zero.
"""

import argparse
import copy
import csv
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

if transformers.__version__.startswith("4."):  # names that the zoo knows from transformers 5
    transformers.PreTrainedConfig = transformers.PretrainedConfig
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES = {}
    from tools.model_zoo import configs

    configs._fields = lambda config: (  # there a configuration is no dataclass yet
        (name, getattr(config, name)) for name in inspect.signature(type(config)).parameters if hasattr(config, name)
    )
    shrunk_part = configs._shrunk_part
    configs._shrunk_part = lambda *given: (  # and its parts are given as dictionaries
        part.to_dict() if isinstance(part := shrunk_part(*given), transformers.PreTrainedConfig) else part
    )

from mha.families.fused_projections import FUSED
from mha.families.reading.explain import COUNTS
from mha.families.separate_projections import PROJECTIONS
from tools.model_zoo.precision import DoublePrecision
from tools.model_zoo.table import PEERS_FILE
from tools.model_zoo.walk import walk
from tools.model_zoo.zoo import Specimen, build, model_types, run, tensors

ATOL = 1e-9  # float64, as for mha
PEERS = {"prune_heads": "transformers", "torch_pruning": "torch-pruning"}  # peer -> the package it is in
COLUMNS = ("peer", "version", "type", "outcome")


def main(arguments: Sequence[str] | None = None) -> None:
    """Try one peer on every model type, and put its outcomes into the file in place of earlier ones."""
    parser = argparse.ArgumentParser(prog="nox -s peers --", description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--rows", type=Path, default=None, help="default: runs/families-PEER.jsonl")
    parser.add_argument("--only", nargs="+", choices=model_types(), default=model_types(), metavar="TYPE")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=120, help="time limit for each type")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs", PEERS_FILE))
    options = parser.parse_args(arguments)
    rows = walk(
        {"prune_heads": prune_heads, "torch_pruning": torch_pruning}[options.peer],
        options.only,
        options.rows or Path("runs", f"families-{options.peer}.jsonl"),
        jobs=options.jobs,
        seconds=options.seconds,
    )
    write(options.peer, rows, options.output)


def write(peer: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
    others = [row for row in read(path) if row["peer"] != peer]
    version = importlib.metadata.version(PEERS[peer])
    ours = [{"peer": peer, "version": version, "type": row["type"], "outcome": _outcome(row)} for row in rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*others, *ours], key=lambda row: (row["peer"], row["type"])))


def read(path: Path) -> list[dict[str, str]]:
    """The rows of the file of outcomes; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _outcome(row: dict[str, Any]) -> str:
    return str(row.get("outcome") or f"{row['status']}: {row['reason']}")


def prune_heads(model_type: str) -> dict[str, str]:
    """The row of a type after its own method `prune_heads` (transformers 4) took one head from every layer."""

    def prune(specimen: Specimen, model: Any) -> None:  # noqa: ARG001
        layers = getattr(model.config, "num_hidden_layers", None) or getattr(model.config, "encoder_layers", 1)
        model.prune_heads({layer: [1] for layer in range(layers)})

    return _trial(model_type, prune)


def torch_pruning(model_type: str) -> dict[str, str]:
    """The row of a type after Torch-Pruning took half of the heads of every layer or, if that failed, a tenth."""
    half = _torch_pruning(model_type, 0.5)
    few = _torch_pruning(model_type, 0.1) if half["outcome"] != "ok" else half
    return few if few["outcome"] == "ok" else half


def _torch_pruning(model_type: str, share: float) -> dict[str, str]:
    import torch_pruning as tp

    def prune(specimen: Specimen, model: nn.Module) -> None:
        heads = dict(_linears_with_heads(model))
        if not heads:
            raise ValueError("no linears of attention are known by name")
        before = {linear: linear.weight.shape for linear in heads}
        copied = copy.deepcopy(specimen)
        pruner = tp.pruner.BasePruner(
            model,
            copied.inputs,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,  # of nothing but attention; without it no head is looked at
            ignored_layers=[part for part in model.modules() if part not in heads and not [*part.children()]],
            head_pruning_ratio=share,
            prune_num_heads=True,
            prune_head_dims=False,
            num_heads=dict(heads),
            forward_fn=lambda model, _: run(copied, model),
            output_transform=lambda output: sum(t.sum() for t in tensors(output) if t.requires_grad),
            root_module_types=[nn.Linear],
        )
        pruner.step()
        for module in model.modules():
            for query, *keys in _projections(module):
                if query in before:
                    _set_counts(module, before[query][0], query.weight.shape[0])
                if keys and "num_key_value_groups" in vars(module):
                    groups = query.weight.shape[0] // keys[0].weight.shape[0]
                    module.num_key_value_groups = groups  # type: ignore[assignment]

    return _trial(model_type, prune)


def _trial(model_type: str, prune: Callable[[Specimen, nn.Module], None]) -> dict[str, str]:
    """The row of a type whose model was pruned by calling `prune`; its outcome is "ok", or what went wrong."""
    try:
        specimen = build(model_type)
        run(specimen)
    except Exception as error:
        return {"type": model_type, "outcome": f"not run: {_short(error)}"}
    try:
        model = copy.deepcopy(specimen.model)
        with DoublePrecision():  # what it makes anew is of the model's type
            prune(specimen, model)
        return {"type": model_type, "outcome": _judge(specimen, model)}
    except Exception as error:
        return {"type": model_type, "outcome": _short(error)}


def _judge(specimen: Specimen, pruned: nn.Module) -> str:
    count = [sum(parameter.numel() for parameter in model.parameters()) for model in (specimen.model, pruned)]
    if count[0] == count[1]:
        return "nothing was pruned"
    with torch.no_grad():
        masked = list(tensors(run(specimen, without_columns(specimen.model, pruned))))
        sliced = list(tensors(run(specimen, pruned)))
    for one, other in zip(masked, sliced, strict=True):
        if one.shape != other.shape:
            return "its output has another shape"
        if one.is_floating_point() and one.numel() and not (one - other).abs().max() <= ATOL:
            return "its output is not that of the model without these heads"
    return "ok"


def without_columns(dense: nn.Module, pruned: nn.Module) -> nn.Module:
    """A copy of the dense model, with zeros in the columns of each weight that the pruned model has lost.

    Raises:
        ValueError: columns of a pruned weight are not some of the dense one's.
    """
    masked = copy.deepcopy(dense)
    for name, module in pruned.named_modules():
        if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.dim() == 2:
            whole = masked.get_submodule(name).get_parameter("weight")
            if type(module).__name__ == "Conv1D":
                weight, whole = weight.T, whole.T
            if weight.shape[1] < whole.shape[1] and weight.shape[0] == whole.shape[0]:
                whole.data[:, _missing(whole, weight, name)] = 0
    return masked


def _missing(whole: Tensor, part: Tensor, name: str) -> Tensor:
    """True for each column of `whole` that is not among the columns of `part`; an error calls the weight `name`."""
    same = (whole.T.unsqueeze(1) == part.T.unsqueeze(0)).all(dim=-1)  # (whole's, part's)
    if not same.any(dim=0).all():
        raise ValueError(f"columns of {name} were changed")
    return ~same.any(dim=1)


def _projections(module: nn.Module) -> Iterator[list[nn.Linear]]:
    """Yield a module's linears that are named like attention's: query, key and value, or one for all three."""
    children = dict(module.named_children())
    for names in (*PROJECTIONS, *((name,) for name in FUSED)):
        if all(isinstance(children.get(name), nn.Linear) for name in names):
            yield [children[name] for name in names]  # type: ignore[misc]


def _linears_with_heads(model: nn.Module) -> Iterator[tuple[nn.Linear, int]]:
    """Every linear of attention, and how many heads it has by the attributes of its module."""
    for module in model.modules():
        heads, groups = _count(module, "h g"), _count(module, "h")
        for query, *others in _projections(module):
            if heads:
                yield query, heads
                yield from ((other, groups or heads) for other in others)


def _count(module: nn.Module, letters: str) -> int | None:
    own = vars(module)
    config = getattr(module, "config", None)
    names = [name for name in COUNTS if COUNTS[name] == letters]
    return next((own[name] for name in names if isinstance(own.get(name), int)), None) or next(
        (value for name in names if isinstance(value := getattr(config, name, None), int)), None
    )


def _set_counts(module: nn.Module, before: int, after: int) -> None:
    """Scale a module's counts of query heads, and their total width, as its query rows went from before to after."""
    for name in (*COUNTS, "embed_dim", "split_size"):
        value = vars(module).get(name)
        if isinstance(value, int) and COUNTS.get(name) not in ("g", "h", "h d") and value * after % before == 0:
            setattr(module, name, value * after // before)


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:120]


if __name__ == "__main__":
    main()
