"""What criteria are tried on: trained tasks, and models built by hand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import cycle
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mha
from bench import tasks
from bench.importance import planted
from bench.tasks._dates_model import DatesSettings
from bench.tasks.dates import Dates
from bench.tasks.digits import Digits, DigitsSettings
from bench.tasks.sentences import SHARPNESS, Sentences, SentencesSettings, Texts
from bench.tasks.smollm import SmolLM, SmolSettings, next_token_losses

Section = Literal["exhaustive", "planted", "held_out"]
PerExample = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]

SMALL = DigitsSettings(
    places=4, patches=1, width=32, hidden=64, layers=3, heads=4, head_dim=8, steps=1500, distortions=8
)
PRETRAINED = ("sentences", "smollm")
LIKELIHOOD = "log-likelihood of a token"  # a metric that reports tell as a perplexity
EVERY_SUBSET = 12  # heads at most, for every subset of them to be evaluated


@dataclass(frozen=True)
class Subject:
    """What criteria are tried on: a model and its data.

    Attributes:
        section: "exhaustive" (trained, with so few heads that every subset is evaluated), "held_out" (trained, with
            more heads), or "planted" (built by hand; every subset is evaluated).
        metric: what the values of `per_example` are, as a reader would call it.
        build: the model, in eval mode; a new object each time.
        calibration, held_out: labelled batches as `bench.importance.data` has them; they share no example.
        loss: (model, batch) -> scalar, the mean over examples.
        per_example: (model, batch) -> each example's loss (b,) and value (b,), of which more is better; the metric is
            the mean of the values.
        planted: layer name -> numbers of the heads that its scenario has planted there.
        kinds: layer name -> its kind of attention, where there are several kinds.
        rivals: heads per layer -> a smaller dense model trained like this one from scratch.
        steps: in how many steps from no head to all the metric is taken, where not every subset is evaluated.
        fractions: the kept fractions, without 0 and 1, at which it is taken instead of in equal steps.
        options: what criteria get that have such an option, here where their own default can't be had.
        across_layers: how `mha.choose` compares heads of different layers. True: as they are, whatever the criterion
            says of its scores. None: as it does by default, and beside it as they are, where that is not the same.
        crossed: whether leave-one-out is judged by the truth's own halves, since scoring once more would take as long
            as all else: heads are chosen by its scores on one half of the held-out batches, and the model is evaluated
            on the other half.
        about: what the task or the scenario is, in one sentence.
    """

    name: str
    section: Section
    metric: str
    build: Callable[[], nn.Module]
    calibration: Sequence[Any]
    held_out: Sequence[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    per_example: PerExample
    planted: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    rivals: Mapping[int, Callable[[], nn.Module]] = field(default_factory=dict)
    steps: int = 8
    fractions: tuple[float, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    across_layers: Literal[True] | None = True
    crossed: bool = False
    about: str = ""

    @cached_property
    def model(self) -> nn.Module:
        """The model with all of its heads, built (a trained task's: trained) when it is first asked for."""
        return self.build()

    @cached_property
    def heads(self) -> tuple[tuple[str, int], ...]:
        """The layer and the original number of every head. A position, in this package, is a place in this tuple."""
        layers = mha.find_attention(self.model)
        return tuple((name, head) for name, layer in layers.items() for head in layer.heads)

    @property
    def exhaustive(self) -> bool:
        """Whether every subset of heads is evaluated: whether the model has at most EVERY_SUBSET heads."""
        return len(self.heads) <= EVERY_SUBSET

    @property
    def counts(self) -> tuple[int, ...]:
        """The head counts at which the metric is taken, ascending from none to all.

        That is every count where every subset is evaluated, else those of `fractions`, or without them `steps` steps of
        about the same size.
        """
        total = len(self.heads)
        steps = total if self.exhaustive else self.steps
        inner = self.fractions or [step / steps for step in range(1, steps)]
        return tuple(sorted({0, total, *(round(total * fraction) for fraction in inner)}))

    def plan(self, kept: Sequence[int]) -> mha.HeadPlan:
        """The plan that keeps the heads at the positions `kept` in `heads`, and no other; a layer may keep none."""
        keep: dict[str, list[int]] = {name: [] for name, _ in self.heads}
        for position in kept:
            name, head = self.heads[position]
            keep[name].append(head)
        return mha.HeadPlan(keep)

    def positions(self, plan: mha.HeadPlan) -> list[int]:
        """The positions in `heads` of the heads that a plan keeps."""
        return [position for position, (name, head) in enumerate(self.heads) if head in plan.keep[name]]

    def flat(self, scores: mha.HeadScores) -> list[float]:
        """The score of each head, from all layers, in the order of `heads`."""
        return [scores.scores[name][scores.heads[name].index(head)].item() for name, head in self.heads]

    def evaluate(self, *models: nn.Module) -> tuple[float, Tensor]:
        """The held-out loss of a model, which may be pruned, and each held-out example's value under it, (n,).

        Of several models each evaluates the batches that fall to it when they take turns.
        """
        with torch.inference_mode():
            pairs = zip(cycle(models), self.held_out, strict=False)
            losses, values = zip(*(self.per_example(model, batch) for model, batch in pairs), strict=True)
        return torch.cat(losses).double().mean().item(), torch.cat(values)


def names() -> tuple[str, ...]:
    """The names of all subjects, the slow ones last."""
    return tuple(_SUBJECTS)


def usual(*, quick: bool) -> tuple[str, ...]:
    """The names of the subjects of a run that names none: all whose packages are installed, if quick none of those."""
    return tuple(name for name in names() if not pretrained(name) or not (quick or tasks.missing(name)))


def pretrained(name: str) -> bool:
    """Whether the model of the subject with this name comes as a package, and is the same whatever the seed."""
    return name in PRETRAINED


def section_of(name: str) -> Section:
    """The section of the subject with this name: "exhaustive", "planted" or "held_out" (see `Subject`)."""
    return _SUBJECTS[name][0]


def subject(name: str, seed: int, *, quick: bool = False) -> Subject:
    """The subject of that name, one of `names()`.

    Args:
        seed: of the training, and of the data where they are generated.
        quick: a model that is too small and hardly trained, and few examples: to see that everything runs.
    """
    return _SUBJECTS[name][1](seed, quick)


class Small(Digits):
    """`digits` with rows of four whole images, and so few heads that every subset of them can be evaluated."""

    name = "small"


def _small(seed: int, quick: bool) -> Subject:
    """The subject `small`: rows of four digits, and so few heads that every subset of them is evaluated.

    `seed` and `quick` are as in `subject`.
    """
    settings = replace(SMALL, seed=seed)
    if quick:
        settings = replace(settings, layers=2, heads=2, steps=30, distortions=1)
    return _digits(Small(settings), "exhaustive", quick, rivals=(1,) if quick else (1, 2, 3), held_out=1000, batch=64)


def _large(seed: int, quick: bool) -> Subject:
    """The subject `digits`, made of the reference task of that name; `seed` and `quick` are as in `subject`."""
    settings = DigitsSettings(seed=seed)
    if quick:
        settings = replace(settings, width=32, hidden=32, layers=3, heads=5, head_dim=4, steps=30, distortions=1)
    return _digits(Digits(settings), "held_out", quick, rivals=(1,) if quick else (1, 2, 4), held_out=2000, batch=32)


def _digits(task: Digits, section: Section, quick: bool, rivals: Sequence[int], held_out: int, batch: int) -> Subject:
    """A subject made of a task of rows of digits.

    Args:
        section: of the subject (see `Subject`).
        quick: few examples, whatever `held_out` says.
        rivals: how many heads each layer of the smaller dense models has.
        held_out: how many examples models are evaluated on.
        batch: how many calibration examples are in a batch.
    """

    def per_example(model: nn.Module, rows: Any) -> tuple[Tensor, Tensor]:
        logits = task.forward(model, rows)
        losses = F.cross_entropy(logits.flatten(0, 1), rows.answers.flatten(), reduction="none")
        return losses.reshape(rows.answers.shape).mean(dim=1), (logits.argmax(-1) == rows.answers).float().mean(dim=1)

    smaller = {heads: type(task)(replace(task.settings, heads=heads)).model for heads in rivals}
    calibration, evaluation = (64, 150) if quick else (512, held_out)
    return Subject(
        name=task.name,
        section=section,
        metric=task.metric,
        build=task.model,
        calibration=task.rows("calibration", calibration).batches(batch),
        held_out=task.rows("evaluation", evaluation).batches(250),
        loss=task.loss,
        per_example=per_example,
        rivals=smaller,
        about=f"{(type(task).__doc__ or '').strip()} {task.settings.layers} layers × {task.settings.heads} heads.",
    )


def _dates(seed: int, quick: bool) -> Subject:
    """The subject `dates`, made of the reference task of that name; `seed` and `quick` are as in `subject`."""
    settings = DatesSettings(seed=seed)
    if quick:
        settings = replace(
            settings, width=32, num_heads=3, encoder_layers=2, decoder_layers=2, feed_forward=32, steps=20,
            calibration_batches=2, evaluation_examples=150,
        )  # fmt: skip
    task = Dates(settings)

    def per_example(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        logits = task.forward(model, batch)
        losses = F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), reduction="none")
        right = (logits.argmax(dim=-1) == batch.target).all(dim=1)
        return losses.reshape(batch.target.shape).mean(dim=1), right.float()

    kinds = {f"encoder.{index}.self_attention": "encoder" for index in range(settings.encoder_layers)}
    for index in range(settings.decoder_layers):
        kinds[f"decoder.{index}.self_attention"] = "decoder"
        kinds[f"decoder.{index}.cross_attention"] = "cross"
    return Subject(
        name=task.name,
        section="held_out",
        metric=task.metric,
        build=task.model,
        calibration=task.calibration(),
        held_out=task.evaluation,
        loss=task.loss,
        per_example=per_example,
        kinds=kinds,
        steps=12,
        about="Dates as people write them, rewritten as ISO 8601.",
    )


def _sentences(_seed: int, quick: bool) -> Subject:
    """The subject `sentences`, made of the reference task of that name; each batch is a search of its own."""
    few = SentencesSettings(packages=("python",), evaluation=64, calibration=64, unlabelled=0)
    task = Sentences(few if quick else SentencesSettings(evaluation=192, calibration=128, unlabelled=0, batch=16))

    searched = 32 if quick else 96  # texts

    def per_example(model: nn.Module, batch: Texts) -> tuple[Tensor, Tensor]:
        summaries, texts = task.forward(model, batch).unflatten(0, (-1, 2)).unbind(dim=1)
        logits, own = SHARPNESS * summaries @ texts.T, torch.arange(len(texts))
        return F.cross_entropy(logits, own, reduction="none"), (logits.argmax(dim=1) == own).float()

    return Subject(
        name=task.name,
        section="held_out",
        metric=f"accuracy@1 in {searched}",
        build=task.model,
        calibration=task.calibration(),
        held_out=task.pairs_in_batches("evaluation", searched),
        loss=task.loss,
        per_example=per_example,
        fractions=(0.5,) if quick else (0.5, 0.75),
        options={"unit": "batch"},  # a summary is told from the texts of its batch: no example has a loss of its own
        across_layers=None,
        crossed=True,
        about="Texts found by their summaries, by MiniLM, a pretrained BERT. 6 layers × 12 heads.",
    )


def _smollm(_seed: int, quick: bool) -> Subject:
    """The subject `smollm`, made of the reference task of that name, with fewer and shorter sequences.

    Its metric is the mean log-likelihood of a token, of which more is better; exp of its negative is the perplexity.
    """
    task = SmolLM(SmolSettings(evaluation=16, calibration=8, unlabelled=0, length=128))
    if quick:
        task = SmolLM(SmolSettings(evaluation=4, calibration=4, unlabelled=0, length=16, batch=2))

    def per_example(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        losses, real = next_token_losses(task.forward(model, batch), batch)
        losses = losses.sum(dim=1) / real.sum(dim=1)
        return losses, -losses

    return Subject(
        name=task.name,
        section="held_out",
        metric=LIKELIHOOD,
        build=task.model,
        calibration=task.calibration(),
        held_out=task.evaluation(),
        loss=task.loss,
        per_example=per_example,
        fractions=(0.5,) if quick else (0.5, 0.75, 0.9),
        across_layers=None,
        crossed=True,
        about="Python's documentation, read by SmolLM2-135M. 30 layers × 9 query heads in 3 groups.",
    )


def _planted(scenario: str, seed: int, quick: bool) -> Subject:
    """The subject made of the scenario of this name, one of `planted.SCENARIOS`.

    Args:
        seed: of the data; weights are not trained.
        quick: few examples.
    """
    plant = planted.SCENARIOS[scenario]()
    examples = 64 if quick else 512

    def per_example(model: nn.Module, batch: planted.Batch) -> tuple[Tensor, Tensor]:
        logits = model(batch.stream)
        losses = F.cross_entropy(logits, batch.answers, reduction="none")
        return losses, (logits.argmax(-1) == batch.answers).float()

    return Subject(
        name=f"planted_{scenario}",
        section="planted",
        metric="accuracy",
        build=plant.model,
        calibration=plant.batches(examples, 64, seed=2 * seed),
        held_out=plant.batches(2 * examples, 512, seed=2 * seed + 1),
        loss=lambda model, batch: F.cross_entropy(model(batch.stream), batch.answers),
        per_example=per_example,
        planted={f"layers.{layer}": heads for layer, heads in plant.planted.items()},
        about=plant.about,
    )


_SUBJECTS: dict[str, tuple[Section, Callable[[int, bool], Subject]]] = {
    **{f"planted_{name}": ("planted", partial(_planted, name)) for name in planted.SCENARIOS},
    "small": ("exhaustive", _small),
    "digits": ("held_out", _large),
    "dates": ("held_out", _dates),
    "sentences": ("held_out", _sentences),
    "smollm": ("held_out", _smollm),
}
