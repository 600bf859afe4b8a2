"""How an export and a dense model are run beside one another: call by call, or, with a cache, token by token."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mha.exporting.decoding import FLAG, IDS, LOGITS, MASK, POSITIONS, Decoder, positions
from mha.exporting.inputs import tensors_of, variants
from mha.exporting.registry import Run
from mha.pruning.equivalence import tensors_in

STEPS = (*[1] * 8, 3)  # tokens of each step after a prompt

Sizes = Mapping[str, Sequence[int | None]]
Inputs = dict[str, Any]


class Way(Protocol):
    """What is run, with which inputs, and how these are called in words."""

    def prepared(self, given: Mapping[str, Any]) -> Inputs:
        """The inputs that are made of an example."""
        ...

    def others(self) -> Iterator[list[Inputs]]:
        """Yield inputs like the first example at other sizes, each as those that are to be tried until one is taken."""
        ...

    def words(self, inputs: Mapping[str, Any]) -> str:
        """The sizes of the inputs, for a reader."""
        ...

    def padding(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor | None:
        """Where the tokens (b, n) of the outputs are padding; None if none are, or nobody knows."""
        ...

    def expected(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The floating-point outputs of the dense model, by where they are."""
        ...

    def found(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The same of the export."""
        ...


class Calls:
    """One call of each for the inputs.

    Args:
        run: the export.
        example: the first one.
        sizes: of the export's inputs, None where any does.
    """

    def __init__(self, run: Run, example: Mapping[str, Any], sizes: Sizes) -> None:
        self._run, self._example, self._sizes = run, example, sizes

    def prepared(self, given: Mapping[str, Any]) -> Inputs:
        return dict(given)

    def others(self) -> Iterator[list[Inputs]]:
        return variants(self._example, self._sizes)

    def words(self, inputs: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {_shape(value)}" for name, value in tensors_of(inputs).items())

    def padding(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor | None:
        mask = inputs.get(MASK)
        known = hasattr(getattr(model, "config", None), "model_type")  # of transformers, where 0 is padding
        encoder = any(name.startswith("decoder_") for name in inputs)  # whose mask it is, and not the outputs'
        if not isinstance(mask, Tensor) or mask.dim() != 2 or not known or encoder:
            return None
        padding = mask.cpu() == 0
        return None if padding.all() else padding  # or nothing would be compared

    def expected(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        return tensors_in(model(**_on_device_of(model, inputs)))

    def found(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        return tensors_in(self._run(_on_cpu(inputs)))


class Decodings(Calls):
    """The export reads a prompt and goes on from its cache; the dense model reads all at once, without a cache.

    Inputs are those for all tokens, those that the export is given only later included. Compared are the logits after
    every token that is no padding.

    Args:
        decoder: the export.
        example, sizes: as `Calls` has them.
        longest: how many tokens the model takes; None for any number.
    """

    def __init__(self, decoder: Decoder, example: Mapping[str, Any], sizes: Sizes, longest: int | None) -> None:
        super().__init__(decoder, example, sizes)
        self._decoder, self._tokens = decoder, decoder.tokens
        self._most = None if longest is None else longest - sum(STEPS)
        self._padded = decoder.tokens == IDS  # the mask is of the tokens, not of what an encoder reads

    def prepared(self, given: Mapping[str, Any]) -> Inputs:
        """A prompt, cut to leave the model room for what follows, and random tokens of it to follow."""
        whole = {name: value for name, value in given.items() if name not in (FLAG, POSITIONS)}
        prompt = given[self._tokens][:, : self._most]
        generator = torch.Generator().manual_seed(prompt.shape[1])
        values = prompt.unique()
        picks = torch.randint(len(values), (len(prompt), sum(STEPS)), generator=generator).to(prompt.device)
        whole[self._tokens] = torch.cat([prompt, values[picks]], dim=1)
        if self._padded:
            mask = given.get(MASK, torch.ones_like(prompt))[:, : self._most]
            whole[MASK] = torch.cat([mask, mask.new_ones(picks.shape)], dim=1)
        return whole

    def others(self) -> Iterator[list[Inputs]]:
        """Yield prompts at other sizes; of several rows, all but the first are padded in front."""
        open_sizes = {name: [None] * value.dim() for name, value in tensors_of(self._example).items()}
        for number, alike in enumerate(variants(self._example, {**open_sizes, **self._sizes})):
            yield [self.prepared(self._padded_in_front(inputs, number)) for inputs in alike]

    def _padded_in_front(self, inputs: Inputs, seed: int) -> Inputs:
        if not self._padded:
            return inputs
        rows, length = inputs[IDS].shape
        padding = torch.randint(0, length, (rows, 1), generator=torch.Generator().manual_seed(seed))
        padding[0] = 0
        return {**inputs, MASK: (torch.arange(length) >= padding).to(inputs[IDS].dtype)}

    def words(self, inputs: Mapping[str, Any]) -> str:
        prompt = {**inputs, self._tokens: inputs[self._tokens][:, : self._prompt(inputs)]}
        if self._padded:
            prompt[MASK] = inputs[MASK][:, : self._prompt(inputs)]
        return f"{super().words(prompt)}, then {sum(STEPS)} tokens in {len(STEPS)} steps"

    def padding(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor | None:  # noqa: ARG002
        return None  # they are no part of the outputs

    def expected(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        given = {**inputs, FLAG: False}
        if POSITIONS in self._sizes:
            given[POSITIONS] = positions(inputs[MASK])
        return {LOGITS: self._real(model(**_on_device_of(model, given))["logits"].cpu(), inputs)}

    def found(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        whole, prompt = _on_cpu(inputs), self._prompt(inputs)
        ends = torch.tensor([prompt, *STEPS]).cumsum(dim=0).tolist()
        first = {**whole, self._tokens: whole[self._tokens][:, :prompt]}
        if self._padded:
            first[MASK] = whole[MASK][:, :prompt]
        logits = [self._decoder.start(first)]
        logits += [self._decoder.step(whole[self._tokens][:, start:end]) for start, end in pairwise(ends)]
        return {LOGITS: self._real(torch.cat(logits, dim=1), inputs)}

    def _prompt(self, inputs: Mapping[str, Any]) -> int:
        """How many of the tokens are the prompt."""
        return int(inputs[self._tokens].shape[1]) - sum(STEPS)

    def _real(self, logits: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """The logits (b, n, v) of tokens that are no padding, (tokens, v)."""
        return logits[inputs[MASK].cpu().bool()] if self._padded else logits.flatten(0, 1)


def _on_device_of(model: nn.Module, inputs: Mapping[str, Any]) -> Inputs:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _on_cpu(inputs: Mapping[str, Any]) -> Inputs:
    return {name: value.detach().cpu() if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _shape(value: Tensor) -> str:
    return "×".join(map(str, value.shape)) or "()"
