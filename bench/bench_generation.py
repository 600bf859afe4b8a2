"""Causal models that generate: how fast they read the prompt, and go on token by token with a key/value cache.

Fills `cases/` (kind "generation"). The models are Llamas with random weights and grouped heads, since time does not
depend on what weights say (a small one, or with --accelerator two of real sizes), and that of every task whose model is
a causal one of transformers. Plans keep the same share of each layer, in whole groups.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mha
from bench.measure.calls import forward
from bench.measure.counts import Counts, counts
from bench.measure.sampling import sampled
from bench.models.experiment import Experiment, first_groups
from bench.models.latency import cast, recorded
from bench.models.random_llamas import HALVES, LARGE, RANDOM, SMALL, random_llama
from bench.rundir.description import USUAL
from bench.rundir.directory import RunDirectory
from bench.settings.options import RunSettings, settings_of
from mha.timing import rotated

SIZES = {  # batches, lengths
    "quick": ((1,), (64,)),
    "default": ((1, 4), (256,)),
    "full": ((1, 8), (128, 512, 1024)),
    "accelerator": ((1, 8), (1024,)),
}
SEEDS = (0, 1)  # of inputs that calls take turns with


@dataclass(frozen=True)
class GenerationCase:
    """A model, the share of its heads that stays, and one phase of generating.

    Attributes:
        subject: the name of a task, or of a random model.
        phase: "prefill", where a prompt is read, or "decode", where one token is added.
        length: how many tokens the prompt has, or, in "decode", the cache.
        mode: "eager", or "graph", where every call is recorded as a CUDA graph.
    """

    subject: str
    keep: float
    phase: str
    batch: int
    length: int
    device: str
    dtype: str
    mode: str = USUAL["mode"]

    @property
    def id(self) -> str:
        """The case's name, in pytest and in the run directory: every field but usual dtype and mode, joined by "-"."""
        unusual = [value for axis in ("dtype", "mode") if (value := getattr(self, axis)) != USUAL[axis]]
        parts = ("generation", self.subject, f"keep{self.keep:g}", self.phase, f"b{self.batch}-s{self.length}")
        return "-".join([*parts, *unusual, self.device.replace(":", "")])

    def record(self) -> dict[str, Any]:
        """Field of the case's record in `cases/` -> value, for what is known before the case is measured."""
        names = {"case": self.id, "kind": "generation", "task": self.subject, "timed_by": self.id}
        where = {"batch": self.batch, "seq_len": self.length, "device": self.device}
        how = {"dtype": self.dtype, "mode": self.mode, "phase": self.phase, "mask": "causal"}
        tokens = self.batch * (self.length if self.phase == "prefill" else 1)
        return {**names, **where, **how, "kept_fraction": self.keep, "tokens": tokens}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("case", list(_cases(settings_of(metafunc.config))), ids=lambda case: case.id)


def test_generation(
    case: GenerationCase,
    settings: RunSettings,
    experiments: Mapping[str, Experiment],
    run: RunDirectory,
    request: pytest.FixtureRequest,
) -> None:
    """Time one phase of generating, the pruned model in turns with the dense one; record samples and counts."""
    with run.case(**case.record()) as record:
        model = _model(case, experiments)
        layers = mha.find_attention(model)
        plan = mha.HeadPlan({name: first_groups(layer, case.keep) for name, layer in layers.items()})
        models = {"pruned": mha.prune(model, plan), "dense": model}
        shape = [len(heads) for heads in plan.keep.values()]
        total = sum(layer.num_heads for layer in layers.values())
        kept = {"heads_kept": sum(shape), "heads_total": total, "shape": shape}
        record |= kept
        record["counts"] = {name: _counts(case, arm) for name, arm in models.items()}
        arms = {name: PHASES[case.phase](case, arm) for name, arm in models.items()}
        timing = sampled(
            request,
            arms,
            target="pruned",
            device=case.device,
            limits=settings.limits,
            facts={**case.record(), **kept},
            seed=settings.process,
        )
        record |= timing._asdict()


def prefill(case: GenerationCase, model: nn.Module) -> Callable[[], Callable[[], object]]:
    """Make an arm for `sampled`: a function that returns a call, in which the model reads a prompt into a new cache."""
    calls = [_reading(model, _ids(case, model, case.length, seed)) for seed in SEEDS]
    return rotated([recorded(call, case.device, case.subject) for call in calls] if case.mode == "graph" else calls)


def decode(case: GenerationCase, model: nn.Module) -> Callable[[], Callable[[], object]]:
    """Make an arm for `sampled`: a function that returns a call, in which the model reads one token after the prompt.

    The function first takes out of the cache what the call before has added, so that this is not timed. A recorded call
    needs no such thing: it reads the same cache in every replay, and adds the token in memory of its own.
    """
    prompt, tokens = _ids(case, model, case.length), [_ids(case, model, 1, seed) for seed in SEEDS]
    if case.mode == "graph":
        return rotated([_recorded_decode(case, model, prompt, token) for token in tokens])
    cache = _reading(model, prompt)().past_key_values
    turns = rotated([_reading(model, token, past_key_values=cache) for token in tokens])

    def prepare() -> Callable[[], object]:
        _shorten(cache, case.length)
        return turns()

    return prepare


def _recorded_decode(case: GenerationCase, model: nn.Module, prompt: Tensor, token: Tensor) -> Callable[[], object]:
    """A call, recorded as a CUDA graph, in which the model reads one token after the prompt, with its own cache."""
    cache = _reading(model, prompt)().past_key_values

    def one_more() -> Any:
        _shorten(cache, case.length)
        return _reading(model, token, past_key_values=cache)()

    return recorded(one_more, case.device, case.subject)


PHASES = {"prefill": prefill, "decode": decode}


def _cases(settings: RunSettings) -> Iterator[GenerationCase]:
    """Every combination of device, model, dtype, mode, batch size, length, phase and kept fraction below 1.

    Batch sizes and lengths are those of the preset unless the command line gives some. Nothing is compiled here.
    """
    batches, lengths = SIZES[settings.preset]
    named = LARGE.get(settings.preset, SMALL)
    kept = [keep for keep in settings.keep if keep < 1]
    for device in settings.devices:
        axes = product(
            (*named, *(task.name for task in settings.tasks if getattr(task, "generates", False))),
            [dtype for dtype in settings.dtypes_on(device) if settings.preset not in LARGE or dtype in HALVES],
            [mode for mode in settings.modes_on(device) if mode != "compile"],
            settings.batch_sizes or batches,
            settings.lengths or lengths,
            PHASES,
            kept,
        )
        for subject, dtype, mode, batch, length, phase, keep in axes:
            yield GenerationCase(subject, keep, phase, batch, length, device, dtype, mode)


def _model(case: GenerationCase, experiments: Mapping[str, Experiment]) -> nn.Module:
    """The case's dense model, on the case's device and in its dtype."""
    if case.subject in RANDOM and case.subject not in experiments:
        return random_llama(case.subject, case.device, case.dtype)
    return cast(experiments[case.subject].model().to(case.device), case.dtype)


def _reading(model: nn.Module, ids: Tensor, **more: Any) -> Callable[[], Any]:
    """A call without arguments in which the model reads token ids (b, n), with a cache; `more` are further inputs."""
    return forward(model, (), {"input_ids": ids, "use_cache": True, **more})


def _ids(case: GenerationCase, model: Any, length: int, seed: int = 0) -> Tensor:
    """Random token ids of the model's vocabulary (b, length) on the case's device, the same for the same seed."""
    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (case.batch, length), generator=generator).to(case.device)


def _counts(case: GenerationCase, model: nn.Module) -> Counts:
    """The `counts` of one call in the case's phase: over the whole prompt, or over one token after it."""
    prompt = _ids(case, model, case.length)
    cache = _reading(model, prompt)().past_key_values
    size = _cache_bytes(cache)
    if case.phase == "prefill":
        return counts(model, model, (), {"input_ids": prompt, "use_cache": True}, case.device, cache_bytes=size)

    def one_more(token: Tensor) -> Any:
        _shorten(cache, case.length)
        return model(input_ids=token, past_key_values=cache, use_cache=True)

    return counts(one_more, model, (prompt[:, :1],), {}, case.device, cache_bytes=size)


@torch.inference_mode()
def _shorten(cache: Any, length: int) -> None:
    """Drop from the cache the keys and values of all tokens after the first `length`."""
    if (added := cache.get_seq_length() - length) > 0:
        cache.crop(-added)


def _cache_bytes(cache: Any) -> int:
    """Bytes of all keys and values in a transformers cache, over all layers."""
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
