"""A test of a mean that holds for any number of examples, where only bounds of the values are known.

Whoever bets against "the mean is 0 or more" multiplies their wealth by 1 - stake x value at each example, with a stake
that may depend on the examples before. While the hypothesis holds, the wealth is not expected to grow, so it reaches
1 / p with a chance of at most p (Markov). So Waudby-Smith and Ramdas bound means ("Estimating means of bounded random
variables by betting", JRSS B 86, 2024), also with stakes like these, for a known number of examples: the smaller the
variance of the examples before, the higher, so that bounds far wider than the values' spread cost little.

A wealth depends on the order of the examples. Its mean over several orders, drawn without a look at the values, is not
expected to grow either, and depends on it little.
"""

import numpy as np

ORDERS = 32
BOLDEST = 0.75  # of the stake at which one example could ruin
PRIOR = 0.25  # the variance before the first example, of values scaled to at most 1


def p_value(values: np.ndarray, highest: float, level: float, seed: int = 0) -> float:
    """The p-value of "the mean is 0 or more".

    Args:
        values: (n,), of independent examples.
        highest: what no value can exceed; above 0.
        level: that of the test; the stakes are made for it, and the p-value is valid at any other too.
        seed: of the orders.
    """
    scaled = values / highest
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(len(values)), (ORDERS, 1)), axis=1)
    wealth = np.log1p(-_stakes(scaled[orders], level) * scaled[orders]).sum(axis=1)
    highest_log = wealth.max()
    return float(min(1.0, np.exp(-highest_log) / np.mean(np.exp(wealth - highest_log))))


def _stakes(values: np.ndarray, level: float) -> np.ndarray:
    """The stake on each example, by the variance of those before it in the same order; (orders, n) as the values."""
    count = np.arange(1, values.shape[1] + 1)
    mean = np.cumsum(values, axis=1) / (count + 1)
    variance = (PRIOR + np.cumsum((values - mean) ** 2, axis=1)) / (count + 1)
    before = np.concatenate([np.full((len(values), 1), PRIOR), variance[:, :-1]], axis=1)
    return np.minimum(BOLDEST, np.sqrt(2 * np.log(1 / level) / (values.shape[1] * before)))
