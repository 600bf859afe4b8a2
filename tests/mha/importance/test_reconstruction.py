"""What the loss rises by when heads leave and the output projection is solved again, where it is of second order."""

import numpy as np
import pytest
import torch
from torch import nn

import mha
from mha.importance.running import removal


class Probe(nn.Module):
    """One query reads 7 memory tokens; a fixed direction of width 11 is read from what attention puts out."""

    def __init__(self, bias):
        super().__init__()
        self.attention = mha.MultiHeadAttention(13, 11, 13, 11, 5, head_dim=3, bias=bias)
        self.direction = nn.Parameter(torch.randn(11))

    def forward(self, query, memory):
        return self.attention(query, memory, memory)[:, 0] @ self.direction


@pytest.mark.parametrize("bias", [True, False])
def test_scores_are_what_a_quadratic_loss_rises_by(bias, monkeypatch):
    """Each example comes with one label above and one below, so that first-order terms cancel and slopes are 1."""
    monkeypatch.setattr(removal, "DAMPING", 1e-12)
    torch.manual_seed(3)
    model = Probe(bias).double().eval()
    query, memory = torch.randn(97, 1, 11).double(), torch.randn(97, 7, 13).double()
    contexts = []
    handle = model.attention.W_o.register_forward_pre_hook(lambda _, args: contexts.append(args[0].detach()[:, 0]))
    with torch.no_grad():
        dense = model(query, memory)
    handle.remove()
    batches = [
        (query[rows], memory[rows], dense[rows], sign) for rows in (slice(60), slice(60, 97)) for sign in (1, -1)
    ]

    def loss(model, batch):
        return 0.5 * (model(*batch[:2]) - batch[2] - batch[3]).square().mean()

    def rise(heads):
        """By numpy: the readout of these heads' contexts that comes closest, and what the loss rises by then."""
        columns = [3 * head + place for head in heads for place in range(3)]
        x = contexts[0].numpy()[:, columns]
        x = np.hstack([x, np.ones((97, 1))]) if bias else x
        y = dense.numpy()
        found = x @ np.linalg.lstsq(x, y, rcond=None)[0] if x.shape[1] else 0
        return 0.5 * ((y - found) ** 2).mean()

    costs = mha.score(model, batches, loss, "reconstruction").scores["attention"]
    left, lost, least = list(range(5)), 0.0, 0.0
    while left:
        head = min(left, key=lambda head: rise([other for other in left if other != head]))
        left.remove(head)
        least = max(least, rise(left) - lost)
        lost = rise(left)
        assert costs[head].item() == pytest.approx(least, rel=1e-6)
