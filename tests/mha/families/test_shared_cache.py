"""Two submodules with one key/value cache: found in the code that hands it on."""

import pytest

import mha
from mha import HeadPlan
from mha.families.shared_cache import _pairs

DIRECT = """
def forward(self, x):
    cache = self.first(x, use_cache=True).past_key_values
    return self.second(x, past_key_values=cache)
"""
BY_OUTPUT = """
def forward(self, x):
    outputs = self.first(x)
    return self.second(x, past_key_values=outputs.past_key_values)
"""
RENAMED = """
def forward(self, x):
    outputs = self.first(x)
    kept = outputs.past_key_values
    return self.second(x, past_key_values=kept)
"""
OWN = """
def forward(self, x, past_key_values):
    outputs = self.first(x, past_key_values=past_key_values)
    again = self.first(x, past_key_values=outputs.past_key_values)
    return self.second(again.last_hidden_state, past_key_values=past_key_values)
"""


@pytest.mark.parametrize(
    ("code", "pairs"),
    [
        (DIRECT, (("first", "second"),)),
        (BY_OUTPUT, (("first", "second"),)),
        (RENAMED, (("first", "second"),)),
        (OWN, ()),
    ],
)
def test_a_cache_that_is_handed_on_is_seen(code, pairs):
    assert _pairs(code) == pairs


@pytest.mark.filterwarnings("ignore")  # what transformers warns about is not ours
def test_both_are_refused_and_what_caches_nothing_is_not():
    pytest.importorskip("transformers", minversion="5.0", reason="the zoo is of transformers' models")
    from tools.model_zoo.zoo import build

    model = build("pi0").model
    layers = mha.find_attention(model)
    assert list(layers) == [f"vlm.vision_tower.encoder.layers.{i}.self_attn" for i in range(2)]
    refused = [f"{part}.layers.{i}.self_attn" for part in ("dit", "vlm.language_model") for i in range(2)]
    assert list(layers.unsupported) == refused
    with pytest.raises(mha.UnsupportedModule, match=r"'dit.layers.0.self_attn': vlm and dit share one cache"):
        mha.prune(model, HeadPlan({"dit.layers.0.self_attn": (0,)}))
    inside = mha.find_attention(model.dit)
    assert len(inside) == 2  # on its own it caches for itself
