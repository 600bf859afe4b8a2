"""What a model holds that a checkpoint has to say: tensors by all of their names, and which heads its layers have."""

from torch import Tensor, nn

from mha.families import find_attention
from mha.values.plan import Lineage, lineage_of


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor, for every parameter and buffer, whether a state dict would have it or not.

    A tensor that several submodules hold is there under all of its names.
    """
    parameters = dict[str, Tensor](model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def non_persistent(model: nn.Module) -> set[str]:
    """Names of the buffers that a state dict leaves out: the model makes them again, some of them while it runs."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }


def lineages(model: nn.Module) -> dict[str, Lineage]:
    """Name of a layer -> its lineage, for every layer that pruning has named so far.

    It is read off the modules, so that no family need recognise what is left of them.
    """
    of_modules = {name: lineage_of(module) for name, module in model.named_modules()}
    return {name: lineage for name, lineage in of_modules.items() if lineage is not None}


def original_heads(model: nn.Module) -> dict[str, dict[str, int]]:
    """Name of a layer -> {"heads": how many query heads it was made with, "groups": how many key/value groups}."""
    of_layers = {name: layer.lineage for name, layer in find_attention(model).items()}
    return {
        name: {"heads": lineage.total_heads, "groups": lineage.total_groups}
        for name, lineage in {**of_layers, **lineages(model)}.items()
    }
