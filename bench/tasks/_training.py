"""Training the reference models, and keeping what was trained."""

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from platformdirs import user_cache_path
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

import mha
from bench.measure.contents import UncomparableError, digest
from bench.measure.threads import one_thread
from mha.values.atomic_files import appears_whole

CACHE = "MHA_BENCH_CACHE"  # environment variable: where trained models are kept
USED: set[Path] = set()  # files there that this process has read


def train(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    label: str = "training",
) -> None:
    """Train a model in place with AdamW for `steps` steps, a batch each, from the first batch again when they end.

    `learning_rate` is the highest of one cycle (`OneCycleLR`); gradients are clipped to norm 1; a bar named `label` is
    shown.

    Leaves the model in eval mode. Deterministic if the batches and the model's start are: it runs on one thread, so
    that the number of cores does not matter.
    """
    with one_thread():
        _train(model, batches, loss, steps, learning_rate, weight_decay, label)
    model.eval()


def _train(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    steps: int,
    learning_rate: float,
    weight_decay: float,
    label: str,
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    model.train()
    progress = tqdm(_take(batches, steps), total=steps, desc=f"training {label}", unit="step", mininterval=1.0)
    for step, batch in enumerate(progress):
        optimizer.zero_grad(set_to_none=True)
        value = loss(model, batch)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            progress.set_postfix(loss=f"{value.item():.3f}")


def trained(
    name: str,
    build: Callable[[], nn.Module],
    fit: Callable[[nn.Module], None],
    *,
    sources: Iterable[Path],
    settings: Any,
) -> nn.Module:
    """The model that `fit` trains from `build()`, in eval mode; trained once, then read from the cache.

    The cached file is named by a hash of the settings and of the code that made it: `sources`, this file, the
    attention layer and the version of torch; and, where `build` or `fit` are methods, of their object, which may be of
    a class that inherits from the one in `sources`. Where that can't be hashed the model is trained each time. A
    second process waits for the first. A cached file appears whole or not at all.
    """
    model = build()
    try:
        owners = [digest(_owner(method), name) for method in (build, fit)]
    except UncomparableError:
        fit(model)
        return model.eval()
    path = cache_directory() / f"{name}-{_fingerprint(sources, [settings, owners])}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            fit(model)
            with appears_whole(path) as temporary:
                save_file({key: value.contiguous() for key, value in model.state_dict().items()}, temporary)
    model.load_state_dict(load_file(path))
    USED.add(path)
    return model.eval()


def cache_directory() -> Path:
    """Where trained models are kept: $MHA_BENCH_CACHE, or the user's cache directory."""
    return Path(os.environ[CACHE]) if os.environ.get(CACHE) else user_cache_path("mha") / "models"


def _take(batches: Iterable[Any], count: int) -> Iterator[Any]:
    """Yield `count` batches, from the first again whenever they end; ValueError if there are none."""
    taken = 0
    while taken < count:
        before = taken
        for batch in batches:
            yield batch
            taken += 1
            if taken == count:
                return
        if taken == before:
            raise ValueError("no training batches")


def _owner(method: Callable[..., Any]) -> Any:
    """The object that a method is bound to, and the object's class; None for a function."""
    owner = getattr(method, "__self__", None)
    return owner and (owner, type(owner))


def _fingerprint(sources: Iterable[Path], settings: Any) -> str:
    digest = hashlib.sha256(json.dumps([settings, torch.__version__], sort_keys=True, default=_plain).encode())
    for source in (*sources, Path(__file__), Path(inspect.getfile(mha.MultiHeadAttention))):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Mapping[str, Any]:
    return vars(value)
