"""ONNX, proved in ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mha.exporting import transformers_exporters
from mha.exporting.decoding import Decoder
from mha.exporting.registry import Format, Run, Sizes, Wish, register_format
from mha.exporting.transformers_exporters import EXTRA, PACKAGES


class Onnx(Format):
    """model.onnx and its weights in model.onnx.data; with int8 by ONNX Runtime's dynamic quantisation."""

    name = "onnx"
    runtime = "onnxruntime"
    packages: Mapping[str, str] = {**PACKAGES, "onnx": EXTRA, "onnxscript": EXTRA, "onnxruntime": EXTRA}
    takes_int8 = True
    traced = True
    takes_cache = True

    def write(self, wish: Wish, directory: Path) -> Sizes:
        from transformers.exporters import OnnxConfig
        from transformers.exporters.exporter_onnx import OnnxExporter
        from transformers.exporters.quantizers import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

        quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig()) if wish.int8 else None
        config = OnnxConfig(dynamic=True, quantizer=quantizer)
        return transformers_exporters.write(wish, directory, OnnxExporter, config)

    def open(self, directory: Path) -> Run:
        return transformers_exporters.run(directory, session_options=_options())

    def decoder(self, directory: Path, sizes: Sizes) -> Decoder:
        return transformers_exporters.decoder(directory, sizes, session_options=_options())


def _options() -> Any:
    """As many threads as torch has, which rest between calls: else they spin while others run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


register_format(Onnx())
