"""ExecuTorch, for phones and other small devices, proved in its runtime on the CPU (XNNPACK)."""

from collections.abc import Mapping
from pathlib import Path

from mha.exporting import transformers_exporters
from mha.exporting.registry import Format, Run, Sizes, Wish, register_format


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

        return transformers_exporters.write(wish, directory, ExecutorchExporter, ExecutorchConfig(dynamic=True))

    def open(self, directory: Path) -> Run:
        return transformers_exporters.run(directory)


register_format(ExecuTorch())
