"""What `mha attention` draws."""

import base64
import re

import numpy as np
import pytest
import torch

from mha.cli import attention
from mha.cli.models import read_model
from mha.cli.settings import Settings
from tests.mha.cli.tiny import tiny_bert, tokenizer, transformers

TEXT = "the cat sat on a mat"


@pytest.mark.usefixtures("here")
def test_weights_are_those_of_the_model():
    loaded = read_model("my-model", Settings())
    drawn = attention.read_attention(loaded, loaded.tokenizer, TEXT)
    model = transformers.BertForSequenceClassification.from_pretrained("my-model", attn_implementation="eager").eval()
    ids = loaded.tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = model(input_ids=ids, output_attentions=True).attentions
    assert drawn.tokens == TEXT.split()
    assert list(drawn.layers) == [f"bert.encoder.layer.{number}.attention" for number in range(2)]
    for weights, reference in zip(drawn.layers.values(), wanted, strict=True):
        np.testing.assert_allclose(weights.numpy(), reference.numpy(), atol=1e-6)
    assert loaded.model.config._attn_implementation != "eager"  # as it was


@pytest.mark.usefixtures("here")
def test_heads_that_were_removed_are_blank():
    loaded = read_model("smaller", Settings())
    drawn = attention.read_attention(loaded, loaded.tokenizer, TEXT)
    for name, weights in drawn.layers.items():
        blank = [head for head in range(6) if weights[0, head].isnan().all()]
        assert len(blank) == 3, name
        assert weights.shape == (1, 6, 6, 6)


def test_a_page_of_both_models(run, here):
    ran = run("attention", "my-model", "--text", f"{TEXT} <i>", "--beside", "smaller", "-o", "heads.html")
    assert ran.code == 0, ran.err
    assert ran.out == "Written to heads.html: 2 layers, 9 tokens.\n"
    page = (here / "heads.html").read_text()
    assert f"<h1>{TEXT} &lt;i&gt;</h1>" in page
    headings = re.findall("<h2>(.*?)</h2>", page)
    layers = [f"bert.encoder.layer.{number}.attention" for number in range(2)]
    assert headings == [
        "All layers × heads",
        *(f"{model}: {name}" for model in ("my-model", "smaller") for name in layers),
    ]
    pictures = re.findall('base64,(.*?)"', page)
    assert len(pictures) == 5
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.parametrize("name", ["heads.png", "heads.svg"])
def test_a_picture(run, here, name):
    document = run("attention", "my-model", "--text", TEXT, "-o", name, "--json").document
    assert document["tokens"] == TEXT.split()
    assert (here / name).stat().st_size > 1000


def test_the_encoder_of_two(run, here):
    config = transformers.T5Config(d_model=16, num_layers=2, num_heads=2, d_kv=8, d_ff=8, vocab_size=13)
    transformers.T5ForConditionalGeneration(config).save_pretrained(here / "t5")
    tokenizer().save_pretrained(here / "t5")
    document = run("attention", "t5", "--text", TEXT, "-o", "heads.png", "--json").document
    assert [name.split(".")[:3] for name in document["models"][0]["layers"]] == [
        ["encoder", "block", "0"],
        ["encoder", "block", "1"],
    ]


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        ("bare", TEXT, "bare has no tokenizer; save one beside the model"),
        ("my-model", " ".join(["cat"] * 17), "the text has 17 tokens; my-model takes 1 to 16: shorten it"),
        ("my-model", "", "the text has 0 tokens"),
        ("own.py:build", TEXT, "own.py:build has no tokenizer"),
    ],
)
def test_what_cant_be_drawn(run, here, model, text, message):
    tiny_bert().save_pretrained(here / "bare")
    ran = run("attention", model, "--text", text, "-o", "heads.png")
    assert ran.code == 1
    assert message in ran.err
    assert not (here / "heads.png").exists()
