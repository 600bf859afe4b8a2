"""torchvision's attention: found without importing torchvision; tested wherever it can be imported."""

import pytest
import torch

from tests.mha.families.proof import prove

pytest.importorskip("torchvision", reason="torchvision is not installed: it needs to go with this torch")

from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

SWIN = {"patch_size": [2, 2], "embed_dim": 12, "depths": [2, 1], "num_heads": [3, 6], "window_size": [4, 4]}
MODELS = {
    "swin": lambda: SwinTransformer(**SWIN, num_classes=7),
    "swin v2": lambda: SwinTransformer(
        **SWIN, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2, num_classes=7
    ),
    "maxvit": lambda: MaxVit(
        input_size=(16, 16),
        stem_channels=6,
        block_channels=[12],
        block_layers=[2],
        head_dim=4,
        stochastic_depth_prob=0.0,
        partition_size=2,
        num_classes=7,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_found_and_sliced_is_masked(name, tmp_path):
    size = 16 if name == "maxvit" else 22  # 11 x 11 after the patches: padded, and windows are shifted
    x = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    layers = prove(MODELS[name](), (x,), directory=tmp_path)
    assert len(layers) == (4 if name == "maxvit" else 3)
