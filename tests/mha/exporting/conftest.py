"""A pruned model, and what it looks like exported."""

import pytest
import torch

import mha
from tests.mha.exporting.stack import PLAN, B, Case, E, S, Stack


@pytest.fixture(scope="session")
def case():
    torch.manual_seed(0)
    model = Stack().eval()
    x = torch.randn(B, S, E, generator=torch.Generator().manual_seed(1))
    return Case(model, PLAN, ((x,), {"lens": torch.tensor([7, 3, 5]), "scale": 0.5}))


@pytest.fixture(scope="session")
def exported(case, tmp_path_factory):
    """The pruned model as a traced program of torch; tests that change it copy the directory."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    return mha.export(case.pruned, "torch", tmp_path_factory.mktemp("export") / "torch", example=case.example)
