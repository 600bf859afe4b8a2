"""OpenVINO's intermediate representation, proved in OpenVINO on the CPU in the precision of the weights."""

from collections.abc import Mapping
from pathlib import Path

import torch

from mha.exporting import transformers_exporters
from mha.exporting.registry import Format, Run, Wish, register_format
from mha.exporting.transformers_exporters import EXTRA, PACKAGES
from mha.values.optional_packages import needed

FULL = {"INFERENCE_PRECISION_HINT": "f32"}  # else it computes in half precision where the CPU can


class OpenVino(Format):
    """openvino_model.xml and its weights in openvino_model.bin; with int8 by NNCF's compression of weights."""

    name = "openvino"
    runtime = "openvino"
    packages: Mapping[str, str] = {**PACKAGES, "openvino": EXTRA}
    takes_int8 = True
    traced = True

    def write(self, wish: Wish, directory: Path) -> dict[str, list[int | None]]:
        from transformers.exporters import OpenVINOConfig
        from transformers.exporters.exporter_openvino import OpenVINOExporter

        quantizer = None
        if wish.int8:
            needed("nncf", EXTRA, "to compress weights for OpenVINO")
            from transformers.exporters.quantizers import NNCFOpenVINOQuantizer, NNCFWeightCompressionConfig

            quantizer = NNCFOpenVINOQuantizer(NNCFWeightCompressionConfig())
        config = OpenVINOConfig(dynamic=True, quantizer=quantizer)
        return transformers_exporters.write(wish, directory, OpenVINOExporter, config)

    def open(self, directory: Path) -> Run:
        """Run it with as many threads as torch has."""
        return transformers_exporters.run(directory, config={**FULL, "INFERENCE_NUM_THREADS": torch.get_num_threads()})


register_format(OpenVino())
