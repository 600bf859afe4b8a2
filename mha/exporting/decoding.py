"""A model that was exported with its key/value cache: it reads a prompt, then goes on token by token."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mha.values.errors import ExportError

IDS, MASK, POSITIONS, CACHE, ENCODED = (
    "input_ids", "attention_mask", "position_ids", "past_key_values", "encoder_outputs",
)  # fmt: skip
FLAG = "use_cache"  # by which a model is told whether to keep keys and values
LOGITS = "output['logits']"  # where a language model's outputs have them


def positions(mask: Tensor) -> Tensor:
    """The position of each token among those of its row that are no padding: a mask (b, n) -> (b, n)."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


class Program(Protocol):
    """An exported program that keeps the cache of what it has read."""

    def __call__(self, inputs: Mapping[str, Any], *, first: bool) -> Tensor:
        """Read inputs, and return logits (b, q, v) after each of their tokens.

        Args:
            first: whether they are a prompt, before which everything is forgotten.
        """
        ...


class Decoder:
    """A decoder, or an encoder-decoder, in its runtime.

    Args:
        program: runs it, and keeps the cache.
        encoder: whether there is an encoder, so that tokens are `decoder_input_ids`, and the mask is of what it reads.
        takes: the names of tensors that the program takes beside a cache.

    Example:
        >>> decoder = files.load()  # doctest: +SKIP
        >>> decoder.greedy([5, 3, 7], 20)  # doctest: +SKIP
        >>> logits = decoder.start({"input_ids": ids, "attention_mask": mask})  # (b, n, v)  # doctest: +SKIP
        >>> logits = decoder.step(logits[:, -1:].argmax(-1))  # (b, 1, v)  # doctest: +SKIP
    """

    def __init__(self, program: Program, takes: Sequence[str], *, encoder: bool = False) -> None:
        self.tokens = f"decoder_{IDS}" if encoder else IDS
        self._program, self._takes, self._encoder = program, takes, encoder
        self._started, self._mask = False, torch.empty(0)

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Read inputs by name from the start, as exports without a cache do: "logits" (b, n, v)."""
        return {"logits": self.start(inputs)}

    def start(self, inputs: Mapping[str, Any]) -> Tensor:
        """Forget what was read, and read a prompt.

        Args:
            inputs: `input_ids` (b, n), and `attention_mask` (b, n), without which nothing is padding. Prompts of unlike
                lengths are padded in front. An encoder-decoder is given `decoder_input_ids` (b, n) beside what its
                encoder reads.

        Returns:
            Logits (b, n, v) of the token after each of the prompt's.
        """
        ids = inputs[self.tokens]
        self._started = True
        if self._encoder:
            return self._program({name: inputs[name] for name in self._takes}, first=True)
        self._mask = inputs.get(MASK, torch.ones_like(ids)).to(ids.dtype)
        return self._read(ids, first=True)

    def step(self, ids: Tensor) -> Tensor:
        """Go on with one token of each row, (b, 1), or more, (b, q): logits (b, q, v) after each."""
        if not self._started:
            raise ExportError("there is no prompt to go on from: call start before step")
        if self._encoder:
            return self._program({self.tokens: ids}, first=False)
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        return self._read(ids, first=False)

    def greedy(self, prompt: Sequence[int], tokens: int, **inputs: Tensor) -> list[int]:
        """The ids of the likeliest tokens after a prompt, one after another.

        Args:
            prompt: token ids; of an encoder-decoder those of its decoder.
            tokens: how many are wanted.
            inputs: what an encoder reads, such as `input_ids` (1, n).
        """
        chosen: list[int] = []
        logits = self.start({**inputs, self.tokens: torch.tensor([list(prompt)])})
        while True:
            chosen.append(int(logits[0, -1].argmax()))
            if len(chosen) >= tokens:
                return chosen[:tokens]
            logits = self.step(torch.tensor([chosen[-1:]]))

    def _read(self, ids: Tensor, *, first: bool) -> Tensor:
        """Logits of the next tokens, with the mask of all so far."""
        given = {IDS: ids, MASK: self._mask, POSITIONS: positions(self._mask)[:, -ids.shape[1] :]}
        return self._program({name: given[name].contiguous() for name in self._takes}, first=first)
