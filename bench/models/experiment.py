"""One task in one run: its trained model, its scores, its plans, and what they cost in accuracy."""

import inspect
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from torch import nn

import mha
from bench.measure.bootstrap import Bootstrap, Estimate
from bench.measure.calls import forward, map_tensors
from bench.measure.contents import UncomparableError, digest
from bench.measure.threads import one_thread
from bench.models.repairs import RAW, SHRINK, Made, compensated, shrunk
from bench.models.shelf import NO_SHELF, Shelf
from mha.costs import parameters_of
from mha.tasks import Task

Method = TypeVar("Method", bound=Callable[..., Any])

DENSE, NONE = "dense", "none"  # the plans that take nothing away, and everything
MEASURED = ("parameters", "seconds", "peak_bytes")  # of a repaired model


class Repaired(NamedTuple):
    """What is kept of a repaired model: its plan, what the task's `evaluate` returned, its size, and what it took.

    Attributes:
        values: (n,) or (n, k), as of `Experiment.values`.
        seconds, peak_bytes: as of `bench.models.repairs.Made`.
    """

    plan: mha.HeadPlan
    values: np.ndarray
    parameters: int
    seconds: float
    peak_bytes: int | None


def once(method: Method) -> Method:
    """Decorate a method to run once per object and arguments; later calls return that result, or raise that error."""
    signature = inspect.signature(method)

    @wraps(method)
    def remembering(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        key = method.__name__, *bound.args[1:]
        outcomes = self.__dict__.setdefault("_outcomes", {})
        if key not in outcomes:
            try:
                outcomes[key] = method(self, *args, **kwargs), None, None
            except Exception as error:
                outcomes[key] = None, error, error.__traceback__
        result, failure, trace = outcomes[key]
        if failure is not None:
            raise failure.with_traceback(trace)  # else every time would lengthen it
        return result

    return cast(Method, remembering)


class Experiment:
    """Everything a run knows about one task, made when it is first asked for and then kept.

    Args:
        training: makes the context within which the task's model is made, so that a bar of its training can be seen.
        note: called with what is found out about the task, as fields of its entry in `environment.json`.
        made: called with criterion, kept fraction and draw of a plan; returns the heads that it keeps in each layer, if
            an earlier part of the run has made it; else None.
        check: called with the dense model's values; raises if they are others than in an earlier part.
        shelf: where this process finds what others have made.
    """

    def __init__(
        self,
        task: Task,
        training: Callable[[], AbstractContextManager[None]] = nullcontext,
        note: Callable[[Mapping[str, Any]], None] = lambda facts: None,  # noqa: ARG005
        made: Callable[[str, float, int], Mapping[str, Sequence[int]] | None] = lambda *_: None,
        check: Callable[[np.ndarray], None] = lambda _: None,
        shelf: Shelf = NO_SHELF,
    ) -> None:
        self.task = task
        self._shelf = shelf
        self._training = training
        self._note = note
        self._made = made
        self._check = check

    @once
    def model(self) -> nn.Module:
        """The task's trained model, in eval mode on the CPU. The caller may not change it."""
        with self._training():
            model = self.task.model().eval()
        self._note({"weights": contents(model.state_dict())})
        return model

    @once
    def dense(self, device: str) -> nn.Module:
        """A copy of the trained model, with all its heads, on a device; the same copy every time."""
        return mha.prune(self.model(), mha.HeadPlan({})).to(device)

    def pruned(self, plan: mha.HeadPlan, device: str = "cpu") -> nn.Module:
        """A new copy of the trained model without the heads that the plan drops, in eval mode on a device."""
        return mha.prune(self.model(), plan).eval().to(device)

    def call(self, plan: mha.HeadPlan, batch: int, device: str) -> Callable[[], Any]:
        """A call without arguments that runs the model pruned by a plan on `batch` examples, without gradients."""
        return forward(self.pruned(plan, device), *self.inputs(batch, device))

    @once
    def layers(self) -> mha.AttentionMap:
        """The attention layers of the trained model, by name.

        Raises:
            mha.UnsupportedModule: the model has no attention of a known family.
        """
        layers = mha.find_attention(self.model())
        if not layers:
            reasons = "; ".join(f"{name!r}: {why}" for name, why in layers.unsupported.items())
            raise mha.UnsupportedModule(
                f"the model of task {self.task.name!r} has no attention of a known family"
                + (f" ({reasons})" if reasons else "")
            )
        heads = {name: layer.num_heads for name, layer in layers.items()}
        self._note({"layers": heads, "heads": sum(heads.values()), "parameters": parameters_of(self.model())})
        return layers

    @once
    def scores(self, criterion: str, seed: int = 0) -> tuple[mha.HeadScores, float]:
        """The scores of all heads by a criterion on the calibration set, and the wall-clock seconds of scoring."""
        if seed == 0 and (found := self._shelf.scores(self.task.name, criterion)):
            return found
        batches = self._calibration()
        start = time.perf_counter()
        with one_thread():
            scores = mha.score(self.model(), batches, self.task.loss, criterion, seed=seed)
        return scores, time.perf_counter() - start

    @once
    def plan(self, criterion: str, keep: float, draw: int = 0) -> mha.HeadPlan:
        """The plan that a criterion makes: the heads that stay, for every layer.

        Args:
            criterion: one that `mha.score` knows, or "even" (the same share of each layer, heads at random),
                "dense" (all heads), "none" (no heads) or "shrink" (`mha.shrink` chooses, and repairs).
            keep: share of the heads that stays.
            draw: the seed of the scores, by which "random" and "even" make several plans.
        """
        layers = self.layers()
        if made := self._made(criterion, keep, draw):
            return mha.HeadPlan(made)
        if criterion == DENSE:
            return mha.HeadPlan({name: layer.heads for name, layer in layers.items()})
        if criterion == NONE:
            return mha.HeadPlan(dict.fromkeys(layers, ()))
        if criterion == SHRINK:
            return self.repaired(SHRINK, keep, SHRINK).plan
        if criterion == "even":
            return _even(self.scores("random", draw)[0], keep)
        return mha.choose(self.scores(criterion, draw)[0], keep=keep, model=self.model())

    @once
    def repaired(self, criterion: str, keep: float, repair: str) -> Repaired:
        """What comes of a repair of the model with this share of its heads; the repaired model itself is put on disk.

        Args:
            criterion: the heads that stay are those of its plan; "shrink" where the repair chooses them.
            repair: "compensate" or "shrink".
        """
        if found := self._shelf.repaired(self.task.name, (criterion, keep, repair)):
            _, values, about = found
            return Repaired(mha.HeadPlan(about["keep"]), values, *(about[name] for name in MEASURED))
        made = self._made_by(criterion, keep, repair)
        values = self._checked(self.task.evaluate(made.model))
        mha.save_pruned(made.model, self._saved(criterion, keep, repair))
        whole = {name: layer.heads for name, layer in self.layers().items()}
        plan = mha.HeadPlan(whole | dict(mha.plan_of(made.model).keep))
        return Repaired(plan, values, parameters_of(made.model), made.seconds, made.peak_bytes)

    def small(self, criterion: str, keep: float, repair: str) -> nn.Module:
        """A new copy of a pruned model, in eval mode on the CPU, repaired or raw.

        Args:
            criterion, keep: as of `plan`; its first draw.
            repair: "none", or as of `repaired`.
        """
        if repair == RAW:
            return self.pruned(self.plan(criterion, keep))
        self.repaired(criterion, keep, repair)
        return mha.load_pruned(self._saved(criterion, keep, repair), self.model()).eval()

    def small_values(self, criterion: str, keep: float, repair: str) -> np.ndarray:
        """What the task's `evaluate` returned of that model, as of `values`."""
        if repair == RAW:
            return self.values(self.plan(criterion, keep))
        return self.repaired(criterion, keep, repair).values

    def _saved(self, criterion: str, keep: float, repair: str) -> Path:
        """The directory of a repaired model."""
        if found := self._shelf.repaired(self.task.name, (criterion, keep, repair)):
            return found[0]
        return self._folder() / f"{criterion}-{keep!r}-{repair}"

    @once
    def _folder(self) -> Path:
        """Where repaired models are, until this object is gone."""
        folder = Path(tempfile.mkdtemp(prefix="mha-repaired-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _made_by(self, criterion: str, keep: float, repair: str) -> Made:
        """Repair a model, with the arguments of `repaired`."""
        model, batches = self.model(), list(self._calibration())
        if repair == SHRINK:
            return shrunk(self.task, model, batches, keep)
        return compensated(self.task, model, self.pruned(self.plan(criterion, keep)), batches)

    @once
    def values(self, plan: mha.HeadPlan) -> np.ndarray:
        """What the task's `evaluate` returns of a plan's pruned model: a value per held-out example (n,), or k (n, k).

        Raises:
            ValueError: it returns another shape, no rows, or numbers that are not finite.
        """
        kept = self._shelf.dense_values(self.task.name) if plan == self.plan(DENSE, 1.0) else None
        return self._checked(self.task.evaluate(self.pruned(plan))) if kept is None else kept

    @once
    def dense_values(self) -> np.ndarray:
        """The dense model's values for the held-out examples, (n,) or (n, k); `check` gets them before the caller."""
        values = self.values(self.plan(DENSE, 1.0))
        self._check(values)
        return values

    @once
    def metric(self, plan: mha.HeadPlan) -> Estimate:
        """The task's metric of a plan's pruned model, and what it is on each resample of the held-out examples."""
        return self._estimate(self.values(plan))

    def metric_of(self, model: nn.Module) -> Estimate:
        """The task's metric of any model, such as a repaired one, on the same resamples as that of a plan."""
        return self._estimate(self._checked(self.task.evaluate(model)))

    def _checked(self, returned: Any) -> np.ndarray:
        """What the task's `evaluate` has returned, as an array (n,) or (n, k).

        Raises:
            ValueError: it has another shape, no rows, or numbers that are not finite.
        """
        values = np.asarray(returned, dtype=float)
        if values.ndim not in (1, 2) or not len(values):
            raise ValueError(
                f"task {self.task.name!r}: evaluate must return one row for each held-out example, "
                f"shape (n,) or (n, k), got {values.shape}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"task {self.task.name!r}: evaluate returned values that are NaN or infinite")
        return values

    def _estimate(self, values: np.ndarray) -> Estimate:
        """The metric that the values (n,) or (n, k) of one model give, over the resamples that all models share.

        Raises:
            ValueError: there are more or fewer values than of the dense model, or the metric is not finite.
        """
        examples = len(self.dense_values())
        if len(values) != examples:
            raise ValueError(
                f"task {self.task.name!r}: evaluate returned {len(values)} rows for a pruned model and {examples} "
                "for the dense one; both must be judged on the same examples"
            )
        estimate = self._bootstrap(examples)(values)
        if not np.isfinite([estimate.value, *estimate.replicates]).all():
            raise ValueError(f"task {self.task.name!r}: aggregate is NaN or infinite, for all examples or a resample")
        return estimate

    @once
    def _bootstrap(self, examples: int) -> Bootstrap:
        self._note({"examples": examples})
        return Bootstrap(examples, self.task.aggregate)

    def describe(self, plan: mha.HeadPlan) -> dict[str, Any]:
        """A plan's `heads_kept`, the model's `heads_total`, and `shape`: how many heads each layer keeps, in order."""
        shape = [len(plan.keep[name]) for name in self.layers()]
        total = sum(layer.num_heads for layer in self.layers().values())
        return {"heads_kept": sum(shape), "heads_total": total, "shape": shape}

    def accuracy(self, plan: mha.HeadPlan) -> dict[str, Any]:
        """The measured fields of a plan's record: heads, metric, difference to dense, and the value of each example."""
        return self._judged(plan, self.values(plan), self.metric(plan), parameters_of(self.pruned(plan)))

    def repaired_accuracy(self, criterion: str, keep: float, repair: str) -> dict[str, Any]:
        """The same of a repaired model, with what the repair took; the arguments are those of `repaired`."""
        plan, values, parameters, seconds, peak_bytes = self.repaired(criterion, keep, repair)
        judged = self._judged(plan, values, self._estimate(values), parameters)
        return {**judged, "repair_seconds": seconds, "repair_bytes": peak_bytes}

    def _judged(self, plan: mha.HeadPlan, values: np.ndarray, metric: Estimate, parameters: int) -> dict[str, Any]:
        """The fields of `accuracy`, of a model with that many parameters whose `evaluate` returned these values."""
        difference = (metric - self.metric(self.plan(DENSE, 1.0))).interval()
        return {
            **self.describe(plan),
            "keep": {name: list(heads) for name, heads in plan.keep.items()},
            "parameters": parameters,
            **metric.interval()._asdict(),
            **dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True)),
            "examples": len(values),
            "values": values.tolist(),
            "alone": self.alone(values),
        }

    def alone(self, values: np.ndarray) -> list[float] | None:
        """The task's metric of each example by itself, given the values (n,) or (n, k) of one model.

        None where that is what the values are, or where the metric is not defined for a single example.
        """
        each = np.array([self.task.aggregate(row[None]) for row in values], dtype=float)
        is_known = values.ndim == 1 and np.array_equal(each, values)
        return None if is_known or not np.isfinite(each).all() else each.tolist()

    def confidences(self, model: nn.Module) -> np.ndarray:
        """How sure a model is of each answer, and whether that is right: (n, k, 2).

        Raises:
            ValueError: the task returns another shape, or numbers outside 0 … 1.
        """
        returned = np.asarray(self.task.confidences(model), dtype=float)
        examples = len(self.dense_values())
        if returned.ndim not in (2, 3) or len(returned) != examples or returned.shape[-1] != 2:
            raise ValueError(
                f"task {self.task.name!r}: confidences must return ({examples}, 2) or ({examples}, k, 2), for each "
                f"answer its probability and whether it is right, got {returned.shape}"
            )
        if not ((returned >= 0) & (returned <= 1)).all():
            raise ValueError(f"task {self.task.name!r}: confidences returned numbers that are NaN or outside 0 … 1")
        return returned.reshape(examples, -1, 2)

    @once
    def dense_confidences(self) -> np.ndarray:
        """The `confidences` of the dense model."""
        return self.confidences(self.model())

    def inputs(self, batch: int, device: str, length: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The task's positional and keyword inputs for timing, on a device; `length` None for its usual length."""
        args, kwargs = self.task.example(batch) if length is None else self.task.example(batch, length)
        move = cache(lambda tensor: tensor.to(device))  # a tensor that is given twice stays one
        return map_tensors(tuple(args), move), map_tensors(dict(kwargs), move)

    @once
    def _calibration(self) -> Any:
        batches = self.task.calibration()
        self._note({"calibration_data": contents(batches)})
        return batches


def contents(value: Any) -> str | None:
    """A hash of a value's contents (`bench.measure.contents.digest`); None where some of them can't be read."""
    try:
        return digest(value)
    except UncomparableError:
        return None


def _even(scores: mha.HeadScores, keep: float) -> mha.HeadPlan:
    """The plan that keeps the same share of the heads of every layer, those with the highest scores there."""
    kept: dict[str, tuple[int, ...]] = {}
    for name, row in scores.scores.items():
        layer = mha.HeadScores({name: row}, {name: scores.groups[name]}, heads={name: scores.heads[name]})
        kept |= mha.choose(layer, keep=keep).keep
    return mha.HeadPlan(kept)


def first_groups(layer: mha.AttentionLayer, share: float) -> tuple[int, ...]:
    """The heads of a layer's first key/value groups: `share` of them, rounded, at least one unless it is 0."""
    groups = max(round(share * layer.num_kv_heads), 1 if share else 0)
    return layer.heads[: groups * (layer.num_heads // layer.num_kv_heads)]
