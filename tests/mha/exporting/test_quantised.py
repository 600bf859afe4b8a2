"""What was pruned can be quantised by others' tools; what they have quantised is refused by name."""

import pytest
import torch
from torch import nn

import mha
from mha.values.errors import UnsupportedModule
from tests.mha.support.language_models import GROUPED, IDS, build, uneven

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'mha[hf]'")

LITTLE = 0.05  # of the norm of the logits


def by_torchao(model):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed: nox -s exports")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return "torchao.*Int8Tensor"


def by_bitsandbytes(model):
    layers = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed").nn
    for parent in list(model.model.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is nn.Linear:
                other = layers.Linear8bitLt(linear.in_features, linear.out_features, bias=False, has_fp16_weights=False)
                other.weight = layers.Int8Params(linear.weight.detach().clone(), requires_grad=False)
                setattr(parent, name, other)
    model.to("cpu")  # where it quantises
    return "Linear8bitLt"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantise", [by_torchao, by_bitsandbytes])
def test_pruned_models_are_quantised_and_quantised_ones_not_pruned(tmp_path, quantise):
    model = build("llama", **GROUPED).float()
    mha.save_pruned(mha.prune(model, uneven(model)), tmp_path / "pruned")
    small = mha.from_pretrained(tmp_path / "pruned")
    with torch.no_grad():
        expected = small(IDS).logits
        quantise(small)
        away = small(IDS).logits - expected
    assert 0 < away.norm() < LITTLE * expected.norm()
    kind = quantise(model)
    with pytest.raises(UnsupportedModule, match=rf"layer 'model\.layers\.0\.self_attn': .*{kind}"):
        mha.prune(model, uneven(model))
