"""ExecuTorch, for phones and other small devices, proved in its runtime on the CPU (XNNPACK)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mha.exporting import transformers_exporters
from mha.exporting.inputs import tensors_of
from mha.exporting.registry import Format, Inputs, Run, Sizes, Wish, register_format
from mha.runtime.undoing import Setting

LARGEST = 8, 256  # batch and every other open size, unless the example has more: memory is planned for their product


def _verifier() -> Any:
    from executorch.exir.verification import verifier

    return verifier


def _no_check(_: object) -> None:
    """In place of a check that ExecuTorch 1.4.1 makes of a program's dtypes.

    Of an operator that returns a list, as `split` does, it asks the first tensor for its length, which fixes the batch
    of every model with fused queries, keys and values. What is wrong in a program, the proof in the runtime finds.
    """


_CHECK = "_check_tensor_args_matching_op_allowed_dtype"
_DTYPE_CHECK = Setting(lambda: getattr(_verifier(), _CHECK), lambda check: setattr(_verifier(), _CHECK, check))


class ExecuTorch(Format):
    """model.pte, whose products of matrices are XNNPACK's."""

    name = "executorch"
    runtime = "executorch"
    packages: Mapping[str, str] = {
        **dict.fromkeys(transformers_exporters.PACKAGES, "executorch"),
        "executorch": "executorch",
    }
    takes_int8 = False
    traced = True

    def write(self, wish: Wish, directory: Path) -> Sizes:
        from transformers.exporters import ExecutorchConfig
        from transformers.exporters.exporter_executorch import ExecutorchExporter

        config = ExecutorchConfig(dynamic=True)
        with _DTYPE_CHECK.at(_no_check):
            return transformers_exporters.write(wish, directory, ExecutorchExporter, config, self.largest(wish.inputs))

    def largest(self, inputs: Inputs) -> Mapping[str, list[int]]:
        return {name: _largest(value) for name, value in tensors_of(inputs).items()}

    def open(self, directory: Path) -> Run:
        return transformers_exporters.run(directory)


def _largest(value: Tensor) -> list[int]:
    """The most that each size of an input like this one may be."""
    return [max(size, LARGEST[min(axis, 1)]) for axis, size in enumerate(value.shape)]


register_format(ExecuTorch())
