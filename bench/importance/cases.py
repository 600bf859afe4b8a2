"""The pieces of work: what is measured in each, and in which order they are done."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

import mha
from bench.importance import subsets
from bench.importance.data import count, pick
from bench.importance.records import pack
from bench.importance.settings import Settings
from bench.importance.subjects import Subject, section_of, subject
from bench.importance.variants import FLOOR, Variant, variants
from mha.costs import parameters_of

Record = dict[str, Any]

KINDS_BY = ("leave_one_out", "taylor", "taylor_second_order")  # and at random
KIND_FRACTIONS = (0.5, 0.25)  # of one kind's heads that stay
RIVALS = {"small": (1, 2, 3), "digits": (1, 2, 4)}
RIVALS_QUICK = {"small": (1,), "digits": (1,)}
ORDER = ("model", "rival", "subsets", "truth", "scores", "resamples", "stability")  # who trains comes first
SIZES = ("planted", "small", "digits", "dates")
SECONDS = {  # CPU seconds that a case of each of SIZES takes, to guess the time left; scores without the scoring
    "model": (0, 15, 75, 115), "rival": (0, 12, 45, 0), "subsets": (1.8, 16, 0, 0), "truth": (0.2, 0.5, 11, 40),
    "scores": (0.1, 0.1, 1.6, 4), "resamples": (0, 0, 0, 0), "stability": (0, 0, 0, 0),
}  # fmt: skip
SCORING = {  # CPU seconds, of those who take long
    "shapley": (0.7, 3.7, 20, 62), "leave_one_out+rounds": (0.3, 3, 25, 55), "leave_one_out": (0.1, 0.4, 4, 15),
    "gate": (0.2, 0.5, 6, 6), "hard_concrete": (0.3, 1, 6, 10), "subset": (0.3, 1, 6, 10),
}  # fmt: skip
QUICKLY = (0.05, 0.1, 0.5, 1)
SCORINGS = {"scores": 1, "resamples": 4, "stability": 2.75}  # of the whole calibration set


@dataclass(frozen=True)
class Case:
    """One piece of work, and one file.

    Attributes:
        what: one of ORDER.
        detail: the label of a variant, and for random ones which draw; the part of the subsets; a rival's heads.
    """

    subject: str
    seed: int
    what: str
    detail: str = ""

    @property
    def id(self) -> str:
        return "-".join(filter(None, (self.subject, f"s{self.seed}", self.what, self.detail)))

    @property
    def seconds(self) -> float:
        """A guess; only the time left depends on it."""
        size = SIZES.index(self.subject.split("_")[0])
        scoring = SCORING.get(self.detail, QUICKLY)[size] * SCORINGS.get(self.what, 0)
        return SECONDS[self.what][size] + scoring


def cases(settings: Settings, subjects: Sequence[str], labels: Sequence[str], seeds: int) -> list[Case]:
    """All of them, those that others wait for first, the slow ones early."""
    found = [case for name in subjects for seed in range(seeds) for case in _of(settings, name, seed, labels)]
    return sorted(found, key=lambda case: (ORDER.index(case.what), -case.seconds))


def _of(settings: Settings, name: str, seed: int, labels: Sequence[str]) -> Iterator[Case]:
    section = section_of(name)
    known = variants()
    if section != "planted":
        yield Case(name, seed, "model")
        if section == "exhaustive" or seed == 0:
            for heads in (RIVALS_QUICK if settings.quick else RIVALS).get(name, ()):
                yield Case(name, seed, "rival", str(heads))
    yield Case(name, seed, "truth")
    if section != "held_out":
        for part in range(settings.parts if section == "exhaustive" else 1):
            yield Case(name, seed, "subsets", str(part))
    for label in labels:
        if label == FLOOR:
            draws = settings.random_draws if section == "held_out" else 1
            yield from (Case(name, seed, "scores", f"{FLOOR}@{draw}") for draw in range(draws))
            continue
        yield Case(name, seed, "scores", label)
        if section == "exhaustive":
            yield Case(name, seed, "resamples", label)
        if seed == 0 and section != "planted" and not (section == "held_out" and known[label].slow):
            yield Case(name, seed, "stability", label)


def run(case: Case, settings: Settings) -> Record:
    """Do it; what it found out, ready for JSON."""
    it = _subject(case.subject, case.seed, settings.quick)
    return _RUN[case.what](it, case, settings)


@lru_cache(maxsize=3)
def _subject(name: str, seed: int, quick: bool) -> Subject:
    return subject(name, seed, quick=quick)


def _model(it: Subject, _case: Case, _settings: Settings) -> Record:
    loss, values = it.evaluate(it.model)
    return {
        "heads": [list(head) for head in it.heads],
        "parameters": parameters_of(it.model),
        "loss": loss,
        "value": values.double().mean().item(),
    }


def _rival(it: Subject, case: Case, _settings: Settings) -> Record:
    model = it.rivals[int(case.detail)]()
    loss, values = it.evaluate(model)
    heads = sum(layer.num_heads for layer in mha.find_attention(model).values())
    return {"heads_kept": heads, "parameters": parameters_of(model), "loss": loss, "values": pack(values)}


def _subsets(it: Subject, case: Case, settings: Settings) -> Record:
    parts = settings.parts if it.section == "exhaustive" else 1
    kept = subsets.masks(len(it.heads)).tensor_split(parts)[int(case.detail)]
    losses, values = subsets.evaluate(it, kept)
    return {"losses": losses.tolist(), "values": pack(values)}


def _truth(it: Subject, _case: Case, _settings: Settings) -> Record:
    """Leave-one-out on held-out data, on two halves to see how far it agrees with itself; the ends of all curves."""
    halves = [it.held_out[start::2] for start in range(2) if it.held_out[start::2]]
    found = [(mha.score(it.model, half, it.loss, "leave_one_out", progress=False), count(half)) for half in halves]
    ends = {str(kept): _judged(it, _pruned(it, range(kept))) for kept in (0, len(it.heads))}
    return {
        "metric": it.metric,
        "about": it.about,
        "section": it.section,
        "heads": [list(head) for head in it.heads],
        "planted": [place for place, (name, head) in enumerate(it.heads) if head in it.planted.get(name, ())],
        "examples": count(it.held_out),
        "calibration": count(it.calibration),
        "passes": len(it.calibration),
        "halves": [{"scores": it.flat(scores), "examples": examples} for scores, examples in found],
        "ends": ends,
        "kind_heads": {kind: len(places) for kind, places in _kinds(it).items()},
        "kinds": {kind: {"0": _judged(it, _pruned_kind(it, kind, [0.0] * len(it.heads), 0))} for kind in _kinds(it)},
    }  # fmt: skip


def _scores(it: Subject, case: Case, settings: Settings) -> Record:
    label, _, draw = case.detail.partition("@")
    start = time.process_time()
    scores = _score(it, variants()[label], it.calibration, settings, seed=int(draw or case.seed))
    seconds = time.process_time() - start  # of the one thread: other processes do not count
    flat, plans = it.flat(scores), _plans(it, scores)
    spent = scores.spent
    record: Record = {
        "scores": flat,
        "spent": [spent.forward, spent.backward, seconds] if spent else None,
        "plans": plans,
    }
    if it.exhaustive:
        return record
    inner = {kept: places for kept, places in plans.items() if 0 < int(kept) < len(it.heads)}
    record["curve"] = {kept: _judged(it, _pruned(it, places)) for kept, places in inner.items()}
    if label in KINDS_BY or (label == FLOOR and int(draw) < settings.kind_draws):
        record["kinds"] = {
            kind: {
                str(kept): _judged(it, _pruned_kind(it, kind, flat, kept))
                for kept in (round(fraction * len(places)) for fraction in KIND_FRACTIONS)
            }
            for kind, places in _kinds(it).items()
        }
    return record


def _resamples(it: Subject, case: Case, settings: Settings) -> Record:
    """The calibration set drawn anew, with replacement."""
    total, size = count(it.calibration), len(it.calibration[0][0])
    draws = []
    for draw in range(settings.resamples):
        generator = torch.Generator().manual_seed(1000 * case.seed + draw)
        rows = torch.randint(total, (total,), generator=generator).tolist()
        batches = pick(it.calibration, rows, size)
        scores = _score(it, variants()[case.detail], batches, settings, seed=draw)
        draws.append({"scores": it.flat(scores), "plans": _plans(it, scores)})
    return {"draws": draws}


def _stability(it: Subject, case: Case, settings: Settings) -> Record:
    """The scores from parts of the calibration set that do not overlap."""
    total, size = count(it.calibration), len(it.calibration[0][0])
    order = torch.randperm(total, generator=torch.Generator().manual_seed(case.seed)).tolist()
    found = {}
    for examples in settings.sizes:
        slices = min(settings.slices, total // examples)
        parts = [order[part * examples : (part + 1) * examples] for part in range(slices)]
        scored = [
            _score(it, variants()[case.detail], pick(it.calibration, part, size), settings, seed=case.seed)
            for part in parts
        ]
        found[str(examples)] = [it.flat(scores) for scores in scored]
    return {"sizes": found}


def _score(it: Subject, variant: Variant, batches: Sequence[Any], settings: Settings, *, seed: int) -> mha.HeadScores:
    rounds = len(it.heads) if it.exhaustive else settings.rounds
    few, many = settings.permutations
    permutations = few if it.exhaustive else many
    return variant.score(it.model, batches, it.loss, seed=seed, rounds=rounds, permutations=permutations)


def _plans(it: Subject, scores: mha.HeadScores) -> dict[str, list[int]]:
    """Head count -> positions of the heads that stay."""
    return {str(kept): it.positions(mha.choose(scores, heads=kept, across_layers=True)) for kept in it.counts}


def _pruned(it: Subject, places: Sequence[int]) -> nn.Module:
    return mha.prune(it.model, it.plan(places)).eval()


def _pruned_kind(it: Subject, kind: str, scores: Sequence[float], kept: int) -> nn.Module:
    """The model with the best `kept` heads of that kind, and with all others."""
    own = _kinds(it)[kind]
    best = sorted(own, key=lambda place: -scores[place])[:kept]
    return _pruned(it, [place for place in range(len(it.heads)) if place in best or place not in own])


def _kinds(it: Subject) -> dict[str, list[int]]:
    """Kind of attention -> positions of its heads."""
    found: dict[str, list[int]] = {}
    for place, (name, _) in enumerate(it.heads):
        if name in it.kinds:
            found.setdefault(it.kinds[name], []).append(place)
    return found


def _judged(it: Subject, model: nn.Module) -> Record:
    loss, values = it.evaluate(model)
    return {"loss": loss, "values": pack(values)}


_RUN: Mapping[str, Callable[[Subject, Case, Settings], Record]] = {
    "model": _model,
    "rival": _rival,
    "subsets": _subsets,
    "truth": _truth,
    "scores": _scores,
    "resamples": _resamples,
    "stability": _stability,
}
