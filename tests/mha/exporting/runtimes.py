"""Runtimes that may not be installed, and what their tests need."""

import importlib.util

import pytest

RUNTIMES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
OTHERS = {**RUNTIMES, "executorch": ("executorch",)}
PACKAGES = {**OTHERS, "onnx int8": RUNTIMES["onnx"], "openvino int8": ("openvino", "nncf"), "torch int8": ("torchao",)}


def needs_packages(name):
    extra = "executorch" if name == "executorch" else "export"
    for package in PACKAGES.get(name, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'mha[{extra}]'; nox -s exports")
