"""`check_export`: the proof that an export computes what the masked dense model computes, made in its runtime."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mha.exporting.decoding import Decoder
from mha.exporting.exported import Exported, version_of
from mha.exporting.inputs import named
from mha.exporting.registry import find_format, first_line
from mha.exporting.ways import Calls, Decodings, Way
from mha.families import find_attention
from mha.pruning.masking import eval_mode, masked
from mha.runtime.locking import exclusive
from mha.values.atomic_files import appears_whole
from mha.values.errors import EquivalenceError, ExportError
from mha.values.plan import HeadPlan

FILE = "mha-check.json"
MASKED = "the masked dense model"
ALLOWED = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}  # of the largest output
INT8 = 0.2  # of the norm of an output: what 8 bits keep of most models; it tells a broken export from a rounded one


_Pair = tuple[Tensor, Tensor]


class Try(NamedTuple):
    """One call, of the export and of the masked dense model.

    Attributes:
        inputs: sizes of the tensors that both were given, as text.
        difference: the largest |export - masked| over all outputs.
        share: that as a share of the largest |masked|; for int8 the norm of the difference, as a share of masked's.
        padding: the share at tokens that are padding, which does not count: where a window leaves such a token nothing
            to attend to, runtimes return different things, which nobody reads.
    """

    inputs: str
    difference: float
    share: float
    padding: float = 0.0


@dataclass(frozen=True)
class ExportCheck:
    """What a proof in a runtime found; it prints itself.

    Attributes:
        format, runtime: their names, the runtime's with its version.
        tries: the calls, those with the given examples first.
        untried: sizes that the dense model itself does not take, and so were not tried.
        allowed: the largest `share` that counts as equal.
        reference: what it was compared with.

    Example:
        >>> from mha.exporting.check_export import Try
        >>> print(mha.ExportCheck("onnx", "onnxruntime 1.32.0", (Try("ids 2×8", 3e-6, 4e-7),), allowed=1e-4))
        ids 2×8: off by 3e-06, 4e-07 of the largest
        onnx in onnxruntime 1.32.0 computes what the masked dense model computes: at most 4e-07, allowed 0.0001
    """

    format: str
    runtime: str
    tries: tuple[Try, ...]
    allowed: float
    untried: tuple[str, ...] = ()
    reference: str = MASKED

    @property
    def worst(self) -> Try:
        """The call with the largest share."""
        return max(self.tries, key=lambda each: each.share)

    @property
    def equal(self) -> bool:
        """Whether every call was within what is allowed."""
        return all(each.share <= self.allowed for each in self.tries)

    def save(self, directory: Path | str) -> None:
        """Write what was found as the file mha-check.json in a directory, beside what was checked."""
        with appears_whole(Path(directory) / FILE) as partial:
            document = {**asdict(self), "tries": [each._asdict() for each in self.tries], "equal": self.equal}
            partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        lines = [
            f"{each.inputs}: off by {each.difference:.2g}, {each.share:.2g} of the largest"
            + (f"; {each.padding:.2g} where there is padding" if each.padding > self.allowed else "")
            for each in self.tries
        ]
        verdict = "computes what {} computes" if self.equal else "does NOT compute what {} does"
        said = verdict.format(self.reference)
        last = f"{self.format} in {self.runtime} {said}: at most {self.worst.share:.2g}, allowed {self.allowed:.2g}"
        skipped = [f"{sizes}: the model itself does not take that" for sizes in self.untried]
        return "\n".join([*lines, *skipped, last])


@exclusive("mha.check_export")
def check_export(
    files: Exported | Path | str,
    model: nn.Module,
    plan: HeadPlan,
    examples: Iterable[Any] = (),
    *,
    allowed: float | None = None,
) -> ExportCheck:
    """Prove that an export computes what the dense model with masked heads computes, inside its runtime.

    Both are called with the examples, and with random inputs like the first of them at other batch sizes and lengths,
    as far as the export takes any: 1 × 3, 2 × 17 and 5 × 8, or as long as the example where the model takes no other
    length. Where it keeps a decoder's cache, it reads these as prompts, goes on for eight tokens one by one and for
    three at once, and after each is compared with what the dense model computes without any cache; random prompts of
    several rows are padded in front. Outputs (b, n, …) of models of transformers are held to it where `attention_mask`
    (b, n) is 1; how far padding is off is told.

    Args:
        files: what `export` has returned, or its directory.
        model: the dense model; it is run in eval mode, masked, and left as it was.
        plan: the heads that were kept.
        examples: what the model is called with, each (args, kwargs); at least one.
        allowed: the largest difference that counts as equal, as a share of the largest output. By default 1e-4 in
            float32, 2e-2 in float16, 5e-2 in bfloat16; of int8 the norm of the difference may be 0.2 of the output's.

    Raises:
        EquivalenceError: the export computes something else; the message has all that was tried.
        ExportError: there is no export, a file of it was changed, the runtime is of another version, or an example does
            not fit it.
        MissingPackageError: the runtime is not installed.
        PlanError: the plan does not belong to the model.

    Example:
        >>> print(mha.check_export("exported", model, plan, [batch]))  # doctest: +SKIP
    """
    exported = files if isinstance(files, Exported) else Exported.read(files)
    given = [named(model, example) for example in examples]
    if not given:
        raise ExportError("check_export compares outputs, and no example was given: give one, as (args, kwargs)")
    run = exported.load()
    way: Way = Calls(run, given[0], exported.sizes)
    if isinstance(run, Decoder):
        longest = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        way = Decodings(run, given[0], exported.sizes, longest)
    usual = INT8 if exported.int8 else ALLOWED.get(exported.dtype, ALLOWED["float32"])
    limit = usual if allowed is None else allowed
    format = find_format(exported.format)
    tries, untried = [], []
    with eval_mode(model), torch.no_grad(), masked(model, plan):
        for inputs in map(way.prepared, given):
            tries.append(_tried(way.expected(model, inputs), way, inputs, way.padding(model, inputs), exported))
        for alike in way.others():
            found, refused = _first_taken(alike, model, way, exported)
            tries += found
            untried += refused
    name = f"{format.runtime} {version_of(format.runtime)}"
    check = ExportCheck(exported.format, name, tuple(tries), limit, tuple(untried), _reference(model, plan))
    if not check.equal:
        raise EquivalenceError(f"{exported.directory}:\n{check}")
    return check


def _first_taken(
    alike: Sequence[Mapping[str, Any]], model: nn.Module, way: Way, exported: Exported
) -> tuple[list[Try], list[str]]:
    """A try of the first of these inputs that the model takes, if it takes any, and the sizes of those before it."""
    refused: list[str] = []
    for inputs in alike:
        try:
            expected = way.expected(model, inputs)
        except Exception:  # whatever a model may raise, as beyond its last position
            refused.append(way.words(inputs))
        else:
            return [_tried(expected, way, inputs, way.padding(model, inputs), exported)], refused
    return [], refused


def _reference(model: nn.Module, plan: HeadPlan) -> str:
    """What an export is compared with, in words: the model itself where the plan switches nothing off."""
    kept = all(set(plan.keep.get(name, layer.heads)) >= {*layer.heads} for name, layer in find_attention(model).items())
    return "the model in torch" if kept else MASKED


def _tried(
    expected: Mapping[str, Tensor],
    way: Way,
    inputs: Mapping[str, Any],
    padding: Tensor | None,
    exported: Exported,
) -> Try:
    """Run the export with inputs, and compare all outputs with those of the masked model.

    Raises:
        ExportError: the runtime does not take the inputs, or returns other outputs.
        EquivalenceError: an output has another shape.
    """
    words = way.words(inputs)
    try:
        found = way.found(inputs)
    except Exception as error:
        raise ExportError(
            f"{exported.directory}: {exported.format} does not take {words} ({first_line(error)}); it was exported for "
            f"{dict(exported.sizes)}, where null is any size"
        ) from error
    if not expected or expected.keys() - found.keys():
        raise ExportError(f"{exported.directory} returns {sorted(found)}, and the model {sorted(expected)}")
    expected = find_format(exported.format).comparable(expected, found)
    pairs = [(expected[name].cpu().double(), found[name].double()) for name in sorted(expected)]
    for name, (wanted, got) in zip(sorted(expected), pairs, strict=True):
        if wanted.shape != got.shape:
            raise EquivalenceError(
                f"{exported.directory}, {words}: {name} has shape {tuple(got.shape)}, masked {tuple(wanted.shape)}"
            )
    parts = [_parted(wanted, got, padding) for wanted, got in pairs]
    read, unread = ([part[which] for part in parts] for which in range(2))
    _, beside = _differences(unread, by_norm=exported.int8)
    return Try(words, *_differences(read, by_norm=exported.int8), beside)


def _parted(expected: Tensor, found: Tensor, padding: Tensor | None) -> tuple[_Pair, _Pair]:
    """Both at what is no padding, and both at padding; padding (b, n) is true there, of outputs (b, n, …)."""
    if padding is None or expected.shape[:2] != padding.shape:
        return (expected, found), (expected[:0], found[:0])
    return (expected[~padding], found[~padding]), (expected[padding], found[padding])


def _differences(pairs: Sequence[_Pair], *, by_norm: bool) -> tuple[float, float]:
    """The largest difference over pairs of expected and found outputs, and the largest as a share; NaN is infinite."""
    difference, share = 0.0, 0.0
    for expected, found in pairs:
        away = (expected - found).abs()
        away = torch.where(expected == found, 0.0, away)  # infinities at the same places
        away = away.nan_to_num(nan=float("inf"))
        if not away.numel():
            continue
        finite = expected[expected.isfinite()]
        largest = float(finite.abs().max()) if finite.numel() else 0.0
        most = float(away.max())
        relative = float(away.norm()) / max(float(finite.norm()), 1e-30) if by_norm else most / max(largest, 1e-30)
        difference, share = max(difference, most), max(share, relative if most else 0.0)
    return difference, share
