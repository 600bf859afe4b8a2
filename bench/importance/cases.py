"""The cases of the importance experiments: what is measured in each, and in which order they are done."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn

import mha
from bench.importance import subsets
from bench.importance.data import count, pick, size_of
from bench.importance.records import pack
from bench.importance.settings import ImportanceSettings
from bench.importance.subjects import Subject, pretrained, section_of, subject
from bench.importance.variants import CROSSED, FLOOR, ScoringVariant, variants
from mha.costs import parameters_of

Record = dict[str, Any]

KINDS_BY = ("leave_one_out", "taylor", "taylor_second_order")  # and at random
KIND_FRACTIONS = (0.5, 0.25)  # of one kind's heads that stay
RIVALS = {"small": (1, 2, 3), "digits": (1, 2, 4)}
RIVALS_QUICK = {"small": (1,), "digits": (1,)}
ORDER = ("model", "rival", "subsets", "truth", "scores", "resamples", "stability")  # who trains comes first
SIZES = ("planted", "small", "digits", "dates", "sentences", "smollm")
SECONDS = {  # CPU seconds that a case of each of SIZES takes, to guess the time left; scores without the scoring
    "model": (0, 15, 75, 115, 25, 55), "rival": (0, 12, 45, 0, 0, 0), "subsets": (1.8, 16, 0, 0, 0, 0),
    "truth": (0.2, 0.5, 11, 40, 500, 2200), "scores": (0.1, 0.1, 1.6, 4, 25, 45), "resamples": (0, 0, 0, 0, 0, 0),
    "stability": (0, 0, 0, 0, 0, 0),
}  # fmt: skip
SCORING = {  # CPU seconds, of those who take long
    "shapley": (0.7, 3.7, 20, 62, 6000, 14000), "leave_one_out+rounds": (0.3, 3, 25, 55, 2400, 8000),
    "leave_one_out": (0.1, 0.4, 4, 15, 250, 1050), "gate": (0.2, 0.5, 6, 6, 500, 1000),
    "hard_concrete": (0.3, 1, 6, 10, 500, 1000), "subset": (0.3, 1, 6, 10, 500, 1000),
}  # fmt: skip
QUICKLY = (0.05, 0.1, 0.5, 1, 15, 15)
SCORINGS = {"scores": 1, "resamples": 4, "stability": 2.75}  # of the whole calibration set


@dataclass(frozen=True)
class ImportanceCase:
    """One piece of work of the importance experiments, whose result is one file.

    Attributes:
        subject: the name of the task or scenario.
        seed: of the training, and of the data where they are generated.
        what: the sort of work, one of ORDER.
        detail: what tells cases of one sort apart: the label of a variant ("random@3" for draw 3 of random scores), the
            number of a part of all subsets, or how many heads each layer of a rival has.
    """

    subject: str
    seed: int
    what: str
    detail: str = ""

    @property
    def id(self) -> str:
        """The name of the case, and of its file without the suffix, such as "small-s0-scores-taylor"."""
        return "-".join(filter(None, (self.subject, f"s{self.seed}", self.what, self.detail)))

    @property
    def seconds(self) -> float:
        """About how many CPU seconds the case takes: a guess, for the order of the cases and the time left."""
        size = SIZES.index(self.subject.split("_")[0])
        scoring = SCORING.get(self.detail, QUICKLY)[size] * SCORINGS.get(self.what, 0)
        return SECONDS[self.what][size] + scoring


def cases(
    settings: ImportanceSettings, subjects: Sequence[str], labels: Sequence[str] | None, seeds: int
) -> list[ImportanceCase]:
    """All cases of these subjects and variants, for the training seeds from 0 to `seeds` - 1, of pretrained models 0.

    They are sorted by ORDER, and within a sort of work by `ImportanceCase.seconds`, the slow ones first.

    Args:
        subjects: their names.
        labels: those of the variants; None for all, on pretrained models without those that take hours there.
        seeds: how many training seeds there are.
    """
    seeded = [(name, seed) for name in subjects for seed in range(1 if pretrained(name) else seeds)]
    unordered = [case for name, seed in seeded for case in _of(settings, name, seed, labels or _usual(name))]
    return sorted(unordered, key=lambda case: (ORDER.index(case.what), -case.seconds))


def _usual(name: str) -> list[str]:
    """The labels of the variants by which the subject of this name is scored where none are named."""
    return [label for label, variant in variants().items() if not (pretrained(name) and variant.hours)]


def _of(settings: ImportanceSettings, name: str, seed: int, labels: Sequence[str]) -> Iterator[ImportanceCase]:
    """Yield the cases of the subject `name` and one training seed, with the variants of these labels.

    Which sorts of work there are depends on the subject's section.
    """
    section = section_of(name)
    known = variants()
    if section != "planted":
        yield ImportanceCase(name, seed, "model")
        if section == "exhaustive" or seed == 0:
            for heads in (RIVALS_QUICK if settings.quick else RIVALS).get(name, ()):
                yield ImportanceCase(name, seed, "rival", str(heads))
    yield ImportanceCase(name, seed, "truth")
    if section != "held_out":
        for part in range(settings.parts if section == "exhaustive" else 1):
            yield ImportanceCase(name, seed, "subsets", str(part))
    for label in labels:
        if label == FLOOR:
            draws = settings.random_draws if section == "held_out" else 1
            draws = min(draws, settings.pretrained_draws) if pretrained(name) else draws
            yield from (ImportanceCase(name, seed, "scores", f"{FLOOR}@{draw}") for draw in range(draws))
            continue
        if pretrained(name) and label == CROSSED:
            continue  # the case "truth" does it
        yield ImportanceCase(name, seed, "scores", label)
        if section == "exhaustive":
            yield ImportanceCase(name, seed, "resamples", label)
        repeated = section == "exhaustive" or (section == "held_out" and not known[label].slow and not pretrained(name))
        if seed == 0 and repeated:
            yield ImportanceCase(name, seed, "stability", label)


def run(case: ImportanceCase, settings: ImportanceSettings) -> Record:
    """Do a case, and return its results as a mapping that JSON can hold; what is in it depends on `case.what`."""
    it = _subject(case.subject, case.seed, settings.quick)
    return _RUN[case.what](it, case, settings)


@lru_cache(maxsize=3)
def _subject(name: str, seed: int, quick: bool) -> Subject:
    """The subject of that name and training seed; the last three are cached, since other cases want them too."""
    return subject(name, seed, quick=quick)


def _model(it: Subject, _case: ImportanceCase, _settings: ImportanceSettings) -> Record:
    """Train the subject's model, and evaluate it with all heads on the held-out data.

    Returns its `heads` (pairs of layer and number), how many `parameters` it has, its `loss`, and its metric as
    `value`.
    """
    loss, values = it.evaluate(it.model)
    return {
        "heads": [list(head) for head in it.heads],
        "parameters": parameters_of(it.model),
        "loss": loss,
        "value": values.double().mean().item(),
    }


def _rival(it: Subject, case: ImportanceCase, _settings: ImportanceSettings) -> Record:
    """Train a smaller dense model from scratch, with `case.detail` heads a layer, and evaluate it on held-out data.

    Returns `heads_kept` (heads of all its layers), how many `parameters` it has, its `loss`, and each example's
    `values`.
    """
    model = it.rivals[int(case.detail)]()
    loss, values = it.evaluate(model)
    heads = sum(layer.num_heads for layer in mha.find_attention(model).values())
    return {"heads_kept": heads, "parameters": parameters_of(model), "loss": loss, "values": pack(values)}


def _subsets(it: Subject, case: ImportanceCase, settings: ImportanceSettings) -> Record:
    """Evaluate the model on held-out data under one part of all subsets of its heads, that of number `case.detail`.

    Returns the `losses`, one for each subset, and the packed `values`, one for each subset and example.
    """
    parts = settings.parts if it.section == "exhaustive" else 1
    kept = subsets.masks(len(it.heads)).tensor_split(parts)[int(case.detail)]
    losses, values = subsets.evaluate(it, kept)
    return {"losses": losses.tolist(), "values": pack(values)}


def _truth(it: Subject, _case: ImportanceCase, _settings: ImportanceSettings) -> Record:
    """Score by leave-one-out on each half of the held-out data, and evaluate the model with all heads and with none.

    Also evaluates it without the heads of each kind of attention.

    Returns:
        `halves` (scores and number of examples of each), `crossed` if the subject asks for it, `ends` and `kinds` (loss
        and values, by heads kept), and what others need to know of the subject, such as its `section`, its `heads` and
        the positions of `planted` ones.
    """
    halves = [it.held_out[start::2] for start in range(2) if it.held_out[start::2]]
    scored, seconds = [], []
    for half in halves:
        start = time.process_time()
        scored.append((mha.score(it.model, half, it.loss, "leave_one_out", progress=False), count(half)))
        seconds.append(time.process_time() - start)
    ends = {str(kept): _judged(it, _pruned(it, range(kept))) for kept in (0, len(it.heads))}
    return {
        "metric": it.metric,
        "about": it.about,
        "section": it.section,
        "heads": [list(head) for head in it.heads],
        "planted": [position for position, (name, head) in enumerate(it.heads) if head in it.planted.get(name, ())],
        "examples": count(it.held_out),
        "calibration": count(it.calibration),
        "passes": len(it.calibration),
        "halves": [{"scores": it.flat(scores), "examples": examples} for scores, examples in scored],
        **({"crossed": _crossed(it, [scores for scores, _ in scored], seconds)} if it.crossed else {}),
        "ends": ends,
        "kind_heads": {kind: len(positions) for kind, positions in _kinds(it).items()},
        "kinds": {kind: {"0": _judged(it, _pruned_kind(it, kind, [0.0] * len(it.heads), 0))} for kind in _kinds(it)},
    }  # fmt: skip


def _crossed(it: Subject, halves: Sequence[mha.HeadScores], seconds: Sequence[float]) -> Record:
    """What leave-one-out chooses on one half of the held-out batches, evaluated on the other half; as `_scores` has it.

    Args:
        halves: the scores on each half; the first has the batches of even number.
        seconds: CPU seconds that each took.
    """
    plans = [_plans(it, scores, it.across_layers) for scores in halves]
    inner = [str(kept) for kept in it.counts if 0 < kept < len(it.heads)]
    curve = {}
    for kept in inner:
        loss, values = it.evaluate(*(_pruned(it, plan[kept]) for plan in reversed(plans)))
        curve[kept] = {"loss": loss, "values": pack(values)}
    passes = [len(it.held_out[start::2]) for start in range(2)]
    readings = [scores.spent.forward / some for scores, some in zip(halves, passes, strict=True) if scores.spent]
    spent = [sum(readings) / len(readings) * len(it.calibration), 0.0, sum(seconds) / len(seconds)]
    mean = [sum(row) / len(row) for row in zip(*map(it.flat, halves), strict=True)]
    return {"scores": mean, "spent": spent, "plans": plans[0], "curve": curve}


def _scores(it: Subject, case: ImportanceCase, settings: ImportanceSettings) -> Record:
    """Score by the case's variant on the calibration set, and choose a plan from the scores for each head count.

    Unless every subset of heads is evaluated anyway, also evaluates the model pruned by each plan (`curve`) and, for
    the variants of KINDS_BY and some random draws, pruned in one kind of attention alone (`kinds`).

    Returns:
        `scores` (in the order of `Subject.heads`), `spent` (forward passes, backward passes, CPU seconds), `plans`, and
        `curve` and `kinds` where they were measured; and, where heads of different layers are not compared by default,
        `across_layers`: the `plans` and `curve` if they are.
    """
    label, _, draw = case.detail.partition("@")
    start = time.process_time()
    scores = _score(it, variants()[label], it.calibration, settings, seed=int(draw or case.seed))
    seconds = time.process_time() - start  # of the one thread: other processes do not count
    flat, plans = it.flat(scores), _plans(it, scores, it.across_layers)
    spent = scores.spent
    record: Record = {
        "scores": flat,
        "spent": [spent.forward, spent.backward, seconds] if spent else None,
        "plans": plans,
    }
    if it.exhaustive:
        return record
    record["curve"] = _curve(it, plans)
    if it.across_layers is None and not scores.comparable:
        compared = _plans(it, scores, True)
        record["across_layers"] = {"plans": compared, "curve": _curve(it, compared)}
    if label in KINDS_BY or (label == FLOOR and int(draw) < settings.kind_draws):
        record["kinds"] = {
            kind: {
                str(kept): _judged(it, _pruned_kind(it, kind, flat, kept))
                for kept in (round(fraction * len(positions)) for fraction in KIND_FRACTIONS)
            }
            for kind, positions in _kinds(it).items()
        }
    return record


def _curve(it: Subject, plans: Mapping[str, Sequence[int]]) -> Record:
    """Head count, as text -> what `_judged` says of the model pruned by its plan; without no head and all heads.

    `plans` are those of `_plans`.
    """
    inner = {kept: positions for kept, positions in plans.items() if 0 < int(kept) < len(it.heads)}
    return {kept: _judged(it, _pruned(it, positions)) for kept, positions in inner.items()}


def _resamples(it: Subject, case: ImportanceCase, settings: ImportanceSettings) -> Record:
    """Score by the case's variant on each of several bootstrap resamples of the calibration set.

    Returns `draws`: for each resample its `scores`, in the order of `Subject.heads`, and the `plans` that follow.
    """
    total, size = count(it.calibration), size_of(it.calibration[0])
    draws = []
    for draw in range(settings.resamples):
        generator = torch.Generator().manual_seed(1000 * case.seed + draw)
        rows = torch.randint(total, (total,), generator=generator).tolist()
        batches = pick(it.calibration, rows, size)
        scores = _score(it, variants()[case.detail], batches, settings, seed=draw)
        draws.append({"scores": it.flat(scores), "plans": _plans(it, scores, it.across_layers)})
    return {"draws": draws}


def _stability(it: Subject, case: ImportanceCase, settings: ImportanceSettings) -> Record:
    """Score by the case's variant on disjoint parts of the calibration set, for each size of part in the settings.

    Returns `sizes`: number of examples -> for each part of so many its scores, in the order of `Subject.heads`.
    """
    total, size = count(it.calibration), size_of(it.calibration[0])
    order = torch.randperm(total, generator=torch.Generator().manual_seed(case.seed)).tolist()
    scores_by_size = {}
    for examples in settings.sizes:
        slices = min(settings.slices, total // examples)
        if slices < 2:  # nothing to compare
            continue
        parts = [order[part * examples : (part + 1) * examples] for part in range(slices)]
        scored = [
            _score(it, variants()[case.detail], pick(it.calibration, part, size), settings, seed=case.seed)
            for part in parts
        ]
        scores_by_size[str(examples)] = [it.flat(scores) for scores in scored]
    return {"sizes": scores_by_size}


def _score(
    it: Subject, variant: ScoringVariant, batches: Sequence[Any], settings: ImportanceSettings, *, seed: int
) -> mha.HeadScores:
    """The scores of all heads by this variant on these batches, with the rounds and permutations that the settings say.

    A model whose every subset of heads is evaluated has a round for each head instead.
    """
    rounds = len(it.heads) if it.exhaustive else settings.rounds
    few, many = settings.permutations
    permutations = few if it.exhaustive else many
    return variant.score(
        it.model, batches, it.loss, seed=seed, rounds=rounds, permutations=permutations, options=it.options
    )


def _plans(it: Subject, scores: mha.HeadScores, across_layers: Literal[True] | None) -> dict[str, list[int]]:
    """The plans that follow from scores: head count -> positions of the heads that are kept.

    The head counts are those of `Subject.counts`, as text; positions are those in `Subject.heads`. Where not every
    number of heads is feasible, a plan keeps the largest that is, and no more than the count.

    Args:
        across_layers: how heads of different layers are compared, as `mha.choose` takes it.
    """
    return {
        str(kept): it.positions(mha.choose(scores, model=it.model, heads=kept, across_layers=across_layers))
        for kept in it.counts
    }


def _pruned(it: Subject, positions: Sequence[int]) -> nn.Module:
    """The model, pruned to the heads at these positions in `Subject.heads`."""
    return mha.prune(it.model, it.plan(positions)).eval()


def _pruned_kind(it: Subject, kind: str, scores: Sequence[float], kept: int) -> nn.Module:
    """The model, pruned to the `kept` heads of the kind of attention `kind` that score highest, and all of other kinds.

    `scores` has one for each head, in the order of `Subject.heads`.
    """
    own = _kinds(it)[kind]
    best = sorted(own, key=lambda position: -scores[position])[:kept]
    return _pruned(it, [position for position in range(len(it.heads)) if position in best or position not in own])


def _kinds(it: Subject) -> dict[str, list[int]]:
    """Kind of attention, such as "cross" -> positions in `Subject.heads` of its heads; empty if `Subject.kinds` is."""
    kinds: dict[str, list[int]] = {}
    for position, (name, _) in enumerate(it.heads):
        if name in it.kinds:
            kinds.setdefault(it.kinds[name], []).append(position)
    return kinds


def _judged(it: Subject, model: nn.Module) -> Record:
    """The held-out `loss` of a model, and each held-out example's value (`Subject.per_example`), packed: `values`."""
    loss, values = it.evaluate(model)
    return {"loss": loss, "values": pack(values)}


_RUN: Mapping[str, Callable[[Subject, ImportanceCase, ImportanceSettings], Record]] = {
    "model": _model,
    "rival": _rival,
    "subsets": _subsets,
    "truth": _truth,
    "scores": _scores,
    "resamples": _resamples,
    "stability": _stability,
}
