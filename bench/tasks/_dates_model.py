"""The model of the task `dates`: a small transformer that reads the characters of a date and writes it as ISO 8601."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import mha

PADDING, BEGIN = "\0", "^"  # each is number 0 of its alphabet
SOURCE = PADDING + " ,./-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
TARGET = BEGIN + "-0123456789"
TARGET_LENGTH = len("1987-03-03")
MAX_LENGTH = 1024


@dataclass(frozen=True)
class DatesSettings:
    """What the trained model and its data depend on, besides the code."""

    first_year: int = 1900
    last_year: int = 2099
    width: int = 64
    num_heads: int = 8
    head_dim: int = 8
    feed_forward: int = 128
    encoder_layers: int = 3
    decoder_layers: int = 3
    steps: int = 2500
    training_batch: int = 32
    learning_rate: float = 3e-3
    calibration_batches: int = 16
    calibration_batch: int = 32
    evaluation_examples: int = 1500
    evaluation_batch: int = 250
    seed: int = 0


def source_tensors(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Texts as indices of their characters in `SOURCE`, padded to the longest text, (b, k); and their lengths (b,).

    Raises:
        ValueError: no texts, an empty or a too long one, or a character that no format uses.
    """
    for text in texts:
        if not 1 <= len(text) <= MAX_LENGTH or not set(text) <= set(SOURCE[1:]):
            raise ValueError(f"expected 1 to {MAX_LENGTH} characters out of {SOURCE[1:]!r}, got {text!r}")
    if not texts:
        raise ValueError("expected at least one text, got none")
    longest = max(map(len, texts))
    source = torch.tensor([[SOURCE.index(character) for character in text.ljust(longest, PADDING)] for text in texts])
    return source, torch.tensor([len(text) for text in texts])


class DateTranslator(nn.Module):
    """A transformer (Vaswani et al. 2017) with layer norms first and sinusoidal positions."""

    positions: Tensor

    def __init__(self, settings: DatesSettings) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(len(SOURCE), settings.width)
        self.target_embedding = nn.Embedding(len(TARGET), settings.width)
        self.register_buffer("positions", sinusoids(MAX_LENGTH, settings.width), persistent=False)
        self.encoder = nn.ModuleList(EncoderLayer(settings) for _ in range(settings.encoder_layers))
        self.encoder_norm = nn.LayerNorm(settings.width)
        self.decoder = nn.ModuleList(DecoderLayer(settings) for _ in range(settings.decoder_layers))
        self.decoder_norm = nn.LayerNorm(settings.width)
        self.output = nn.Linear(settings.width, len(TARGET))

    def forward(self, source: Tensor, source_lens: Tensor, target_in: Tensor) -> Tensor:
        """Logits (b, q, character) of what follows each prefix of `target_in` (b, q), given `source` (b, k)."""
        return self.decode(target_in, self.encode(source, source_lens), source_lens)

    def encode(self, source: Tensor, source_lens: Tensor) -> Tensor:
        """The encoder's output (b, k, e) for the source's characters (b, k); those beyond `source_lens` are padding."""
        x = self.source_embedding(source) + self.positions[: source.shape[1]]
        for layer in self.encoder:
            x = layer(x, source_lens)
        memory: Tensor = self.encoder_norm(x)
        return memory

    def decode(self, target_in: Tensor, memory: Tensor, source_lens: Tensor) -> Tensor:
        """Logits (b, q, character) of what follows each prefix of `target_in` (b, q), given what `encode` returned."""
        x = self.target_embedding(target_in) + self.positions[: target_in.shape[1]]
        for layer in self.decoder:
            x = layer(x, memory, source_lens)
        logits: Tensor = self.output(self.decoder_norm(x))
        return logits


class EncoderLayer(nn.Module):
    """Self-attention over the characters of the source, then a feed-forward network."""

    def __init__(self, settings: DatesSettings) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(settings.width)
        self.self_attention = _attention(settings)
        self.feed_forward = _feed_forward(settings)

    def forward(self, x: Tensor, source_lens: Tensor) -> Tensor:
        y = self.attention_norm(x)
        x = x + self.self_attention(y, y, y, source_lens)
        output: Tensor = x + self.feed_forward(x)
        return output


class DecoderLayer(nn.Module):
    """Causal self-attention over what has been written, cross-attention to the source, feed-forward network."""

    def __init__(self, settings: DatesSettings) -> None:
        super().__init__()
        self.self_attention_norm = nn.LayerNorm(settings.width)
        self.self_attention = _attention(settings)
        self.cross_attention_norm = nn.LayerNorm(settings.width)
        self.cross_attention = _attention(settings)
        self.feed_forward = _feed_forward(settings)

    def forward(self, x: Tensor, memory: Tensor, source_lens: Tensor) -> Tensor:
        y = self.self_attention_norm(x)
        x = x + self.self_attention(y, y, y, is_causal=True)
        x = x + self.cross_attention(self.cross_attention_norm(x), memory, memory, source_lens)
        output: Tensor = x + self.feed_forward(x)
        return output


def _attention(settings: DatesSettings) -> mha.MultiHeadAttention:
    width = settings.width
    return mha.MultiHeadAttention.square(width, settings.num_heads, bias=True, head_dim=settings.head_dim)


def _feed_forward(settings: DatesSettings) -> nn.Sequential:
    width, inner = settings.width, settings.feed_forward
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))


def sinusoids(length: int, width: int) -> Tensor:
    """The encodings (length, width) of places 0 … length-1 as sines and cosines, Vaswani et al. 2017, section 3.5."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]


@torch.inference_mode()
def translate(model: DateTranslator, texts: Sequence[str]) -> list[str]:
    """The ten characters that the model writes for each text, by greedy decoding: always the likeliest one.

    Raises:
        ValueError: texts that `source_tensors` refuses.
    """
    source, source_lens = (tensor.to(device_of(model)) for tensor in source_tensors(texts))
    memory = model.encode(source, source_lens)
    written = torch.full((len(texts), 1), TARGET.index(BEGIN), device=source.device)
    for _ in range(TARGET_LENGTH):
        following = model.decode(written, memory, source_lens)[:, -1:].argmax(dim=-1)
        written = torch.cat((written, following), dim=1)
    return ["".join(TARGET[number] for number in row) for row in written[:, 1:].tolist()]


def device_of(model: nn.Module) -> torch.device:
    """The device that a model's parameters are on."""
    return next(model.parameters()).device
