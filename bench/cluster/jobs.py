"""What a sweep consists of: its cases, what each needs of a worker, and what several of them share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.cluster.sweep import Job
from bench.models.experiment import DENSE, NONE
from bench.models.repairs import RAW, SHRINK
from bench.rundir.description import BLANK_CASE, OK, SCHEMA
from bench.rundir.directory import BLANK_PLAN, RunDirectory
from bench.settings.options import BASELINES, RunSettings
from bench.settings.task_cases import (
    LatencyCase,
    ModelVariant,
    model_variants,
    repaired_variants,
    shown_criterion,
)

ROOT = Path(__file__).parents[2]
MAKING = "bench/cluster/making.py"
CPU, GPU = "CPU", "GPU"  # resources of dask workers


@dataclass(frozen=True)
class Shared:
    """Something that several cases need and that is made once.

    Attributes:
        what: "model", "dense" (the dense model's values), "scores" or "repaired".
        of: what it is made with: a criterion; or criterion, kept fraction and repair.
    """

    task: str
    what: str
    of: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """A name for it, which can be a folder's."""
        return "-".join(map(str, (self.task, self.what, *self.of)))


class Plan:
    """The jobs of a sweep, and what each of them is sent.

    Args:
        items: the cases that are to be measured.
        run: the run directory, which may hold a part of the run already.
        on: a resource that what is timed needs besides, as the name of an accelerator.
    """

    def __init__(
        self,
        items: Iterable[pytest.Item],
        settings: RunSettings,
        run: RunDirectory | None = None,
        on: str | None = None,
    ) -> None:
        self._settings, self._run, self._on = settings, run, on
        self._tasks = {task.name for task in settings.tasks}
        self._variants = {each.plan: each for each in (*model_variants(settings), *repaired_variants(settings))}
        self.items = {item.nodeid: item for item in items}
        self.shared: dict[str, Shared] = {}
        self.jobs = [*self._jobs()]

    def timed(self, job: Job) -> str | None:
        """The device on which a job is timed; None if it is not timed."""
        return None if job.makes else _device(self.items[job.name], self._settings)

    def test(self, job: Job) -> str:
        """What pytest is told to run."""
        if job.makes:
            return MAKING
        item = self.items[job.name]
        return f"{item.path.relative_to(ROOT).as_posix()}::{item.nodeid.partition('::')[2]}"

    def make(self, job: Job) -> dict[str, Any] | None:
        """What a job is to make; None if it is a case."""
        return asdict(self.shared[job.name]) if job.makes else None

    def seeds(self, job: Job) -> dict[str, Any]:
        """Files of the run that a job's process finds in its run directory: path -> what is in them.

        They are the plan that it is about, if that is known already; and the case that has timed the same shape.
        """
        variant = None if job.makes else _variant(self.items[job.name], self._variants)
        case = None if job.makes else _param(self.items[job.name], LatencyCase)
        if (
            variant is None
            or variant.criterion in (DENSE, NONE)
            or self._run is None
            or (case is None and _param(self.items[job.name], ModelVariant))
        ):
            return {}
        kept = self._run.kept(variant.task, variant.criterion, variant.keep, variant.draw)
        if kept is None:
            return {}
        record = {"schema": SCHEMA, "status": OK, "error": None, **BLANK_PLAN, **variant.record()}
        seeds = {f"plans/{variant.plan}.json": {**record, "draw": variant.draw, "keep": kept}}
        if case is not None:
            shape = [len(heads) for heads in kept.values()]
            timed = self._run.timed(kind="pruning", task=variant.task, shape=shape, **asdict(case.place))
            if timed is not None:
                usual = {"machine": BLANK_CASE["machine"]}
                seeds[f"cases/{_stem(timed)}.json"] = timed | usual
        return seeds

    def _jobs(self) -> Iterator[Job]:
        """Yield a job for each case, in order, each behind jobs for what it needs."""
        for name, item in self.items.items():
            needs = [*self._needs(item)]
            for shared in needs:
                yield from self._making(shared)
            tokens = self._tokens(_device(item, self._settings))
            yield Job(name, tokens, tuple(dict.fromkeys(shared.name for shared in needs)))

    def _making(self, shared: Shared) -> Iterator[Job]:
        """Yield the job that makes something, behind those that make what it needs; nothing if it is made already."""
        if shared.name in self.shared:
            return
        self.shared[shared.name] = shared
        needs = []
        if shared.what != "model":
            needs.append(Shared(shared.task, "model"))
        if shared.what == "repaired" and shared.of[0] != SHRINK:
            needs += self._scores(shared.task, shared.of[0])
        for needed in needs:
            yield from self._making(needed)
        yield Job(shared.name, {}, tuple(needed.name for needed in needs), makes=True)

    def _needs(self, item: pytest.Item) -> Iterator[Shared]:
        """Yield what a case needs that others may need, too."""
        params, function = _params(item), item.nodeid.partition("[")[0].rpartition("::")[2]
        variant = _variant(item, self._variants)
        task = variant.task if variant else _task(params)
        if task not in self._tasks:
            return
        yield Shared(task, "model")
        if function == "test_latency" and variant is not None:
            yield from self._of_plan(variant)
            return
        if function == "test_scores":
            yield Shared(task, "scores", (params["criterion"],))
        elif variant is not None:
            yield Shared(task, "dense")
            if variant.repair == RAW:
                yield from self._of_plan(variant)
            else:
                yield Shared(task, "repaired", (variant.criterion, variant.keep, variant.repair))
        elif function == "test_attention_maps":
            yield from self._scores(task, shown_criterion(self._settings))
        elif function == "test_promise":
            yield Shared(task, "dense")

    def _of_plan(self, variant: ModelVariant) -> Iterator[Shared]:
        """Yield what is needed to know which heads a plan keeps; nothing if this run has made the plan already."""
        if self._run and self._run.kept(variant.task, variant.criterion, variant.keep, variant.draw) is not None:
            return
        if variant.criterion == SHRINK:
            yield Shared(variant.task, "repaired", (SHRINK, variant.keep, SHRINK))
        elif variant.draw == 0:
            yield from self._scores(variant.task, variant.criterion)

    def _scores(self, task: str, criterion: str) -> Iterator[Shared]:
        """Yield the scores of a criterion, unless they are there at once."""
        if criterion not in (DENSE, NONE, *BASELINES):
            yield Shared(task, "scores", (criterion,))

    def _tokens(self, device: str | None) -> dict[str, float]:
        """The resources that a worker must have for a case on this device."""
        if device is None:
            return {}
        return {CPU if device == "cpu" else GPU: 1.0, **({self._on: 1.0} if self._on else {})}

    def wanted(self) -> dict[str, tuple[Mapping[str, float], int]]:
        """For each set of resources that jobs need: one of the jobs -> the set, and how many jobs need it."""
        kinds: dict[tuple[tuple[str, float], ...], list[str]] = {}
        for job in self.jobs:
            kinds.setdefault(tuple(sorted(job.tokens.items())), []).append(job.name)
        return {names[0]: (dict(tokens), len(names)) for tokens, names in kinds.items()}


def _device(item: pytest.Item, settings: RunSettings) -> str | None:
    """The device on which a case is timed; None if it is not timed."""
    params = _params(item)
    if "device" in params:
        return str(params["device"])
    for value in params.values():
        if (device := getattr(getattr(value, "place", value), "device", None)) is not None:
            return str(device)
    return settings.devices[0] if params.get("promise") == "attention_share" else None


def _variant(item: pytest.Item, variants: Mapping[str, ModelVariant]) -> ModelVariant | None:
    """The variant of a task's model that a case is about, given all of them by their plans' names; None if none."""
    case = _param(item, LatencyCase)
    return case.variant if case else _param(item, ModelVariant) or variants.get(str(_params(item).get("plan")))


def _param(item: pytest.Item, kind: type) -> Any:
    """The value of this type that a case is parametrized with, if it has one."""
    return next((value for value in _params(item).values() if isinstance(value, kind)), None)


def _params(item: pytest.Item) -> Mapping[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


def _task(params: Mapping[str, Any]) -> str:
    """The name of the task whose model a case is about, if it is about one."""
    subjects: Sequence[Any] = [params.get("task"), params.get("subject"), getattr(params.get("case"), "subject", None)]
    return str(next(filter(None, subjects), ""))


def _stem(case: Mapping[str, Any]) -> str:
    """The name, less .json, of a case's file."""
    return f"{case['case']}+{case['process']}" if case["process"] else str(case["case"])
