"""The one call that scores the heads of a model, with any criterion."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

import mha.importance.criteria  # each registers itself  # noqa: F401
from mha.families.base.find import required_attention
from mha.importance.head_scores import head_scores
from mha.importance.registry import Criterion, describe
from mha.importance.running.batch import Loss
from mha.importance.running.calibration import Calibration
from mha.importance.running.journal import Journal, content_of, name_of, weights_of
from mha.importance.running.meter import Meter
from mha.importance.running.on_cluster import on_cluster
from mha.importance.running.rounds import in_rounds
from mha.importance.running.scored import Scored
from mha.importance.running.shard import contents
from mha.pruning.masking import at_rest, nothing_compiled
from mha.runtime.cluster import check_client
from mha.runtime.inference_tensors import usable
from mha.runtime.locking import locked
from mha.values.errors import CalibrationError
from mha.values.plan import HeadScores


def score(
    model: nn.Module,
    batches: Iterable[Any] | None,
    loss: Loss | None,
    criterion: str = "default",
    *,
    seed: int = 0,
    rounds: int | None = None,
    examples: Callable[[Any], int] | None = None,
    progress: bool | None = None,
    journal: str | os.PathLike[str] | None = None,
    cluster: Any = None,
    **options: Any,
) -> HeadScores:
    """Score every attention head of the model; larger = keep.

    The model runs in eval mode and is left exactly as it was, also after an error: weights, gradients,
    modes, hooks and the random state. The result depends on nothing but the arguments: a call in another thread that
    touches the model, or draws random numbers as every scoring may, is waited for (`mha.runtime.locking`). Code that
    `torch.compile` has compiled runs uncompiled meanwhile, in the whole process.

    Args:
        model: any model in which `find_attention` finds layers.
        batches: calibration batches, anything that can be read more than once, one batch after the other; None where
            the criterion needs no data.
        loss: (model, batch) -> scalar, the mean over the batch's examples; None where it needs no data.
        criterion: one of `criteria()`, which prints what they are; one of your own by `register_criterion`.
        seed: for criteria that draw at random.
        rounds: remove heads in so many steps, by masking, and score what is left again after each; the result's
            scores are then the order of removal, 0 for the head that goes first. As many rounds as heads is the
            greedy order. Where the criterion's scores do not compare layers, every layer gives about its share in each
            round, as in `choose`.
        examples: batch -> how many examples it has; found out from its tensors and the attention's unless given.
        progress: show a bar on stderr; unless told, one appears where stderr is a terminal and the work takes long.
        journal: a file in which what has been measured is kept, written every few seconds. The same call goes on from
            it after a kill, and gives what it would have given. It holds each layer's losses of a batch for
            leave-one-out (not racing), each loss for shapley, and every round; within a round or a call of another
            criterion nothing is kept. Weights, batches, options, seed and the first batch's loss must be the same; of
            functions only their names and that loss can be compared.
        cluster: a `distributed.Client` of dask, whose workers read the batches; None reads them here, with the same
            result but for rounding. Batches are then those of `batches`, one a task, `mha.importance.Shard`s of them,
            or futures of either. The model is sent once to each worker; sums of criteria that are additive come back,
            and others are computed by one worker as a whole (docs/cluster-scoring.md). Not with `journal`.
        options: those of the criterion, as keyword arguments; `print(criteria())` lists them.

    Raises:
        CalibrationError: an unknown criterion or option, no batches, a loss that is not a finite scalar or does
            not depend on the model; a journal of another scoring. On a cluster also: no workers within 10 s, a worker
            with other versions of mha, torch or Python, what can't be sent, workers that die again and again on a
            shard; an error of the loss that is no `MhaError` comes as this one, and names the shard.
        UnsupportedModule: the model has no attention of a known family.
        BusyError: another thread has the model, and waiting for it would not end.

    Example:
        >>> model = mha.MultiHeadAttention.square(8, num_heads=4)
        >>> batches = [torch.randn(16, 5, 8) for _ in range(2)]
        >>> def loss(model, batch):
        ...     return (model(batch, batch, batch) - batch).square().mean()
        >>> scores = mha.score(model, batches, loss)  # leave_one_out
        >>> scores[""].shape, scores.examples  # "" is the model itself, which is a layer here
        (torch.Size([4]), 32)
        >>> mha.score(model, batches, loss, "taylor", unit="batch")[""].shape
        torch.Size([4])
        >>> mha.score(model, None, None, "magnitude").comparable  # weights say nothing of other layers
        False
    """
    chosen = describe(criterion)
    if unknown := set(options) - set(chosen.options):
        raise CalibrationError(
            f"criterion {chosen.name!r} has no option {', '.join(sorted(unknown))}; "
            f"it takes {', '.join(chosen.options) or 'none'}"
        )
    if cluster is not None:
        check_client(cluster, "mha.score")
        if journal is not None:
            raise CalibrationError("journal: what workers measure is not kept in a file; give journal or cluster")
    with locked(model, by="mha.score", draws=True):
        model = model if chosen.needs == "nothing" and chosen.name == "random" else usable(model)
        layers = required_attention(model)
        meter = Meter(chosen.name, progress)
        calibration = Calibration(model, layers, batches, loss, seed, examples, meter=meter)
        if chosen.needs != "nothing":
            calibration.check()
        with at_rest(model), nothing_compiled(), meter.shown(), ExitStack() as opened:
            if journal is not None:
                notes = Journal(journal, _identity(calibration, chosen, rounds, options))
                calibration = calibration.noted_in(opened.enter_context(notes.open()))
            torch.manual_seed(seed)
            if cluster is None or chosen.needs == "nothing":
                scored = _scored(calibration, chosen, options, rounds)
            else:
                there = opened.enter_context(on_cluster(calibration, cluster))
                if chosen.adds_up(options):
                    scored = _scored(there, chosen, options, rounds)
                else:
                    scored = there.whole(_scored, chosen, options, rounds)
    return head_scores(
        layers,
        {name: scored.rows[name] for name in layers},
        examples=scored.examples,
        interactions=scored.interactions,
        errors=scored.errors,
        comparable=chosen.comparable,
        spent=meter.spent(),
    )


def _scored(calibration: Calibration, chosen: Criterion, options: Mapping[str, Any], rounds: int | None) -> Scored:
    """What the criterion says of the calibration, in so many rounds; None for none."""
    if rounds is None:
        return chosen.scored(calibration, options)
    return in_rounds(
        calibration, lambda masked: chosen.scored(masked, options).rows, rounds, comparable=chosen.comparable
    )


def _identity(
    calibration: Calibration, chosen: Criterion, rounds: int | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The journal's identity of a scoring: the name of each thing that its measurements depend on -> a value for JSON.

    Options, weights and batches are there as digests, the loss function by its name. Where the criterion runs the
    model, the loss of the first batch is computed and added.

    Raises:
        CalibrationError: the batches or options hold an object that no digest can be made of.
    """
    torch.manual_seed(calibration.seed)  # a loader that shuffles by it gives the batches that scoring will read
    identity: dict[str, Any] = {
        "criterion": chosen.name,
        "options": content_of(dict(sorted(options.items()))),
        "rounds": rounds,
        "seed": calibration.seed,
        "loss function": name_of(calibration.loss),
        "model": weights_of(calibration.model),
        "set of heads": [[name, list(layer.heads)] for name, layer in calibration.layers.items()],
    }
    if chosen.needs != "nothing":
        batches = list(contents(calibration.batches or ()))
        identity["set of batches"] = [content_of(batch) for batch in batches]
        torch.manual_seed(calibration.seed)
        with torch.no_grad():
            losses = [calibration.batch(content, 0).loss() for content in batches[:1]]
            identity["loss of the first batch"] = [loss.value.item() for loss in losses]
    return identity
