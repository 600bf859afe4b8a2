"""Tiny models with a tokenizer, and a task in a file."""

from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat", "a", "dog", "ran", "far")
BERT = {
    "hidden_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 14,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 16,
    "num_labels": 3,
}
TASK = '''
"""Whether the tiny model gives the class that the whole one gives: 60 of 400 labels are wrong on purpose."""

import torch
import mha


class Sorting(mha.tasks.Task):
    name, metric, batch_size = "sorting", "accuracy", 4

    def model(self):
        raise AssertionError("the command line names the model")

    def calibration(self):
        return self._batches(1, 24, 8)

    def _batches(self, seed, count, size):
        ids = torch.randint(4, 13, (count, 7), generator=torch.Generator().manual_seed(seed))
        labels = ids[:, 1] % 3
        return [
            {"input_ids": some, "attention_mask": torch.ones_like(some), "labels": wanted}
            for some, wanted in zip(ids.split(size), labels.split(size))
        ]

    def forward(self, model, batch):
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    def loss(self, model, batch):
        return torch.nn.functional.cross_entropy(self.forward(model, batch), batch["labels"])

    def evaluate(self, model):
        rows = [self.forward(model, batch).argmax(-1) == batch["labels"] for batch in self._batches(2, 400, 100)]
        return torch.cat(rows).double().numpy()

    def example(self, batch_size, seq_len=None):
        ids = torch.randint(4, 13, (batch_size, seq_len or 7), generator=torch.Generator().manual_seed(3))
        return (), {"input_ids": ids}


task = Sorting()
'''
OWN = """
import torch, mha

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = mha.MultiHeadAttention.square(8, 4)

    def forward(self, x):
        return self.attention(x, x, x)

def build():
    torch.manual_seed(5)
    return Own()

def nothing():
    return 7
"""


def tokenizer() -> Any:
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")


def tiny_bert(**sizes: Any) -> Any:
    """A classifier with random weights, whose heads say little: no answer depends on them."""
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**{**BERT, **sizes})).eval()
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.weight.mul_(1e-3)
    return model
