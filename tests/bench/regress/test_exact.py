"""The gate's exact figures: counts against arithmetic by hand, every verdict, and that a worse mha is noticed."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import mha
from bench.regress import bench_figures, seeded
from bench.regress.counting import counted, flops, highest, parameters, peak_bytes
from bench.regress.errors import GateError
from bench.regress.exact import compare, difference, read

B, Q, K, H, D = 2, 19, 23, 6, 5
E_Q, E_K, E_V, OUT = 7, 11, 13, 17
FLOAT = 4  # bytes
MANY = 29  # examples, so that a tensor more is more than a page
FLOPS = 2 * B * H * D * (Q * E_Q + K * E_K + K * E_V + Q * OUT) + 4 * B * H * Q * K * D


def layer(**more) -> mha.MultiHeadAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return mha.MultiHeadAttention(E_K, E_Q, E_V, OUT, H, head_dim=D, bias=True, **more).eval()


def inputs(batch: int = B) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((batch, Q, E_Q), (batch, K, E_K), (batch, K, E_V))
    return tuple(torch.randn(size, generator=generator) for size in sizes)


# ---- counting


def test_parameters_are_counted_once():
    tied = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3), nn.Linear(3, 5))
    tied[2].weight = tied[0].weight
    assert parameters(tied) == 3 * 5 + 5 + 5 * 3 + 3 + 5


@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"is_causal": True},
        {"valid_lens": torch.tensor([3, 23])},
        {"attn_mask": torch.ones(Q, K, dtype=torch.bool).tril(3)},
        {"attn_mask": torch.zeros(B, H, Q, K)},
        {"need_weights": True},
    ],
    ids=["plain", "causal", "lens", "boolean", "floating", "weights"],
)
def test_flops_of_attention(masks):
    """The fused kernel, with any mask, and the products that return the weights."""
    attention, x = layer(), inputs()
    assert flops(lambda: attention(*x, **masks)) == FLOPS


def test_flops_of_grouped_attention():
    saved = 2 * B * (H - 3) * D * K * (E_K + E_V)  # of the heads of W_k and W_v that aren't there
    attention, x = layer(num_kv_heads=3), inputs()
    assert flops(lambda: attention(*x)) == FLOPS - saved


def test_flops_of_torchs_fast_path():
    enabled = torch.backends.mha.get_fastpath_enabled()
    attention, x = nn.MultiheadAttention(H * D, H, batch_first=True).eval(), torch.randn(B, Q, H * D)
    assert flops(lambda: attention(x, x, x)) == 4 * 2 * B * Q * (H * D) ** 2 + 4 * B * H * Q * Q * D
    assert torch.backends.mha.get_fastpath_enabled() == enabled


class Holding(nn.Module):
    """Holds tensors of known sizes, two at once; and one for good, from the first call on."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept = self.kept or [torch.ones(100_003)]
        first = torch.ones(1_009)
        second = torch.ones(2_018)  # 1,009 and 2,018
        del first
        third = torch.ones(1_013)  # 2,018 and 1,013: the most
        del second
        return x + third[:11]  # 1,013 and 11


def test_peak_bytes_by_hand():
    holding, x = Holding(), torch.zeros(11)
    peaks = {peak_bytes(lambda: holding(x)) for _ in range(3)}
    assert peaks == {(2_018 + 1_013) * FLOAT}


def test_what_was_there_before_does_not_count():
    assert highest([(1, 7), (2, 11), (9, -1000), (1, -7), (1, 5), (2, -11), (1, -5)]) == 18
    assert highest([]) == 0


def test_peak_bytes_do_not_depend_on_the_threads():
    attention, x, before = layer(), inputs(), torch.get_num_threads()
    peaks = set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            peaks.add(peak_bytes(lambda: attention(*x)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(peaks) == 1


# ---- comparing


def judged(base, head, **more):
    """Verdict, base, head and why of the only row."""
    (row,) = compare(base, head, **more)
    json.dumps(row, allow_nan=False)
    return row["verdict"], row["base"], row["head"], row["why"]


def exact(value, figure="flops"):
    return {"dense": {"exact": {figure: value}}}


def examples(*right):
    return {"seeded": {"examples": {"half": list(right)}}}


@pytest.mark.parametrize(
    ("base", "head", "verdict", "why"),
    [
        (1_050_624, 1_050_624, "PASS", None),
        (1_050_624, 1_051_648, "REGRESSED", "1,051,648 FLOPs instead of 1,050,624: 1,024 more, +0.0975 %"),
        (1_050_624, 525_312, "IMPROVED", "525,312 FLOPs instead of 1,050,624: 525,312 fewer, -50 %"),
        (0, 7, "REGRESSED", "7 FLOPs instead of 0: 7 more"),
        (2_600_000, 2_600_001, "REGRESSED", "2,600,001 FLOPs instead of 2,600,000: 1 more, +3.85e-05 %"),
    ],
)
def test_exact_figures_are_equal_or_not(base, head, verdict, why):
    assert judged(exact(base), exact(head)) == (verdict, base, head, why)


@pytest.mark.parametrize(
    ("base", "change", "verdict", "least"),
    [
        (2_600_000, 12, "PASS", "4,096"),
        (2_600_000, 4_095, "PASS", "4,096"),
        (2_600_000, 4_096, "REGRESSED", None),
        (2_600_000, -4_095, "PASS", "4,096"),
        (2_600_000, -4_096, "IMPROVED", None),
        (26_000_500, 26_000, "PASS", "26,001"),
        (26_000_500, 26_001, "REGRESSED", None),
        (26_000_500, -26_001, "IMPROVED", None),
        (0, 4_095, "PASS", "4,096"),
    ],
)
def test_peak_bytes_may_change_by_less_than_a_thousandth_or_a_page(base, change, verdict, least):
    said, *_, why = judged(exact(base, "peak_bytes"), exact(base + change, "peak_bytes"))
    assert said == verdict
    assert f"{base + change:,} bytes at the peak instead of {base:,}: {abs(change):,} " in why
    assert (f"; less than {least} does not matter" in why) if least else ("matter" not in why)


@pytest.mark.parametrize("wrong", [float("nan"), 7.0, "7", None, True, -7, [7]], ids=repr)
def test_what_is_no_whole_number_is_an_error(wrong):
    said = f"expected a whole number, got {wrong!r}"
    assert judged(exact(7), exact(wrong))[::3] == ("ERROR", f"on the head: flops: {said}")
    assert judged(exact(wrong), exact(7))[::3] == ("ERROR", f"on the base: flops: {said}")
    assert judged({}, exact(wrong))[::3] == ("ERROR", f"on the head: flops: {said}")


def test_another_figure_is_an_error():
    verdict, *_, why = judged(exact(7, "flop"), exact(7, "flop"))
    assert (verdict, why) == (
        "ERROR",
        "on the base: expected one of parameters, flops, peak_bytes, got 'flop'; exact figures have these names only",
    )


def test_figures_of_one_side():
    both = {"dense": {"exact": {"parameters": 3, "flops": 5}, "examples": {"half": [1, 0, 0, 0]}}}
    new = compare(exact(5), both)
    assert [(row["benchmark"], row["figure"], row["verdict"], row["base"], row["head"]) for row in new] == [
        ("dense", "parameters", "NEW", None, 3),
        ("dense", "flops", "PASS", 5, 5),
        ("dense-half", "accuracy", "NEW", None, 0.25),
    ]
    gone = compare(both, exact(5))
    assert [(row["figure"], row["verdict"]) for row in gone] == [
        ("flops", "PASS"),
        ("parameters", "ERROR"),
        ("accuracy", "ERROR"),
    ]
    assert gone[1]["why"] == "only the base has it: the head must give it, too, to be compared"


def test_what_failed_on_the_head_is_an_error():
    failed = {"dense": "RuntimeError: mat1 and mat2"}
    expected = ("ERROR", 5, None, "it fails on the head: RuntimeError: mat1 and mat2")
    assert judged(exact(5), {}, errors=failed) == expected
    assert judged(exact(5), exact(5), errors=failed) == expected, "what it gave before it failed counts for nothing"
    (row,) = compare({}, {}, failed)
    assert (row["benchmark"], row["figure"], row["verdict"]) == ("dense", "any", "ERROR")


def test_what_is_skipped_is_said():
    skipped = {"dense": "needs a GPU"}
    assert judged({}, {}, skipped=skipped) == ("SKIPPED", None, None, "it is skipped: needs a GPU")
    assert judged(exact(5), {}, skipped=skipped) == ("ERROR", 5, None, "it is skipped: needs a GPU"), "the base has it"
    both = {"errors": {"dense": "RuntimeError: mat1"}, "skipped": skipped}
    assert judged({}, {}, **both)[::3] == ("ERROR", "it fails on the head: RuntimeError: mat1")


def test_no_figures_no_rows():
    assert compare({}, {}) == []
    assert compare({"timed": {}}, {"timed": {}}) == []


def changed(lost, won, count=1000):
    """Examples on the base and on the head, of which so many are lost and won."""
    base = [1] * lost + [0] * won + [1] * (count - lost - won)
    return examples(*base), examples(*([0] * lost + [1] * won + base[lost + won :]))


@pytest.mark.parametrize(
    ("lost", "won", "verdict"),
    [(0, 0, "PASS"), (5, 0, "PASS"), (6, 0, "REGRESSED"), (0, 6, "IMPROVED"), (40, 39, "PASS"), (60, 30, "REGRESSED")],
)
def test_accuracy_is_paired(lost, won, verdict):
    base, head = changed(lost, won)
    (row,) = compare(base, head)
    assert (row["benchmark"], row["figure"], row["verdict"]) == ("seeded-half", "accuracy", verdict)
    assert row["head"] - row["base"] == pytest.approx((won - lost) / 1000)
    assert row["low"] < (won - lost) / 1000 < row["high"]
    why = f"of 1,000 examples {lost} are no longer answered right, and {won} newly are"
    assert row["why"] == (why if lost or won else None)
    significant = stats.binomtest(won, won + lost).pvalue < 0.05 if won + lost else False  # McNemar's exact test
    assert (verdict != "PASS") == significant


def test_the_interval_by_hand():
    """Of 21, one is won and seven lost: 2/23 - 8/23 ± 1.96 √((10/23 - (6/23)²) / 23)."""
    found = difference([1] * 7 + [0] + [1] * 13, [0] * 7 + [1] + [1] * 13)
    assert found.value == pytest.approx(-6 / 21)
    assert (found.low, found.high, found.lost, found.won) == pytest.approx((-0.50836, -0.01338, 7, 1), abs=1e-5)


def test_the_interval_leaves_zero_out_seldom_where_nothing_changed():
    random = np.random.default_rng(0)
    counts = random.multinomial(500, [0.04, 0.04, 0.92], size=2000)
    outside = 0
    for lost, won, same in counts:
        found = difference([1] * lost + [0] * won + [1] * same, [0] * lost + [1] * won + [1] * same)
        outside += found.low > 0 or found.high < 0
    assert 0.02 < outside / len(counts) < 0.06


@pytest.mark.parametrize("wrong", [[1, 0, 2], [1, float("nan"), 0], ["1", "0", "1"], [], 0.7, None, "101"], ids=repr)
def test_what_is_not_right_or_wrong_is_an_error(wrong):
    good = examples(1, 0, 1)
    bad = {"seeded": {"examples": {"half": wrong}}}
    said = f"on the head: expected one 0 or 1 for each example, got {wrong!r}"
    assert judged(good, bad) == ("ERROR", pytest.approx(2 / 3), None, said)


def test_other_examples_are_an_error():
    verdict, *_, why = judged(examples(1, 0, 1), examples(1, 0))
    assert verdict == "ERROR"
    assert why == "3 examples on the base and 2 on the head; only the same ones can be compared"


@pytest.mark.parametrize("fields", [7, {"exact": 7}, {"examples": [1, 0]}, {"exact": None}], ids=repr)
def test_fields_of_another_form_stop_the_gate(fields):
    with pytest.raises(GateError, match=r"dense: expected .* got .*store the baseline again"):
        compare({"dense": fields}, {})


@pytest.mark.parametrize("document", [{}, [], {"benchmarks": [{}]}, {"benchmarks": 3}, {"dense": {}}], ids=repr)
def test_another_document_stops_the_gate(document):
    with pytest.raises(GateError, match="expected the JSON of pytest-benchmark"):
        read(document)


def test_two_of_one_name_stop_the_gate():
    two = {"benchmarks": [{"name": "dense", "extra_info": {"exact": {"flops": flops}}} for flops in (3, 5)]}
    with pytest.raises(GateError, match="two benchmarks with exact figures are called 'dense'"):
        read(two)


def test_a_users_own_benchmark(tmp_path):
    """What pytest-benchmark writes is read: names given by hand, and nothing of those that fail or are only timed."""
    (tmp_path / "bench_own.py").write_text(
        "def test_own(benchmark):\n"
        "    benchmark.name = 'own'\n"
        "    benchmark.extra_info['examples'] = {'mine': [1, 0, 1]}\n"
        "    benchmark.extra_info['exact'] = benchmark.pedantic(lambda: {'parameters': 7}, rounds=1)\n"
        "def test_failing(benchmark):\n"
        "    benchmark.extra_info['exact'] = benchmark.pedantic(lambda: 1 / 0, rounds=1)\n"
        "def test_timed(benchmark):\n"
        "    benchmark.pedantic(int, rounds=1)\n"
    )
    written = tmp_path / "own.json"
    command = [sys.executable, "-m", "pytest", "bench_own.py", "-p", "no:cacheprovider", f"--benchmark-json={written}"]
    done = subprocess.run([*command, "-c", os.devnull], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    document = json.loads(written.read_text())
    assert {each["name"] for each in document["benchmarks"]} == {"own", "test_timed"}
    figures = read(document)
    assert figures == {"own": {"exact": {"parameters": 7}, "examples": {"mine": [1, 0, 1]}}}
    stored = json.loads(json.dumps(figures))
    assert [row["verdict"] for row in compare(stored, figures)] == ["PASS", "PASS"]


# ---- a worse mha is noticed


class Keeping(mha.MultiHeadAttention):
    """Holds one more tensor as long as a call goes on."""

    def forward(self, queries, *args, **kwargs):
        copy = queries.clone()
        output = super().forward(queries, *args, **kwargs)
        del copy
        return output


class Twice(mha.MultiHeadAttention):
    """Multiplies by W_q twice."""

    def forward(self, queries, *args, **kwargs):
        self.W_q(queries)
        return super().forward(queries, *args, **kwargs)


def once():
    """In place of pytest-benchmark's fixture."""

    def pedantic(function, *, rounds):
        assert rounds == 1
        return function()

    return SimpleNamespace(name="", extra_info={}, pedantic=pedantic)


def figures_of(subject, monkeypatch):
    """What the benchmark file gives for a subject."""
    monkeypatch.setattr(bench_figures, "WORKLOADS", {"dense": lambda: subject})
    benchmark = once()
    bench_figures.test_figures(benchmark, "dense")
    return {benchmark.name: benchmark.extra_info}


@pytest.mark.parametrize(
    ("worse", "more"),
    [
        (Keeping, {"parameters": 0, "flops": 0, "peak_bytes": MANY * Q * E_Q * FLOAT}),
        (Twice, {"parameters": 0, "flops": 2 * MANY * Q * E_Q * H * D, "peak_bytes": 0}),
    ],
)
def test_a_worse_layer_is_noticed(worse, more, monkeypatch):
    attention, x = layer(), inputs(MANY)
    base = figures_of((attention, x, {}), monkeypatch)
    attention.__class__ = worse
    rows = compare(base, figures_of((attention, x, {}), monkeypatch))
    assert {row["figure"]: row["head"] - row["base"] for row in rows} == more
    assert {row["figure"]: row["verdict"] for row in rows} == {
        figure: "REGRESSED" if extra else "PASS" for figure, extra in more.items()
    }


def test_a_head_too_many_is_noticed(monkeypatch):
    subjects = [(mha.prune(layer(), mha.HeadPlan({"": range(kept)})), inputs(MANY), {}) for kept in (3, 4)]
    base, head = (figures_of(subject, monkeypatch) for subject in subjects)
    rows = compare(base, head)
    assert [row["verdict"] for row in rows] == ["REGRESSED"] * 3
    assert rows[0]["head"] - rows[0]["base"] == D * (E_Q + E_K + E_V + OUT + 3)
    assert [row["verdict"] for row in compare(head, base)] == ["IMPROVED"] * 3


# ---- accuracy of a fixed seed


@pytest.fixture(scope="module")
def dense():
    state = torch.get_rng_state()
    model = seeded.model()
    assert torch.equal(torch.get_rng_state(), state)
    return model


@pytest.fixture(scope="module")
def outcome(dense):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeded, "model", lambda: dense)
        return seeded.outcome()


def test_the_seeded_task_can_go_up_and_down(outcome):
    accuracy = {model: np.mean(right) for model, right in outcome["examples"].items()}
    assert 0.9 < accuracy["dense"] < 0.99
    assert 3 / seeded.VALUES < accuracy["half"] < accuracy["dense"] - 0.1
    assert {len(right) for right in outcome["examples"].values()} == {seeded.EXAMPLES}
    assert [row["verdict"] for row in compare({"seeded": outcome}, {"seeded": outcome})] == ["PASS"] * 3


def test_the_same_seed_gives_the_same_model(monkeypatch):
    monkeypatch.setattr(seeded, "STEPS", 5)
    weights = []
    for seed in (1, 2):  # which nothing may depend on
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            weights.append(nn.utils.parameters_to_vector(seeded.model().parameters()))
    assert torch.equal(*weights)


def test_rows_answer_their_question():
    rows = seeded.draw(97, 5)
    for keys, values, length, question, answer in zip(*(part.tolist() for part in rows), strict=True):
        assert len(set(keys[:length])) == length, "no key stands twice among the real pairs"
        assert set(keys[length:]) <= set(keys[:length]), "padding could be mistaken for what is real"
        assert values[keys.index(question)] == answer


def test_a_mask_ignored_is_noticed(dense, outcome, monkeypatch):
    forward = mha.MultiHeadAttention.forward
    monkeypatch.setattr(mha.MultiHeadAttention, "forward", lambda self, q, k, v, _lens: forward(self, q, k, v))
    base, head = (
        {"seeded": {"examples": {"dense": right}}} for right in (outcome["examples"]["dense"], seeded.right(dense))
    )
    assert judged(base, head)[0] == "REGRESSED"


def test_heads_chosen_worse_are_noticed(dense, outcome, monkeypatch):
    score = mha.score
    monkeypatch.setattr(mha, "score", lambda model, *_: score(model, None, None, "random"))
    head = seeded.right(seeded.halved(dense))
    assert judged(examples(*outcome["examples"]["half"]), examples(*head))[0] == "REGRESSED"


def test_the_benchmark_gives_the_outcome(outcome, monkeypatch):
    monkeypatch.setattr(seeded, "outcome", lambda: outcome)
    benchmark = once()
    bench_figures.test_seeded(benchmark)
    assert (benchmark.name, benchmark.extra_info) == ("seeded", outcome)


def test_counts_of_a_module_without_arguments():
    assert counted(nn.Sequential(), (torch.zeros(3),)) == {"parameters": 0, "flops": 0, "peak_bytes": 0}
