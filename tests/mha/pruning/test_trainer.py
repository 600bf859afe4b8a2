"""transformers' `Trainer` trains pruned models, and goes on when heads leave in the middle, as with masked heads."""

import copy

import pytest
import torch

import mha
from mha.pruning.resolve import kept_entries
from tests.mha.support.language_models import UNEVEN, build, uneven
from tests.mha.support.transformers_models import transformers

pytest.importorskip("accelerate", reason="accelerate is not installed")

ROWS = torch.randint(3, 97, (5, 11), generator=torch.Generator().manual_seed(7))
DATA = [{"input_ids": row, "labels": row} for row in ROWS]  # all of them are one batch, so their order is nothing
LAYERS = [f"model.layers.{number}.self_attn" for number in range(3)]
LATER = mha.HeadPlan({LAYERS[0]: (1, 5), LAYERS[2]: (3,)})


def trainer(model, folder, steps, callbacks=(), **options):
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=len(DATA), learning_rate=0.01, weight_decay=0.1,
        max_grad_norm=0, lr_scheduler_type="constant", use_cpu=True, report_to=[], disable_tqdm=True,
        logging_strategy="no", **options,
    )  # fmt: skip
    return transformers.Trainer(model, arguments, train_dataset=DATA, callbacks=list(callbacks))


def by_hand(model, steps, optimizer=None):
    """Trained as the trainer does, without it."""
    if optimizer is None:
        whole = [part for name, part in model.named_parameters() if "norm" not in name]
        norms = [part for name, part in model.named_parameters() if "norm" in name]
        groups = [{"params": whole, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=0.01)
    for _ in range(steps):
        model(input_ids=ROWS, labels=ROWS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def assert_same(small, large, entries):
    """The parameters of the small model are those of the large one, where heads are kept."""
    there = dict(large.named_parameters())
    for name, parameter in small.named_parameters():
        expected = there[name].detach()
        for dim, index in entries.get(name, {}).items():
            expected = expected.index_select(dim, index)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-9, atol=1e-12, msg=name)


class Pruning(transformers.TrainerCallback):
    """Prunes what is trained after two steps."""

    def on_step_end(self, args, state, control, model, optimizer, **_):  # noqa: ARG002
        if state.global_step == 2:
            mha.prune(model, LATER, inplace=True, optimizer=optimizer)


def test_heads_that_leave_before_and_during_training(tmp_path):
    dense = build("llama", **UNEVEN).train()
    mha.save_pruned(mha.prune(dense, uneven(dense)), tmp_path / "smaller")
    model = mha.from_pretrained(tmp_path / "smaller")
    trainer(model, tmp_path / "runs", 4, [Pruning()], save_strategy="no").train()
    both = mha.HeadPlan({**uneven(dense).keep, **LATER.keep})
    entries = kept_entries(dense, both)
    with mha.masked(dense, uneven(dense)):
        optimizer = by_hand(dense, 2)
    with mha.masked(dense, both):
        by_hand(dense, 2, optimizer)
    assert mha.plan_of(model) == both
    assert_same(model, dense, entries)


def test_checkpoints_of_a_trainer_are_gone_on_from(tmp_path):
    dense = build("llama", **UNEVEN)
    pruned = mha.prune(dense, uneven(dense))
    expected = copy.deepcopy(pruned).train()
    by_hand(expected, 4)
    trainer(pruned, tmp_path, 2, save_steps=2).train()
    resumed = mha.from_pretrained(tmp_path / "checkpoint-2")
    assert mha.plan_of(resumed) == mha.plan_of(pruned)
    going_on = trainer(resumed, tmp_path, 4, save_strategy="no")
    going_on.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same(resumed, expected, {})
    going_on.save_model(str(tmp_path / "tuned"))
    assert_same(mha.from_pretrained(tmp_path / "tuned"), expected, {})
