"""An export on disk: its files with their digests, what wrote and what runs them, and what they are given."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from mha.exporting.decoding import CACHE
from mha.exporting.registry import Run, find_format, first_line
from mha.values.atomic_files import appears_whole
from mha.values.errors import ExportError, MhaError

FILE = "mha-export.json"
SCHEMA = 1


@dataclass(frozen=True)
class Exported:
    """A model in a format of a runtime, as `export` wrote it.

    Attributes:
        directory: where its files are.
        format: its name, as "onnx".
        files: name of each file below the directory -> SHA-256 of what was written, as hex text.
        versions: package -> the version that wrote it; that of the runtime has to be the same where it is run.
        sizes: tensor among the inputs -> its sizes, None where any size does.
        largest: tensor among the inputs -> the most that each of its open sizes may be; empty where any will do.
        constants: inputs that are no tensors, and so fixed: name -> value, as text.
        dtype: of the model's weights before they were exported.
        int8: whether weights are 8-bit integers.
        cache: whether a decoder keeps its keys and values from token to token.

    Example:
        >>> import pathlib
        >>> mha.Exported(pathlib.Path("out"), "onnx", {}, {"onnxruntime": "1.32.0"}, {"ids": [None]}, "float32").sizes
        {'ids': [None]}
    """

    directory: Path
    format: str
    files: Mapping[str, str]
    versions: Mapping[str, str]
    sizes: Mapping[str, list[int | None]]
    dtype: str
    int8: bool = False
    constants: Mapping[str, str] = field(default_factory=dict)
    cache: bool = False
    largest: Mapping[str, list[int]] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path | str) -> Self:
        """The export in a directory.

        Raises:
            ExportError: there is none, or its description can't be read.
        """
        path = Path(directory) / FILE
        if not path.is_file():
            raise ExportError(f"{directory} holds no export: there is no {FILE} in it; mha.export writes one")
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            schema = document.pop("schema")
            if schema != SCHEMA:
                raise ExportError(f"{path} has schema {schema}; this version of mha reads {SCHEMA}")
            return cls(directory=Path(directory), **document)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ExportError):
                raise
            raise ExportError(f"{path} is damaged ({error}); export the model again") from error

    def write(self) -> None:
        """Write the description, the file of name `FILE`, into the directory."""
        document = {"schema": SCHEMA, **asdict(self)}
        del document["directory"]
        with appears_whole(self.directory / FILE) as partial:
            partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    @property
    def bytes(self) -> int:
        """How large all files are together."""
        return sum((self.directory / name).stat().st_size for name in self.files)

    def check_files(self) -> None:
        """Raise an `ExportError` unless all files are there as they were written."""
        for name, digest in self.files.items():
            path = self.directory / name
            if not path.is_file():
                raise ExportError(f"{path} is missing: it was there when the model was exported; export it again")
            if digest_of(path) != digest:
                raise ExportError(f"{path} was changed after the model was exported; export it again")

    def check_versions(self) -> None:
        """Raise an `ExportError` unless the runtime here is of the version that it was when the export was written."""
        runtime = find_format(self.format).runtime
        here, there = version_of(runtime), self.versions.get(runtime)
        if here != there:
            raise ExportError(
                f"{self.directory} was exported for {runtime} {there}, and {here or 'none'} is installed: install that "
                "version, or export again; a proof holds for the version that it was made in"
            )

    def load(self) -> Run:
        """A function that runs the export in its runtime on the CPU: named inputs -> what the model returned.

        Of a traced format it raises an `ExportError` where a tensor is given that the export does not take, or another
        value of an input that was fixed: a runtime would leave it out in silence.
        With a cache it is a `Decoder`, which also goes on token by token.

        Raises:
            ExportError: a file was changed, or the runtime is of another version.
            MissingPackageError: a package of the format is not installed.
        """
        self.check_files()
        self.check_versions()
        with warnings.catch_warnings(action="ignore"):  # of packages about themselves
            format = find_format(self.format)
            try:
                run = format.decoder(self.directory, dict(self.sizes)) if self.cache else format.open(self.directory)
            except MhaError:
                raise
            except Exception as error:  # whatever a runtime may raise
                raise ExportError(
                    f"{self.directory}: {format.runtime} can't load what was exported ({first_line(error)}); is there "
                    "enough memory?"
                ) from error
        return _Strict(self, run) if format.traced and not self.cache else run

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Raise an `ExportError` unless the export takes these inputs, by name, and no other value of what is fixed."""
        given = {name: value for name, value in inputs.items() if value is not None}
        fixed = {name: value for name, value in given.items() if not isinstance(value, Tensor)}
        if unknown := sorted(given.keys() - fixed.keys() - self.sizes.keys()):
            raise ExportError(
                f"{self.directory} was exported with {', '.join(self.sizes)}, and would leave out {', '.join(unknown)};"
                " export it again with an example that has them"
            )
        for name, most in self.largest.items():
            sizes = tuple(given[name].shape) if name in given else ()
            if any(size > limit for size, limit in zip(sizes, most, strict=False)):
                raise ExportError(
                    f"{self.directory}: {name} has shape {sizes}, and {self.format} has planned its memory for at most "
                    f"{tuple(most)}; export it again with an example of the largest sizes that it will be given"
                )
        for name, value in fixed.items():
            before = self.constants.get(name, "its default")
            if described(value) != before:
                raise ExportError(
                    f"{self.directory} was exported with {name}={before}, and can't be called with {described(value)}; "
                    "export it again with an example that has this"
                )

    def __str__(self) -> str:
        shown = [name for name in self.sizes if not name.startswith(CACHE)]
        inputs = ", ".join(f"{name} ({self._sizes(name)})" for name in shown)
        kind = f"{self.format}{', int8' if self.int8 else ''}{', with a cache' if self.cache else ''}"
        return f"{kind}: {', '.join(self.files)} in {self.directory} ({self.bytes / 1e6:.1f} MB), for {inputs}"

    def _sizes(self, name: str) -> str:
        """The sizes of a tensor, for a reader."""
        most = self.largest.get(name, [None] * len(self.sizes[name]))
        pairs = zip(self.sizes[name], most, strict=True)
        open_size = "any" if name not in self.largest else "up to {}"
        return ", ".join(open_size.format(most) if size is None else str(size) for size, most in pairs)


class _Strict:
    """What runs an export, asked only for what it takes; everything else about it is the runtime's own."""

    def __init__(self, exported: Exported, run: Run) -> None:
        self._exported, self._run = exported, run

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        self._exported.check_inputs(inputs)
        return self._run(inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def version_of(package: str) -> str | None:
    """The version of a package that is installed here; None if it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def described(value: Any) -> str:
    """A fixed input as text, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
