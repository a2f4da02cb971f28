"""Intervals of 95 %.

Of a mean of n values, Student's t: the mean +- t(n - 1) s / sqrt n; of the difference of two means of values whose
variances may differ, Welch's.

Of a share p = k / n, the Wilson score interval (Wilson, JASA 22 (1927), 209-212): the pi for which |p - pi| is at most
z standard errors sqrt(pi (1 - pi) / n), which are

    (p + z^2 / 2n  +-  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)                          (1)

It holds for independent trials. Those of a rater in a study are not: some people see more than others. The interval
that allows for that resamples whole raters (a cluster bootstrap, percentiles).
"""

import math

import numpy as np
from scipy.special import stdtrit

Z = 1.959963984540054  # 97.5 % of a standard normal distribution
RESAMPLES = 10_000


def student(values):
    """[low, high] of the mean of two or more values."""
    half = float(stdtrit(len(values) - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return [mean - half, mean + half]


def welch(a, b):
    """[low, high] of the mean of b less that of a, two or more values each."""
    parts = [(np.var(x, ddof=1) / len(x), len(x) - 1) for x in (a, b)]
    error = sum(v for v, _ in parts)
    freedom = error**2 / sum(v**2 / n for v, n in parts) if error else 1.0
    half = float(stdtrit(freedom, 0.975) * math.sqrt(error))
    difference = float(np.mean(b) - np.mean(a))
    return [difference - half, difference + half]


def wilson(successes, trials):
    """(low, high) of eq. 1 at 95 %, in [0, 1]; trials at least 1."""
    p, n = successes / trials, trials
    middle, half = p + Z**2 / (2 * n), Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    # At 0 and n successes one end is 0 or 1, but for rounding.
    low = 0.0 if successes == 0 else (middle - half) / (1 + Z**2 / n)
    high = 1.0 if successes == trials else (middle + half) / (1 + Z**2 / n)
    return float(low), float(high)


def over_raters(successes, trials, seed):
    """(low, high), each [K]: 95 % of the pooled rates when raters are drawn again with replacement; successes and
    trials: [raters, K] counts. NaN where there are fewer than two raters."""
    count = len(trials)
    if count < 2:
        return np.full((2, trials.shape[1]), np.nan)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    pooled = drawn @ trials
    rates = np.divide(drawn @ successes, pooled, where=pooled > 0, out=np.full(pooled.shape, np.nan))
    return np.nanquantile(rates, (0.025, 0.975), axis=0)
