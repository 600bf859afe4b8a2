"""One model type on trial: found, pruned in several ways, compared with masking, saved and loaded.

`prove(model_type)` gives one row of docs/families.md. A check that does not apply to the type stays empty there.
"""

import copy
import pickle
import random
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import mha
from mha.pruning import cut
from mha.pruning.weight_axes import sliced_axes
from mha.values.layout import kept_indices, width
from tools.model_zoo.zoo import NotBuilt, Specimen, build, build_generating, generate, run, tensors

ATOL = 1e-9  # float64
CHECKS = ("uneven", "zero_head", "twice", "count", "gradients", "untouched", "sabotage", "save_load", "cache")


def prove(model_type: str, checks: Collection[str] = CHECKS) -> dict[str, Any]:
    """The row of a type: how far it came, what was found, and each check's outcome ("ok" or what went wrong)."""
    row: dict[str, Any] = {"type": model_type}
    try:
        specimen = build(model_type)
    except NotBuilt as reason:
        return row | {"status": "not built", "reason": str(reason)}
    try:
        expected = [part for part in tensors(run(specimen)) if part.is_floating_point()]
    except Exception as error:
        return row | {"status": "not run", "reason": _short(error)}
    if not all(part.isfinite().all() for part in expected):
        return row | {"status": "not run", "reason": "output is not finite"}
    layers = mha.find_attention(specimen.model)
    row |= _facts(layers)
    if not layers:
        status = "refused" if layers.unsupported else "no attention"
        return row | {"status": status, "reason": _reasons(layers)}
    unseen = _unseen(specimen, layers) if "sabotage" in checks else []
    row["unseen"] = len(unseen)
    every = _checks(model_type, unseen)
    row |= {name: _outcome(every[name], specimen, layers) for name in checks}
    failed = [name for name in checks if row[name] not in ("ok", "")]
    return row | {"status": "failed" if failed else "proven", "reason": ", ".join(failed) or _reasons(layers)}


def _checks(model_type: str, unseen: Collection[str]) -> dict[str, Callable[[Specimen, mha.AttentionMap], str | None]]:
    return {
        "uneven": lambda specimen, layers: _same(specimen, _random_plan(layers, model_type)),
        "zero_head": lambda specimen, layers: _zero_head(specimen, _without_first(layers, model_type)),
        "twice": _twice,
        "count": _count,
        "gradients": _gradients,
        "untouched": _untouched,
        "sabotage": lambda specimen, layers: _sabotage(specimen, layers, unseen),
        "save_load": _save_load,
        "cache": _cache,
    }


def _outcome(check: Callable[[Specimen, mha.AttentionMap], str | None], specimen: Specimen, layers: Any) -> str:
    try:
        return check(specimen, layers) or "ok"
    except NotBuilt:
        return ""
    except Exception as error:
        return _short(error)


def _facts(layers: mha.AttentionMap) -> dict[str, Any]:
    every = list(layers.values())
    return {
        "conventions": " | ".join(sorted({layer.family for layer in every})),
        "layers": len(every),
        "heads": sum(layer.num_heads for layer in every),
        "grouped": any(layer.num_kv_heads < layer.num_heads for layer in every),
        "unsupported": len(layers.unsupported),
    }


def _reasons(layers: mha.AttentionMap) -> str:
    reasons = {why.partition("; describe it")[0] for why in layers.unsupported.values()}
    return "; ".join(sorted(reasons))


def _random_plan(layers: mha.AttentionMap, seed: str, share: float = 0.6) -> mha.HeadPlan:
    """A random plan, feasible and uneven: some groups of each layer keep heads, each the same number of them."""
    draw = random.Random(seed)
    keep = {}
    for name, layer in layers.items():
        per_group = layer.num_heads // max(layer.num_kv_heads, 1)
        groups = [group for group in range(layer.num_kv_heads) if draw.random() < share] or [layer.num_kv_heads - 1]
        each = draw.randint(1, per_group)
        chosen = [group * per_group + head for group in groups for head in draw.sample(range(per_group), each)]
        keep[name] = [layer.heads[position] for position in chosen]
    return mha.HeadPlan(keep)


def _without_first(layers: mha.AttentionMap, seed: str) -> mha.HeadPlan:
    return mha.HeadPlan({**_random_plan(layers, seed).keep, next(iter(layers)): ()})


def _difference(first: Any, second: Any) -> float:
    """The largest difference between two outputs; infinite where they differ in shape."""
    largest = 0.0
    for one, other in zip(tensors(first), tensors(second), strict=True):
        if one.shape != other.shape:
            return float("inf")
        if one.is_floating_point() and one.numel():
            largest = max(largest, (one - other).abs().max().item())
    return largest


def _masked_output(specimen: Specimen, plan: mha.HeadPlan, model: nn.Module | None = None) -> Any:
    with torch.no_grad(), mha.masked(model or specimen.model, plan):
        return run(specimen, model)


def _same(specimen: Specimen, plan: mha.HeadPlan) -> str | None:
    with torch.no_grad():
        difference = _difference(_masked_output(specimen, plan), run(specimen, mha.prune(specimen.model, plan)))
    return None if difference <= ATOL else f"differs by {difference:.2g}"


def _zero_head(specimen: Specimen, plan: mha.HeadPlan) -> str | None:
    """What is wrong when the plan empties a layer, else None.

    The model must compute what masking does, also after it was pickled, and hold no parameter of size 0.
    """
    pruned = mha.prune(specimen.model, plan)
    if empty := [name for name, tensor in pruned.named_parameters() if not tensor.numel()]:
        return f"{empty[0]} has size 0"
    if _can_be_pickled(specimen.model):
        pruned = pickle.loads(pickle.dumps(pruned))
    with torch.no_grad():
        difference = _difference(_masked_output(specimen, plan), run(specimen, pruned))
    return None if difference <= ATOL else f"differs by {difference:.2g}"


def _can_be_pickled(model: nn.Module) -> bool:
    """Whether a model can be pickled.

    Some can't, pruned or not: parametrized ones, and those into which transformers has put hooks by running them.
    """
    try:
        pickle.dumps(model)
    except Exception:
        return False
    return True


def _twice(specimen: Specimen, layers: mha.AttentionMap) -> str | None:
    first = _random_plan(layers, "first", share=0.9)
    once = mha.prune(specimen.model, first)
    second = _random_plan(mha.find_attention(once), "second")
    again = mha.prune(once, second)
    if mha.plan_of(again) != second:
        return "plan_of does not give the plan back"
    with torch.no_grad():
        difference = _difference(_masked_output(specimen, second), run(specimen, again))
    return None if difference <= ATOL else f"differs by {difference:.2g}"


def _count(specimen: Specimen, layers: mha.AttentionMap) -> str | None:
    """What is wrong, else None: the model must lose exactly the parameters where the plan drops heads or groups."""
    plan = _random_plan(layers, specimen.model_type)
    before = sum(parameter.numel() for parameter in specimen.model.parameters())
    after = sum(parameter.numel() for parameter in mha.prune(specimen.model, plan).parameters())
    falls = sum(_falls(layers[name], heads) for name, heads in plan.keep.items())
    return None if before - after == falls else f"{before - after} parameters fewer, predicted {falls}"


def _falls(layer: mha.AttentionLayer, heads: tuple[int, ...]) -> int:
    per_group = layer.num_heads // layer.num_kv_heads
    groups = sorted({head // per_group for head in heads})
    total = 0
    for name, axes in sliced_axes(layer).items():
        size = left = dict(layer.module.named_parameters()).get(name, torch.empty(0)).numel()
        for axis in axes.values():
            left = left * len(kept_indices(axis, layer.sizes, heads, groups)) // width(axis, layer.sizes)
        total += size - left
    return total


def _gradients(specimen: Specimen, layers: mha.AttentionMap) -> str | None:
    dense = copy.deepcopy(specimen.model)
    if not _backward(run(specimen, dense)):
        raise NotBuilt("the dense model runs without gradients")
    pruned = mha.prune(specimen.model, _random_plan(layers, specimen.model_type))
    if not _backward(run(specimen, pruned)):
        return "no output depends on a parameter"
    for (name, ours), (_, theirs) in zip(pruned.named_parameters(), dense.named_parameters(), strict=True):
        if (ours.grad is None) != (theirs.grad is None):
            return f"{name}: a gradient in only one of dense and pruned"
        if ours.grad is not None and not ours.grad.isfinite().all():
            return f"{name}: gradient not finite"
    return None


def _backward(output: Any) -> bool:
    """Send gradients back from all of an output; False where none of it depends on a parameter."""
    parts = [part for part in tensors(output) if part.is_floating_point() and part.requires_grad]
    if parts:
        torch.stack([part.square().sum() for part in parts]).sum().backward()
    return bool(parts)


def _untouched(specimen: Specimen, layers: mha.AttentionMap) -> str | None:
    before = {name: value.clone() for name, value in specimen.model.state_dict().items()}
    mha.prune(specimen.model, _without_first(layers, "untouched"))
    same = all(torch.equal(before[name], value) for name, value in specimen.model.state_dict().items())
    return None if same and mha.plan_of(specimen.model) == mha.HeadPlan({}) else "the original changed"


def _unseen(specimen: Specimen, layers: mha.AttentionMap) -> list[str]:
    """The names of layers without whose heads the output is the same, so that it can't show a wrong head there."""
    with torch.no_grad():
        whole = run(specimen)
        masked = ((name, _masked_output(specimen, mha.HeadPlan({name: ()}))) for name in layers)
        return [name for name, output in masked if _difference(output, whole) == 0]


def _sabotage(specimen: Specimen, layers: mha.AttentionMap, unseen: Collection[str]) -> str | None:
    """What is wrong, else None: with a wrong head sliced, the output must differ, for each layer that affects it."""
    with torch.no_grad():
        for name, layer in layers.items():
            if name in unseen or layer.num_kv_heads < 2:
                continue  # one group has no neighbour
            plan = mha.HeadPlan({name: [layer.num_heads // layer.num_kv_heads]})
            with _wrong_neighbour():
                wrong = mha.prune(specimen.model, plan)
            if _difference(_masked_output(specimen, plan), run(specimen, wrong)) <= ATOL:
                return f"{name}: a wrong head makes no difference"
    return "no layer shows in the output" if len(unseen) == len(layers) else None


@contextmanager
def _wrong_neighbour() -> Iterator[None]:
    honest = cut.kept_indices
    cut.kept_indices = lambda axis, sizes, heads, groups: honest(axis, sizes, [0] * len(heads), [0] * len(groups))
    try:
        yield
    finally:
        cut.kept_indices = honest


def _save_load(specimen: Specimen, layers: mha.AttentionMap) -> str | None:
    pruned = mha.prune(specimen.model, _without_first(layers, specimen.model_type))
    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        mha.save_pruned(pruned, directory)
        difference = _difference(run(specimen, pruned), run(specimen, mha.from_pretrained(directory)))
    return None if difference == 0 else f"differs by {difference:.2g}"


def _cache(specimen: Specimen, layers: mha.AttentionMap) -> str | None:  # noqa: ARG001
    if not specimen.generates:
        raise NotBuilt("does not generate")
    generating = build_generating(specimen.model_type)
    try:
        generate(generating, cache="dynamic")
    except Exception as error:
        raise NotBuilt("the dense model does not generate here") from error
    found = mha.find_attention(generating.model)
    pruned = mha.prune(generating.model, _without_first(found, "cache"))
    plain = generate(generating, pruned, cache=None)
    for kind in ("dynamic", "static"):
        try:
            generate(generating, cache=kind)  # type: ignore[arg-type]
        except Exception:
            continue  # the dense model has no such cache
        difference = (generate(generating, pruned, cache=kind) - plain).abs().max().item()  # type: ignore[arg-type]
        dense = (generate(generating, cache=kind) - generate(generating, cache=None)).abs().max().item()  # type: ignore[arg-type]
        if difference > max(ATOL, 10 * dense):
            return f"{kind}: differs by {difference:.2g} (dense: {dense:.2g})"
    return None


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:160]
