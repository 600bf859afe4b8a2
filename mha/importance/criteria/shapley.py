"""What a head adds on average over all orders in which heads could leave (Shapley 1953; Held and Yang 2023)."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration
from mha.importance.running.scored import Scored
from mha.values.errors import CalibrationError

Bound = Literal["normal", "bernstein"]


@register_criterion("shapley", needs="outputs", additive=True)
def shapley(
    calibration: Calibration,
    *,
    max_permutations: int = 32,
    min_permutations: int = 8,
    confidence: float = 0.95,
    bound: Bound = "normal",
    truncation: float = 0.0,
) -> Scored:
    """What the loss rises by when the head leaves, φ_h, on average over random orders in which all heads leave.

    φ_h = E_π [L(S_h ∪ h) - L(S_h)], with S_h the heads that leave before h in the order π, and L(S) the loss without
    the heads S. Signed: negative for a head that hurts. The φ of all heads sum to the loss without any head minus the
    dense one. An order takes a pass over the calibration set for every head. Stops early when no head's interval
    overlaps that of its neighbour in the ranking, since it is then certain which heads to keep, however many. The
    result's `errors` are the standard errors of φ.

    Args:
        max_permutations: orders drawn at most; 2 or more.
        min_permutations: orders drawn before intervals are looked at.
        confidence: of all heads' intervals together (Bonferroni).
        bound: "normal", or "bernstein", the empirical Bernstein bound (Maurer and Pontil 2009, theorem 4) with the
            range of the marginal changes seen so far in place of the true one, which isn't known.
        truncation: once the loss is nearer to that without any head than this share of the dense loss's distance from
            it, the rest of the order is taken to be without effect, and not computed (Ghorbani and Zou 2019); 0
            computes every order to its end.

    Raises:
        CalibrationError: options out of range, or the loss does not depend on the model's attention.
    """
    _check(max_permutations, min_permutations, confidence, bound, truncation)
    places = calibration.present()
    if not places:
        return Scored(calibration.zeros())
    readings = max_permutations * len(places) + 2
    calibration.expect(readings)
    gates = {name: torch.ones(layer.num_heads) for name, layer in calibration.with_heads.items()}
    dense = _loss(calibration, "all heads", gates)
    empty = _loss(calibration, "no head", {name: gate * 0 for name, gate in gates.items()})
    if not calibration.removed:
        calibration.check_depends(dense, empty)
    samples = torch.zeros(0, len(places), dtype=torch.float64)
    for drawn in range(1, max_permutations + 1):
        order = torch.randperm(len(places), generator=calibration.generator).tolist()
        row = torch.zeros(len(places), dtype=torch.float64)
        left, before = {name: gate.clone() for name, gate in gates.items()}, dense
        for position in order:
            if truncation and abs(before - empty) <= truncation * abs(dense - empty):
                break
            name, head = places[position]
            left[name][head] = 0.0
            after = empty if position == order[-1] else _loss(calibration, f"order {drawn} to {position}", left)
            row[position], before = after - before, after
        samples = torch.cat([samples, row[None]])
        if drawn >= min_permutations and not _in_doubt(samples, confidence, bound):
            break
    error = samples.std(dim=0) / math.sqrt(len(samples))
    return Scored(calibration.by_layer(samples.mean(dim=0)), errors=calibration.by_layer(error))


def _loss(calibration: Calibration, what: str, gates: Mapping[str, Tensor]) -> float:
    """The loss over the calibration set with these gates; from the journal if that has it, under `what`."""
    key = calibration.key(what)
    if key in calibration.journal:
        calibration.expect(-1)
    return float(calibration.journal.get(key, lambda: calibration.mean_loss(gates)))


def half_widths(samples: Tensor, confidence: float, bound: Bound) -> Tensor:
    """Half the widths (h,) of intervals for the means of samples (n, h); all hold at once with this confidence."""
    count, heads = samples.shape
    variance = samples.var(dim=0)
    if bound == "normal":
        z = NormalDist().inv_cdf(1 - (1 - confidence) / (2 * heads))
        return z * (variance / count).sqrt()
    log = math.log(2 * 2 * heads / (1 - confidence))  # 2 for the theorem's, 2 for both sides
    spread = samples.amax(dim=0) - samples.amin(dim=0)
    return (2 * variance * log / count).sqrt() + 7 * spread * log / (3 * (count - 1))


def _in_doubt(samples: Tensor, confidence: float, bound: Bound) -> bool:
    """Whether two heads that are neighbours in the ranking have intervals that overlap."""
    if samples.shape[1] < 2:
        return False
    mean, half = samples.mean(dim=0), half_widths(samples, confidence, bound)
    ranked = mean.argsort()
    return bool(((mean + half)[ranked[:-1]] >= (mean - half)[ranked[1:]]).any())


def _check(most: int, fewest: int, confidence: float, bound: str, truncation: float) -> None:
    """Check the options of `shapley`, in the order of its signature.

    Raises:
        CalibrationError: fewer than 2 permutations, a confidence that is not between 0 and 1, an unknown bound, or a
            truncation that is not 0 or more and below 1.
    """
    if min(most, fewest) < 2:
        raise CalibrationError(f"max_permutations and min_permutations are 2 or more; got {most} and {fewest}")
    if not 0 < confidence < 1:
        raise CalibrationError(f"confidence is between 0 and 1, got {confidence}")
    if bound not in ("normal", "bernstein"):
        raise CalibrationError(f'bound is "normal" or "bernstein", got {bound!r}')
    if not 0 <= truncation < 1:
        raise CalibrationError(f"truncation is a share, 0 or more and below 1; got {truncation}")
