"""`mha prune`: a smaller model, repaired, checked, measured and saved."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from torch import nn

from mha.cli.comparison import Judged, Timed, as_document, judged, timed
from mha.cli.criteria import CriterionName, OptionOfCriterion, check_needs, check_options
from mha.cli.history import heads_of, history_in, removed_between, told, write_history
from mha.cli.inputs import Inputs, inputs_of
from mha.cli.models import Loaded, read_model
from mha.cli.proof import Proof, proved
from mha.cli.settings import Settings, note, with_settings
from mha.cli.shrinking import BY_COSTS, Made, Wanted, smaller
from mha.cli.tasks import read_task
from mha.planning.runtimes import RUNTIMES
from mha.pruning.checkpoint.saving import save_pruned
from mha.pruning.slicing import plan_of
from mha.repair.distill import seconds_in
from mha.tasks import Task
from mha.values.errors import CalibrationError
from mha.values.plan import HeadPlan, HeadScores
from mha.values.whole_directory import check_free, whole_directory

SHARE = click.FloatRange(0, 1)
BUDGETS = ("keep", "heads", "latency", "flops", "parameters")
LOCK = ".pruned.lock"


class Loss(click.ParamType[float]):
    """What may be lost of a metric: 0.01, or 1pt for a point, a hundredth."""

    name = "LOSS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The loss as a number; else the command line ends with wrong use."""
        text = str(value).strip()
        points = next((end for end in ("points", "point", "pts", "pt") if text.endswith(end)), "")
        try:
            loss = float(text.removesuffix(points)) / (100 if points else 1)
        except ValueError:
            loss = 0.0
        if not 0 < loss < float("inf"):
            self.fail(f"expected a loss above 0, as 0.01, or 1pt for a point (a hundredth); got {value!r}", param, ctx)
        return loss


class Duration(click.ParamType[str]):
    """A time, as 1min or 30s."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, if it is a time; else the command line ends with wrong use."""
        try:
            seconds_in(str(value))
        except CalibrationError as error:
            self.fail(str(error), param, ctx)
        return str(value)


@click.command(short_help="Cut heads out, repair, check, measure, and save.")
@click.argument("model")
@click.option("--task", metavar="TASK", help="What the model is for; without it nothing is repaired or judged.")
@click.option("--keep", type=SHARE, help="Share of the heads that stays, as 0.5.")
@click.option("--heads", type=click.IntRange(0), help="Number of heads that stay.")
@click.option("--latency", type=SHARE, help="Share of the present time that the smaller model takes at most.")
@click.option("--flops", type=SHARE, help="The same of floating-point operations.")
@click.option("--parameters", type=SHARE, help="The same of parameters.")
@click.option("--at-most", type=Loss(), help="Loss of the task's metric that is allowed, as 1pt or 0.01.")
@click.option("--plan", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A plan, as plan.json.")
@click.option("--confidence", type=click.FloatRange(0, 1, True, True), default=0.95, show_default=True)
@click.option("--criterion", type=CriterionName(), help="Score heads by this, in place of shrink's closed form.")
@click.option("--option", "of_criterion", type=OptionOfCriterion(), multiple=True, help="Of it, as unit=batch.")
@click.option("--runs-on", type=click.Choice([*RUNTIMES]), help="The runtime that the plan has to suit.")
@click.option("--distill", type=Duration(), help="Train the result on the model's outputs for so long, as 1min.")
@click.option("--batch-size", type=click.IntRange(1), help="For timing; default: the task's.")
@click.option("--length", type=click.IntRange(1), help="Tokens of each sequence, for timing; default: the task's.")
@click.option("--seconds", type=click.FloatRange(0.01), default=10.0, show_default=True, help="How long timing takes.")
@click.option("--seed", default=0, show_default=True, help="For what is drawn at random.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Directory to make.")
@with_settings
def prune(
    model: str, output: Path, task: str | None, criterion: str | None, settings: Settings, **options: Any
) -> None:
    """Cut heads out of MODEL, repair what is left, check it, measure it, and save it.

    \b
    Give one of --keep, --heads, --latency, --flops, --parameters, --at-most and --plan.
    \b
    Examples:
      mha prune my-model --task task.toml --keep 0.5 -o smaller
      mha prune my-model --task task.toml --latency 0.8 -o faster
      mha prune my-model --task task.toml --at-most 1pt -o as-good
      mha prune my-model --task task.toml --keep 0.5 --distill 1min -o trained
      mha prune my-model --plan smaller/plan.json -o again
      mha prune my-model --criterion magnitude --keep 0.5 -o smaller
    """
    wanted = _wanted(task, criterion, options)
    check_free(output)
    loaded = read_model(model, settings)
    run = _Run(loaded, None if task is None else read_task(task, loaded), wanted, options)
    result = run.result()
    _save(output, loaded, result)
    settings.tell(result.text(output), {**result.document(), "output": str(output)})


def _wanted(task: str | None, criterion: str | None, options: Mapping[str, Any]) -> Wanted:
    """What the options ask for.

    Raises:
        click.UsageError: not exactly one budget, or options that don't go together.
        PlanError: the plan's file can't be read.
    """
    given = [name for name in (*BUDGETS, "at_most", "plan") if options[name] is not None]
    flags = [f"--{name.replace('_', '-')}" for name in given]
    if len(given) != 1:
        raise click.UsageError(
            "give one of --keep, --heads, --latency, --flops, --parameters, --at-most and --plan; got "
            f"{' and '.join(flags) or 'none'}"
        )
    if task is None and (given[0] in (*BY_COSTS, "at_most") or options["distill"]):
        raise click.UsageError(f"{'--distill' if options['distill'] else flags[0]} needs data: give --task")
    if options["runs_on"] and given[0] in ("plan", "at_most"):
        raise click.UsageError(
            f"--runs-on is of plans that are chosen here, within a budget; leave it or {flags[0]} out"
        )
    if given[0] == "plan":
        if criterion is not None:
            raise click.UsageError("--criterion chooses heads, and --plan says which; give one of them")
    elif task is None or criterion is not None:
        check_needs(criterion, task)
    if options["of_criterion"] and criterion is None:
        raise click.UsageError("--option is of a criterion: give --criterion too")
    return Wanted(
        budget={name: options[name] for name in given if name in BUDGETS},
        plan=None if options["plan"] is None else HeadPlan.from_json(options["plan"]),
        at_most=options["at_most"],
        confidence=options["confidence"],
        criterion=criterion,
        runs_on=options["runs_on"],
        options=check_options(criterion, options["of_criterion"]),
        train=options["distill"],
        seed=options["seed"],
        seconds=max(options["seconds"], 0.01),
    )


@dataclass(frozen=True)
class _Result:
    """A smaller model and what was measured of it.

    Attributes:
        before: what the history of the model says.
        proof: that slicing computes what masking computes; None where no inputs are known.
    """

    dense: nn.Module
    made: Made
    wanted: Wanted
    before: list[dict[str, Any]]
    proof: Proof | None
    quality: Judged | None
    speed: Timed | None

    @property
    def removed(self) -> int:
        """How many heads were removed now."""
        return heads_of(self.dense).present - heads_of(self.made.model).present

    def entry(self) -> dict[str, Any]:
        """What the history says of this time."""
        small, scores = self.made.model, self.made.scores
        return {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "how": self.wanted.sentence(),
            "removed": self.removed,
            "heads": heads_of(small).present,
            "heads_made_with": heads_of(small).made,
            "removed_heads": removed_between(self.dense, small),
            "plan": {name: list(heads) for name, heads in plan_of(small).items()},
            "scores": None if scores is None else _by_head(scores),
            "quality": as_document(self.quality),
            "speed": as_document(self.speed),
        }

    def document(self) -> dict[str, Any]:
        """The result for JSON."""
        certificate = self.made.certificate
        return {
            **self.entry(),
            "masked_minus_sliced": None if self.proof is None else self.proof.difference,
            "certificate": None if certificate is None else str(certificate),
            "before": self.before,
        }

    def text(self, output: Path) -> str:
        """What is told in the end, the last line in plain words."""
        heads = heads_of(self.dense)
        lines = [told(heads, self.before)]
        if self.proof is not None:
            lines.append(self.proof.sentence())
        if self.made.certificate is not None:
            lines.append(str(self.made.certificate))
        measured = [part.sentence() for part in (self.quality, self.speed) if part is not None]
        what = f": {', '.join(measured)}" if measured else ""
        lines.append(f"{self.removed} of {heads.present} heads removed{what}. Saved in {str(output).rstrip('/')}/.")
        return "\n".join(filter(None, lines))


def _by_head(scores: HeadScores) -> dict[str, dict[int, float]]:
    """The scores by layer and original number."""
    return {name: dict(zip(scores.heads[name], values.tolist(), strict=True)) for name, values in scores.scores.items()}


@dataclass(frozen=True)
class _Run:
    """One pruning: from what was read to what is saved."""

    loaded: Loaded
    task: Task | None
    wanted: Wanted
    options: Mapping[str, Any]

    def result(self) -> _Result:
        """Make the smaller model, check it, and measure it."""
        loaded, task = self.loaded, self.task
        before = history_in(loaded.folder)
        if sentence := told(heads_of(loaded.model), before):
            note(sentence)
        inputs = self._inputs()
        made = smaller(loaded, task, self.wanted, inputs)
        made.model.eval()
        return _Result(
            dense=loaded.model,
            made=made,
            wanted=self.wanted,
            before=before,
            proof=None if inputs is None else proved(loaded.model, plan_of(made.model), inputs),
            quality=None if task is None else judged(task, loaded.model, made.model, self.wanted.seed),
            speed=None
            if inputs is None
            else timed(loaded.model, made.model, inputs, loaded.device, self.options["seconds"], self.wanted.timed_in),
        )

    def _inputs(self) -> Inputs | None:
        """With what both models are called; None where there is no task and nothing else tells."""
        try:
            return inputs_of(
                self.loaded.model, self.task, self.loaded.device, self.options["batch_size"], self.options["length"]
            )
        except CalibrationError:
            if self.task is not None:
                raise
            note("what the model is called with is not known without --task: it is neither checked nor timed")
            return None


def _save(output: Path, loaded: Loaded, result: _Result) -> None:
    """Write the model, its tokenizer, the plan, the scores and the history into a new directory, whole or not at all.

    Raises:
        CheckpointError: something is there, or it can't be written.
    """
    small, made = result.made.model, result.made
    with whole_directory(output) as partial:
        save_pruned(small, partial)
        (partial / LOCK).unlink(missing_ok=True)
        processor = loaded.processor
        if hasattr(processor, "save_pretrained"):
            processor.save_pretrained(partial)
        generation: Any = getattr(small, "generation_config", None)
        if generation is not None:
            generation.save_pretrained(partial)
        plan_of(small).to_json(partial / "plan.json")
        if made.scores is not None:
            made.scores.to_json(partial / "scores.json")
        if made.certificate is not None:
            made.certificate.to_json(partial / "certificate.json")
        write_history(partial, [*result.before, result.entry()])
