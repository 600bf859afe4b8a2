"""From what the command line calls MODEL to a model: which of the ways to save one it is, and how it is read."""

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mha.cli.settings import Settings
from mha.pruning.checkpoint.loading import from_pretrained
from mha.values.errors import CheckpointError
from mha.values.optional_packages import needed
from mha.values.python_files import imported
from mha.values.unknown_words import meant

FUNCTION = re.compile(r"(.+\.py):(\w+)")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
PRUNED, CONFIG, GENERATION, RECORD = "pruned.json", "config.json", "generation_config.json", "mha_pruned"
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json"),
    *("spiece.model", "sentencepiece.bpe.model"),
)
PROCESSOR = ("processor_config.json", "preprocessor_config.json", "image_processor_config.json")


@dataclass(frozen=True)
class Loaded:
    """A model that was read.

    Attributes:
        text: what the command line called it.
        model: in eval mode, on its device.
        folder: the directory that it is in; None for a name on the hub, or a function.
        gguf: the name of its GGUF file in there, if it is one.
        given: the processor that a function returned with it.
    """

    text: str
    model: nn.Module
    folder: Path | None = None
    gguf: str | None = None
    given: Any = None
    trust_remote_code: bool = False

    @cached_property
    def processor(self) -> Any:
        """The tokenizer, or image or feature processor, that is saved with the model; None where there is none.

        Raises:
            CheckpointError: its files are there and can't be read.
        """
        if self.given is not None or FUNCTION.fullmatch(self.text):
            return self.given
        transformers = needed("transformers", "hf", "to read a tokenizer")
        where: Any = self.text if self.folder is None else self.folder
        options = {"gguf_file": self.gguf} if self.gguf else {}
        try:
            if self.folder is None or any((self.folder / name).is_file() for name in PROCESSOR):
                return transformers.AutoProcessor.from_pretrained(where, trust_remote_code=self.trust_remote_code)
            if self.gguf or any((self.folder / name).is_file() for name in TOKENIZER):
                return transformers.AutoTokenizer.from_pretrained(
                    where, trust_remote_code=self.trust_remote_code, **options
                )
        except Exception as error:  # whatever transformers may raise about files
            raise CheckpointError(f"{self.text}: its tokenizer or processor can't be read: {_line(error)}") from error
        return None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            CheckpointError: there is none, or it can't be read.
        """
        processor = self.processor
        tokenizer = getattr(processor, "tokenizer", processor)
        if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
            raise CheckpointError(
                f"{self.text} has no tokenizer; save one beside the model, by tokenizer.save_pretrained "
                f"({', '.join(TOKENIZER[:2])})"
            )
        return tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))


def read_model(text: str, settings: Settings) -> Loaded:
    """The model that the command line names, in eval mode, on the device and in the dtype of the settings.

    Raises:
        CheckpointError: there is no such model, or it can't be read.
        MissingPackageError: transformers is needed, and not installed.
    """
    loaded = _read(text, settings)
    loaded.model.eval()
    dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
    if dtype is not None or settings.device is not None:
        try:
            loaded.model.to(device=settings.device, dtype=dtype)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise CheckpointError(f"--device {settings.device}: {_line(error)}") from error
    return loaded


def _transformers(purpose: str) -> Any:
    """The package, which shows its bars only where there is a terminal to show them on."""
    transformers = needed("transformers", "hf", purpose)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    return transformers


def _read(text: str, settings: Settings) -> Loaded:
    """The model, wherever it is read to."""
    if (function := FUNCTION.fullmatch(text)) is not None:
        model, processor = _from_function(Path(function[1]), function[2])
        return Loaded(text, model, given=processor)
    path = Path(text)
    if path.is_file():
        if path.suffix != ".gguf":
            raise CheckpointError(f"{text} is a file, but no .gguf; give the directory that the model is saved in")
        return _from_gguf(text, path, settings)
    if path.is_dir():
        return _from_directory(text, path, settings)
    if not HUB_NAME.fullmatch(text) or text.startswith("."):
        raise CheckpointError(f"there is no {text}{_nearest(path.name, _names_in(path.parent))}")
    return Loaded(text, _from_transformers(text, text, settings), trust_remote_code=settings.trust_remote_code)


def _from_function(path: Path, name: str) -> tuple[nn.Module, Any]:
    """The model, and the processor if there is one, that a function in a file returns; the file's code is run.

    Raises:
        CheckpointError: there is no such file or name, importing it raises an error, or it gives no model.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}{_nearest(path.name, _names_in(path.parent))}")
    try:
        module = imported(path, "mha_model")
    except Exception as error:
        raise CheckpointError(f"{path}: importing it raised {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise CheckpointError(f"{path} has no {name}{_nearest(name, vars(module))}")
    made: Any = getattr(module, name)
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise CheckpointError(f"{path}:{name} is a {type(made).__name__}; expected a function that makes a model")
        made = made()
    model, processor = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise CheckpointError(
            f"{path}:{name} returned a {type(model).__name__}; expected a torch.nn.Module, or a tuple of it and its "
            "tokenizer"
        )
    return model, processor


def _from_directory(text: str, folder: Path, settings: Settings) -> Loaded:
    """The model in a directory.

    Raises:
        CheckpointError: there is none, there are several, or it can't be read.
    """
    if (folder / PRUNED).is_file() or RECORD in _json(folder / CONFIG):
        needed("transformers", "hf", "to read a model that was saved")
        model = from_pretrained(folder)
        if (folder / GENERATION).is_file():
            transformers = _transformers("to read a model")
            vars(model)["generation_config"] = transformers.GenerationConfig.from_pretrained(folder)
        return Loaded(text, model, folder)
    if (folder / CONFIG).is_file():
        model = _from_transformers(text, folder, settings)
        return Loaded(text, model, folder, trust_remote_code=settings.trust_remote_code)
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return _from_gguf(text, files[0], settings)
    if files:
        raise CheckpointError(f"{text} holds several models: {', '.join(map(str, files))}; give one of these files")
    held = sorted(path.name for path in folder.iterdir())
    raise CheckpointError(
        f"{text} holds no model: expected {CONFIG}, {PRUNED} or a .gguf file in it; it holds "
        f"{', '.join(held[:8]) or 'nothing'}{', …' if len(held) > 8 else ''}"
    )


def _from_gguf(text: str, path: Path, settings: Settings) -> Loaded:
    """The language model in a GGUF file, as transformers reads it, with its weights dequantised."""
    transformers = _transformers("to read a GGUF file")
    needed("gguf", "hf", "to read a GGUF file")
    dtype = getattr(torch, settings.dtype or "float32")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    except Exception as error:  # whatever transformers may raise about a file
        raise CheckpointError(f"{text}: transformers can't read this GGUF file: {_line(error)}") from error
    return Loaded(text, model, path.parent, path.name)


def _from_transformers(text: str, where: Any, settings: Settings) -> nn.Module:
    """The model that transformers reads from a directory or from the hub, of the class that its configuration names.

    Raises:
        CheckpointError: transformers does not know its type or class, or can't read it; or it brings code along, and
            the settings don't trust that.
    """
    transformers = _transformers("to read a model")
    trusted = settings.trust_remote_code
    if isinstance(where, Path):
        _check_type(text, _json(where / CONFIG), transformers, trusted)
    try:
        config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=trusted)
        kind = _class_of(text, config, transformers, trusted)
        options = {"trust_remote_code": True} if trusted else {}
        dtype = "auto" if settings.dtype is None else getattr(torch, settings.dtype)
        model: nn.Module = kind.from_pretrained(where, dtype=dtype, **options)
    except CheckpointError:
        raise
    except Exception as error:  # whatever transformers may raise about files or the network
        here = "" if isinstance(where, Path) else f"there is no {text} here{_nearest(text, _names_in(Path()))}, and "
        raise CheckpointError(f"{text}: {here}transformers can't read this model: {_line(error)}") from error
    return model


def _check_type(text: str, config: dict[str, Any], transformers: Any, trusted: bool) -> None:
    """Refuse a configuration of a type that transformers does not know, unless it brings trusted code along."""
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    name = config.get("model_type")
    if name in known or (trusted and "auto_map" in config):
        return
    if "auto_map" in config:
        raise CheckpointError(f"{text} brings code of its own along; --trust-remote-code runs it, if you trust it")
    if not isinstance(name, str):
        raise CheckpointError(f"{text}: its {CONFIG} does not say what it is: it has no model_type")
    raise CheckpointError(
        f"{text}: transformers {transformers.__version__} knows no model type {name!r}{_nearest(name, known)}"
    )


def _class_of(text: str, config: Any, transformers: Any, trusted: bool) -> Any:
    """The class, or the auto class, by which a model of this configuration is read."""
    names = config.architectures or ["AutoModel"]
    if len(names) == 1 and hasattr(transformers, names[0]):
        return getattr(transformers, names[0])
    for auto, reference in (getattr(config, "auto_map", None) or {}).items():
        if trusted and str(reference).rpartition(".")[2] in names and hasattr(transformers, auto):
            return getattr(transformers, auto)
    if getattr(config, "auto_map", None) and not trusted:
        raise CheckpointError(f"{text} brings code of its own along; --trust-remote-code runs it, if you trust it")
    known = [name for name in dir(transformers) if name.endswith(("Model", "LM", "Classification", "Generation"))]
    raise CheckpointError(f"{text}: transformers has no class {', '.join(names)}{_nearest(names[0], known)}")


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file.

    Raises:
        CheckpointError: it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON, or cut off in the middle ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content


def _names_in(folder: Path) -> list[str]:
    """The names of what is in a folder; none where there is no such folder."""
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about a word that is unknown: the nearest that is known, if there is one."""
    question = meant(word, known)
    return f" ({question})" if question else ""


def _line(error: Exception) -> str:
    """What an error says, in its first lines."""
    return " ".join(str(error).split())[:400] or type(error).__name__
