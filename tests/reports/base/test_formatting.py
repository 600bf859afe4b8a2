"""Numbers are written as a reader would."""

import pytest

from reports.base import formatting as words
from reports.read.run import Metric


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1234"), (123.45, "123"), (12.345, "12.3"), (9.996, "10.0"), (0.012345, "0.0123"), (-2.5, "-2.50"),
     (0, "0"), (float("nan"), "–")],
)  # fmt: skip
def test_three_significant_digits(value, text):
    assert words.digits(value) == text


def test_units():
    assert words.milliseconds(0.0123) == "12.3 ms"
    assert words.duration(0.0999) == "99.9 ms"
    assert words.duration(75) == "75.0 s"
    assert words.per_cent(0.375) == "37.5 %"
    assert words.times(1.995) == "2.00×"
    assert words.between(1.234, 1.996) == "1.23–2.00"
    assert words.between(float("nan"), float("nan")) == "one round, no interval"
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b", "c"]) == "a, b and c"


def test_sizes_and_rates_have_prefixes():
    assert [words.size(count) for count in (0, 512, 1536, 12 * 2**20, 3 * 2**30)] == [
        "0 B", "512 B", "1.50 KiB", "12.0 MiB", "3.00 GiB"
    ]  # fmt: skip
    assert words.size(-1536) == "-1.50 KiB"
    assert words.rate(1.434e11, "FLOP/s") == "143 GFLOP/s"
    assert words.rate(999.0, "B/s") == "999 B/s"
    assert words.rate(1000.0, "B/s") == "1.00 kB/s"


def test_shares_are_written_in_per_cent_and_other_metrics_are_not():
    accuracy = Metric("accuracy", higher_is_better=True, chance=0.1, is_share=True)
    assert (accuracy.text(0.9712), accuracy.change(-0.0051)) == ("97.1 %", "−0.5 points")
    assert accuracy.interval(-0.01, 0.02) == "−1.0 to 2.0"
    perplexity = Metric("perplexity", higher_is_better=False, chance=50.0, is_share=False)
    assert (perplexity.text(12.345), perplexity.change(1.5)) == ("12.3", "+1.50")
    assert perplexity.label == "perplexity (lower is better)"
