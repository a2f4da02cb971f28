"""Intervals of a fool rate.

The Wilson score interval of a share p = k / n (Wilson, JASA 22 (1927), 209-212): the pi for which |p - pi| is at most z
standard errors sqrt(pi (1 - pi) / n), which are

    (p + z^2 / 2n  +-  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)                          (1)

It holds for independent trials. Those of a rater are not: some people see more than others. The interval that allows
for that resamples whole raters (a cluster bootstrap, percentiles).
"""

import numpy as np

Z = 1.959963984540054  # 97.5 % of a standard normal distribution
RESAMPLES = 10_000


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
