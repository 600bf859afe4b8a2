"""From a model and what the command line asks for to a smaller model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mha.certifying.certificate import Certificate
from mha.cli.inputs import Inputs
from mha.cli.models import Loaded
from mha.cli.settings import note
from mha.costs import CostTable, measure_costs
from mha.costs.in_runtime import MEASURED
from mha.importance.score import score
from mha.planning.choose import choose
from mha.pruning.slicing import prune
from mha.repair.compensate import compensate
from mha.repair.distill import distill
from mha.repair.shrink import RATE, shrink
from mha.tasks import Task
from mha.values.errors import CertificateError
from mha.values.plan import HeadPlan, HeadScores

BY_COSTS = ("latency", "flops")  # budgets that a table of costs is needed for


@dataclass(frozen=True)
class Wanted:
    """What a smaller model is to be.

    Attributes:
        budget: the one argument of `mha.choose`; none where `plan` or `at_most` is given.
        plan: the heads that stay.
        at_most: the loss of the metric that is allowed, shown with `confidence`.
        criterion: by which heads are scored; None for the closed form of `mha.shrink`.
        options: of the criterion, by name.
        runs_on: the runtime that the plan is for, as `mha.choose` takes it; None for any.
        train: how long the result is trained at the end, as "1min"; None for not at all.
        seed: for what is drawn at random.
        seconds: how long measuring costs takes, where the budget needs them.
    """

    budget: Mapping[str, Any]
    plan: HeadPlan | None = None
    at_most: float | None = None
    confidence: float = 0.95
    criterion: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    runs_on: str | None = None
    train: str | None = None
    seed: int = 0
    seconds: float = 30.0

    @property
    def timed_in(self) -> str | None:
        """The runtime in which latency is measured; None for torch as it is, where no budget asks for it elsewhere."""
        return self.runs_on if "latency" in self.budget and self.runs_on in MEASURED else None

    def sentence(self) -> str:
        """What was asked for, in a few words."""
        how = [f"{name} {value:g}" for name, value in self.budget.items()]
        how += ["plan"] if self.plan is not None else []
        how += [f"at most {self.at_most:g}"] if self.at_most is not None else []
        how += [f"criterion {self.criterion}"] if self.criterion else []
        how += [f"for {self.runs_on}"] if self.runs_on else []
        how += [f"{name}={value}" for name, value in self.options.items()]
        how += [f"distill {self.train}"] if self.train else []
        return ", ".join(how)


@dataclass(frozen=True)
class Made:
    """A smaller model, and by what its heads were chosen."""

    model: nn.Module
    scores: HeadScores | None = None
    certificate: Certificate | None = None


def smaller(loaded: Loaded, task: Task | None, wanted: Wanted, inputs: Inputs | None) -> Made:
    """The smaller model; the given one is left as it was. With a task it is repaired on the calibration data.

    Args:
        inputs: with which costs are measured, where the budget needs them.

    Raises:
        CertificateError: nothing smaller could be shown to lose at most what is allowed.
        ScoresError, PlanError, CalibrationError, UnsupportedModule: as the functions of the library.
    """
    costs = _costs(loaded, wanted, inputs)
    if wanted.plan is not None:
        return Made(_repaired(loaded, task, wanted.plan, wanted))
    if task is None or (wanted.criterion is not None and wanted.at_most is None):
        return _by_criterion(loaded, task, wanted, costs)
    return _shrunk(loaded, task, wanted, costs)


def _costs(loaded: Loaded, wanted: Wanted, inputs: Inputs | None) -> CostTable | None:
    """What layers cost, where the budget needs it."""
    if inputs is None or not set(wanted.budget) & set(BY_COSTS):
        return None
    where = "" if wanted.timed_in is None else f" in {wanted.timed_in}, into which each is exported"
    note(f"measuring what each layer costs{where}, for {wanted.seconds:g} s")
    if "latency" in wanted.budget and wanted.runs_on not in (None, *MEASURED):
        note(f"latency is that of torch: layers can be measured in {', '.join(MEASURED)}, not in {wanted.runs_on}")
    args, kwargs = inputs
    return measure_costs(loaded.model, args, kwargs, seconds=wanted.seconds, runtime=wanted.timed_in)


def _by_criterion(loaded: Loaded, task: Task | None, wanted: Wanted, costs: CostTable | None) -> Made:
    """The smaller model whose heads are chosen by their scores."""
    assert wanted.criterion is not None
    note(f"scoring heads by {wanted.criterion}")
    batches, loss = (None, None) if task is None else (task.calibration(), task.loss)
    scores = score(loaded.model, batches, loss, wanted.criterion, seed=wanted.seed, **wanted.options)
    plan = choose(scores, model=loaded.model, costs=costs, runs_on=wanted.runs_on, **wanted.budget)
    return Made(_repaired(loaded, task, plan, wanted), scores)


def _repaired(loaded: Loaded, task: Task | None, plan: HeadPlan, wanted: Wanted) -> nn.Module:
    """The model pruned by the plan and, where there is a task, repaired and, if that is wanted, trained."""
    note("pruning")
    small = prune(loaded.model, plan)
    if task is None:
        return small
    note("repairing what is left")
    small = compensate(small, loaded.model, task.calibration(), task.forward)
    if wanted.train is None:
        return small
    note(f"training for {wanted.train} at most")
    return distill(
        small,
        loaded.model,
        _further(task) or task.calibration(),
        task.forward,
        seconds=wanted.train,
        learning_rate=RATE,
        distance=_distance(task),
    )


def _shrunk(loaded: Loaded, task: Task, wanted: Wanted, costs: CostTable | None) -> Made:
    """What `mha.shrink` makes: heads chosen in closed form, the rest repaired and, if that is wanted, trained."""
    note("shrinking: heads are chosen, cut out, and what is left is repaired")
    budget = dict(wanted.budget) if wanted.at_most is None else {"at_most": wanted.at_most, "judge": task}
    budget |= {} if wanted.runs_on is None else {"runs_on": wanted.runs_on}
    small = shrink(
        loaded.model,
        task.calibration(),
        task.loss,
        task.forward,
        criterion=wanted.criterion,
        distance=_distance(task),
        distill=wanted.train,
        unlabelled=_further(task) if wanted.train else None,
        confidence=wanted.confidence,
        seed=wanted.seed,
        costs=costs,
        **budget,
    )
    certificate: Certificate | None = vars(small).pop("certificate", None)
    if certificate is not None and certificate.is_dense:
        raise CertificateError(f"no smaller model: {certificate}")
    return Made(small, certificate=certificate)


def _further(task: Task) -> Any:
    """The task's batches without labels; None where it has none."""
    return (task.unlabelled() if hasattr(task, "unlabelled") else None) or None


def _distance(task: Task) -> Any:
    """By what the task compares outputs; None for mean squares."""
    return getattr(task, "distance", None)
