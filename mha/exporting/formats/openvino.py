"""OpenVINO's intermediate representation, proved in OpenVINO on the CPU in the precision of the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mha.exporting import transformers_exporters
from mha.exporting.decoding import Decoder
from mha.exporting.registry import Format, Run, Sizes, Wish, register_format
from mha.exporting.transformers_exporters import EXTRA, PACKAGES
from mha.values.optional_packages import needed

FULL = {"INFERENCE_PRECISION_HINT": "f32"}  # else it computes in half precision where the CPU can


class OpenVino(Format):
    """openvino_model.xml and its weights in openvino_model.bin; with int8 by NNCF's compression of weights.

    The cache of a decoder is state within the model, as OpenVINO's own pipelines for generation expect. That of an
    encoder-decoder comes out of one program and goes into another, so it is handed over.
    """

    name = "openvino"
    runtime = "openvino"
    packages: Mapping[str, str] = {**PACKAGES, "openvino": EXTRA}
    takes_int8 = True
    traced = True
    takes_cache = True

    def write(self, wish: Wish, directory: Path) -> Sizes:
        from transformers.exporters import OpenVINOConfig
        from transformers.exporters.exporter_openvino import OpenVINOExporter

        quantizer = None
        if wish.int8:
            needed("nncf", EXTRA, "to compress weights for OpenVINO")
            from transformers.exporters.quantizers import NNCFOpenVINOQuantizer, NNCFWeightCompressionConfig

            quantizer = NNCFOpenVINOQuantizer(NNCFWeightCompressionConfig())
        stateful = not getattr(getattr(wish.model, "config", None), "is_encoder_decoder", False)
        config = OpenVINOConfig(dynamic=True, quantizer=quantizer, stateful=stateful)
        return transformers_exporters.write(wish, directory, OpenVINOExporter, config)

    def open(self, directory: Path) -> Run:
        return transformers_exporters.run(directory, config=_options())

    def decoder(self, directory: Path, sizes: Sizes) -> Decoder:
        return transformers_exporters.decoder(directory, sizes, _Stateful, config=_options())


def _options() -> dict[str, Any]:
    """Full precision, and as many threads as torch has."""
    return {**FULL, "INFERENCE_NUM_THREADS": torch.get_num_threads()}


class _Stateful:
    """A program whose cache is state within it.

    Args:
        runner: transformers' own; its model was compiled.
    """

    def __init__(self, runner: Any) -> None:
        self._compiled, self._request = runner.compiled_model, runner.request

    def __call__(self, inputs: Mapping[str, Tensor], *, first: bool) -> Tensor:
        from transformers.exporters.utils import openvino_feed

        if first:
            self._request.reset_state()
        outputs = self._request.infer(openvino_feed(self._compiled, dict(inputs)))
        return torch.from_numpy(outputs["logits"])


register_format(OpenVino())
