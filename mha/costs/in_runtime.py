"""Modules measured where they will run: exported to the format of a runtime, and called there."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

from mha.costs.capture import CallArguments
from mha.exporting.export import export
from mha.exporting.exported import version_of
from mha.exporting.inputs import named, tensors_of
from mha.exporting.registry import find_format
from mha.values.errors import CostsError
from mha.values.unknown_words import unknown

MEASURED = "torch", "onnx", "openvino"  # formats that take a layer by itself


class InRuntime:
    """Makes modules callable in a runtime, for as long as it is open.

    Args:
        name: of a format that takes any module.

    Raises:
        CostsError: it is none of `MEASURED`.

    Example:
        >>> with InRuntime("torch") as runtime:  # doctest: +SKIP
        ...     ready = runtime.readied(layer, CallArguments((x, x, x)))
    """

    def __init__(self, name: str) -> None:
        if name not in MEASURED:
            raise CostsError(unknown("runtime to measure in", name, MEASURED))
        self.name = name
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._exported, self._spent = 0, 0.0

    def __enter__(self) -> "InRuntime":
        self._folder = tempfile.TemporaryDirectory(prefix="mha-costs-")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._folder is not None
        self._folder.cleanup()

    @property
    def version(self) -> str:
        """The runtime's package with its version, as "onnxruntime 1.32.0"."""
        package = find_format(self.name).runtime
        return f"{package} {version_of(package)}"

    def clock(self) -> float:
        """Seconds, by `time.perf_counter`, that exporting has no part in."""
        return time.perf_counter() - self._spent

    def readied(self, module: nn.Module, call: CallArguments) -> Callable[[], Callable[[], object]]:
        """A function for `Rounds`, as `mha.costs.measured.readied` makes one, whose calls run in the runtime.

        Raises:
            ExportError, MissingPackageError: the module can't be exported with these arguments.
        """
        assert self._folder is not None
        start = time.perf_counter()
        args, kwargs = call.fresh()
        self._exported += 1
        files = export(module, self.name, Path(self._folder.name, str(self._exported)), example=(args, kwargs))
        run = files.load()
        inputs = tensors_of(named(module, (args, kwargs)))
        self._spent += time.perf_counter() - start
        return lambda: lambda: run(inputs)
