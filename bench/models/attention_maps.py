"""The attention weights of held-out examples, before and after pruning."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mha
from bench.models.experiment import Experiment


def attention_maps(experiment: Experiment, plan: mha.HeadPlan, plan_name: str) -> dict[str, np.ndarray]:
    """A task's arrays in `attention.npz`, by name, for the dense model and the one that the plan prunes.

    TASK/plan has the plan's name, TASK/NUMBER/name that of an example. TASK/NUMBER/LAYER/ has `dense` and `pruned`
    (attention weights (h, q, k) of the heads that each model has), `heads` (those that the plan keeps), `queries` and
    `keys` (labels). Where the task offers no examples there is only TASK/plan.
    """
    task = experiment.task.name
    arrays = {f"{task}/plan": np.array(plan_name)}
    offer: Any = getattr(experiment.task, "attention_examples", dict)  # tasks need not have it
    examples = offer()
    if not examples:
        return arrays
    models = experiment.model(), experiment.pruned(plan)
    for number, (name, (batch, labels)) in enumerate(examples.items()):
        arrays[f"{task}/{number}/name"] = np.array(name)
        dense, pruned = (_weights(experiment, model, batch) for model in models)
        for layer, (queries, keys) in labels.items():
            parts = {
                "dense": dense[layer],
                "pruned": pruned[layer],
                "heads": np.array(plan.keep[layer], dtype=np.int64),
                "queries": np.array(queries, dtype=str),
                "keys": np.array(keys, dtype=str),
            }
            arrays |= {f"{task}/{number}/{layer}/{part}": array for part, array in parts.items()}
    return arrays


@contextmanager
def recorded_weights(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within the context every `MultiHeadAttention` puts the weights (b, h, q, k) of its latest call in the mapping.

    Its keys are the layers' names. Meanwhile the model computes explicit weights, and returns what it always returns.
    """
    weights: dict[str, Tensor] = {}
    layers = {name: module for name, module in model.named_modules() if isinstance(module, mha.MultiHeadAttention)}
    for name, module in layers.items():
        module.forward = _leaving_weights(module.forward, weights, name)  # type: ignore[method-assign]
    try:
        yield weights
    finally:
        for module in layers.values():
            del module.forward  # the class's own shows again


def _leaving_weights(forward: Callable[..., Any], weights: dict[str, Tensor], name: str) -> Callable[..., Any]:
    def leaving(*args: Any, need_weights: bool = False, **kwargs: Any) -> Any:
        output, weights[name] = forward(*args, **kwargs, need_weights=True)
        return (output, weights[name]) if need_weights else output

    return leaving


def _weights(experiment: Experiment, model: nn.Module, batch: Any) -> dict[str, np.ndarray]:
    """Name of each `MultiHeadAttention` of the model -> its weights (h, q, k) for the first example of a batch."""
    with recorded_weights(model) as weights, torch.inference_mode():
        experiment.task.forward(model, batch)
    return {name: tensor[0].float().numpy() for name, tensor in weights.items()}
