"""A run that strains every figure: long names, many criteria, batch sizes, layers, heads, sizes and tokens."""

from collections.abc import Sequence

import numpy as np

from reports.read.run import LAYER
from tests.reports.synthetic import (
    CEILING_COLUMNS,
    MEMORY_COLUMNS,
    OPERATOR_COLUMNS,
    PREDICTION_COLUMNS,
    RELIABILITY_COLUMNS,
    SLICE_COLUMNS,
    RunWriter,
    attention_arrays,
    counted,
    paired,
)

TASK = "a_task_with_a_name_that_is_longer_than_most"
CRITERIA = [f"{'criterion_of_forty_letters_that_is_no_':_<38}{number:02d}" for number in range(8)]
BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
KEPT = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
LAYERS = {f"encoder.layers.{layer}.self_attention": 16 for layer in range(12)}
ROUNDS = 3


def fill_stress(run: RunWriter) -> None:
    """Nine criteria of forty letters, seven batch sizes, twelve layers of sixteen heads."""
    run.task(TASK, LAYERS, metric="exact match of the whole answer")
    run.plan(TASK, "dense", 1.0, 0.97)
    run.plan(TASK, "none", 0.0, 0.3)
    numbers = np.random.default_rng(5)
    criteria = [*CRITERIA, "leave_one_out"]
    for place, criterion in enumerate(criteria):
        for kept in KEPT:
            run.plan(TASK, criterion, kept, 0.97 - (1 - kept) ** 2 * (0.1 + 0.05 * place))
        run.scores += [
            (TASK, criterion, layer, head, numbers.normal(), 10.0 ** (place - 4))
            for layer, heads in LAYERS.items() for head in range(heads)
        ]  # fmt: skip
    for draw in range(7):
        for kept in KEPT:
            run.plan(TASK, "random", kept, 0.5 * kept + draw / 50, draw=draw)
    for batch in BATCHES:
        for kept in KEPT:
            first = run.case(
                TASK, criteria[0], kept, batch, paired(0.01 * batch, 1 + 0.7 * (1 - kept), ROUNDS),
                counts=counted((0.001 * batch, 0.002), (0.001 * batch * kept, 0.002)),
            )  # fmt: skip
            for criterion in criteria[1:]:
                run.case(TASK, criterion, kept, batch, [], timed_by=first)
        run.case(TASK, "none", 0.0, batch, paired(0.01 * batch, 2.0, ROUNDS), case=f"none-b{batch}")
    for example in range(2):
        for layer in LAYERS:
            _attention(run, example, layer, numbers)
    _layer(run)
    _tables(run, criteria)
    _changes(run, numbers)


def _changes(run: RunWriter, numbers: np.random.Generator) -> None:
    """What changes beside the mean, of every plan: 40 examples that are not 0 or 1, 40 slices with long names."""
    dense = numbers.random(40)
    for name in (plan["plan"] for plan in run.plans if plan["draw"] == 0):
        run.example_values(name, list(dense + numbers.normal(size=40) * (numbers.random(40) < 0.3)), TASK)
        run.table("slices.csv", SLICE_COLUMNS, [
            (TASK, name, f"a slice of the examples whose number is {number}", 17, 0.9, 0.97, drop, drop - 1, drop + 1)
            for number, drop in enumerate(numbers.normal(size=40))
        ])  # fmt: skip
        run.table("reliability.csv", RELIABILITY_COLUMNS, [
            (TASK, name, place, 4000, (place + 0.5) / 10, numbers.random()) for place in range(10)
        ])  # fmt: skip


def _attention(run: RunWriter, example: int, layer: str, numbers: np.random.Generator) -> None:
    kept = sorted(numbers.choice(16, 9, replace=False).tolist())
    arrays = attention_arrays(TASK, layer, 16, kept, 21, 34)
    place = f"{TASK}/{example}"
    arrays = {key.replace(f"{TASK}/{layer}/", f"{place}/{layer}/"): value for key, value in arrays.items()}
    arrays[f"{place}/{layer}/keys"] = np.array([f"a_token_of_{key}_and_some_letters" for key in range(34)])
    run.attention |= arrays | {f"{place}/name": np.array(f"the example with number {example}, which has a long name")}


def _layer(run: RunWriter) -> None:
    for heads in (8, 12, 16):
        for batch in BATCHES:
            for seq_len in (32, 128, 512, 2048):
                peers = [
                    sample for arm in ("torch", "linears", "textbook", "transformers", "masked", "products", "float32")
                    for sample in paired(0.002, 0.7 + heads / 20, ROUNDS, (arm, "mha"))[:: 1 if arm == "torch" else 2]
                ]  # fmt: skip
                run.layer_case(heads, batch, seq_len, 1.0, peers, head_dim=64)
                for kept in (0.75, 0.5, 0.25):
                    samples = paired(1e-6 * batch * seq_len, 1.1 / kept, ROUNDS)
                    run.layer_case(heads, batch, seq_len, kept, samples, head_dim=64)


def _tables(run: RunWriter, criteria: Sequence[str]) -> None:
    run.table("ceilings.csv", CEILING_COLUMNS, [
        ("cpu", "float32", ceiling, value, 0.9 * value, 1.1 * value, 31, 0)
        for ceiling, value in (("matmul", 1e12), ("copy", 1e11), ("cached copy", 3e11))
    ])  # fmt: skip
    run.table("predictions.csv", PREDICTION_COLUMNS, [
        (task, "cpu", f"plan-{place}", "[1]", 0.3 + place / 1000, 0.3 + place / 900, 0.3, 0.9, 0, "steady", 12)
        for place in range(500) for task in (TASK, LAYER)
    ])  # fmt: skip
    for kept in (1.0, *KEPT, 0.1, 0.05):
        about = (TASK, "cpu", criteria[0], kept, 64)
        run.table("operators.csv", OPERATOR_COLUMNS, [
            (*about, f"aten::_an_operator_with_a_name_like_those_of_attention_{place}", 3, kept / (place + 1), 0.0, 17)
            for place in range(20)
        ])  # fmt: skip
        steps = [(step / 1e4, (step % 17) * 2**20 * kept) for step in range(1500)]
        run.table("memory.csv", MEMORY_COLUMNS, [(*about, *step) for step in steps])
    for phase in ("prefill", "decode"):
        for batch in BATCHES:
            for seq_len in (128, 1024):
                for kept in KEPT:
                    run.case(
                        "llama", None, kept, batch, paired(0.01 * batch, 1 / kept, ROUNDS), phase=phase, plan=None,
                        case=f"{phase}-b{batch}-s{seq_len}-keep{kept}", kind="generation", seq_len=seq_len,
                        tokens=batch * seq_len, mask="causal",
                    )  # fmt: skip
