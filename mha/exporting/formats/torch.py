"""`torch.export`: a traced program, which torch runs, compiles ahead of time, or lowers further."""

from collections.abc import Mapping
from pathlib import Path

from mha.exporting import transformers_exporters
from mha.exporting.decoding import Decoder
from mha.exporting.registry import Format, Run, Sizes, Wish, register_format
from mha.exporting.transformers_exporters import EXTRA
from mha.values.optional_packages import needed


class Torch(Format):
    """model.pt2, written by `torch.export.save`; with int8 by torchao's weights of 8 bits, computed with in full."""

    name = "torch"
    runtime = "torch"
    packages: Mapping[str, str] = transformers_exporters.PACKAGES
    takes_int8 = True
    traced = True
    takes_cache = True

    def write(self, wish: Wish, directory: Path) -> Sizes:
        from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter

        if wish.int8:
            needed("torchao", EXTRA, "to have weights of 8 bits in torch")
            with transformers_exporters.quietly():
                from torchao.quantization import Int8WeightOnlyConfig, quantize_

                quantize_(wish.model, Int8WeightOnlyConfig())
        return transformers_exporters.write(wish, directory, DynamoExporter, DynamoConfig(dynamic=True))

    def open(self, directory: Path) -> Run:
        return transformers_exporters.run(directory)

    def decoder(self, directory: Path, sizes: Sizes) -> Decoder:
        return transformers_exporters.decoder(directory, sizes)


register_format(Torch())
