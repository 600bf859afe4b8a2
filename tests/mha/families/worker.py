"""What another process runs; a module of its own, so that it imports no more models than the one it is sent."""

from typing import Any

import torch
from torch import nn

import mha

B, N = 2, 5


class Ours(nn.Module):
    """Our own layer, grouped, and torch's, each beside a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 14)
        self.ours = mha.MultiHeadAttention.square(14, 6, bias=True, head_dim=3, num_kv_heads=2)
        self.torchs = nn.MultiheadAttention(14, 2, add_bias_kv=True, add_zero_attn=True, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(14, 2, 11, batch_first=True)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        x = x + self.ours(x, x, x)
        x = x + self.torchs(x, x, x)[0]
        return self.encoder(x)


def ids() -> torch.Tensor:
    """(b, q), always the same."""
    return torch.randint(1, 17, (B, N), generator=torch.Generator().manual_seed(5))


def run(model: nn.Module) -> torch.Tensor:
    """The first output for `ids`."""
    output = model(input_ids=ids())
    return output if isinstance(output, torch.Tensor) else output[0]


def put_output(model: nn.Module, results: Any) -> None:
    """Put the output of a model into a queue, as numbers."""
    with torch.no_grad():
        results.put(run(model).tolist())
