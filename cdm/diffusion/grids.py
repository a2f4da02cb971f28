"""Grids: the noise levels that a sampling run passes, as knots [n + 1] of rising logSNR; knot i is where step i starts.

With u = i / n, or i / (n - 1) where both ends are levels of the grid, and sigma for sigma / alpha = e^(-logSNR / 2):

    time     logSNR of t = 1 - u                                                                  (1)
    logsnr   linear in u between the levels `sigmas`                                              (2)
    rho      sigma^(1 / rho) linear in u between them (Karras et al. 2022, eq. 5)                 (3)

For images of deviation `std` the levels after the first are those of the standardised process (eq. 4 of process), less
2 ln std: small differences are drawn where there is little noise left. The last knot is +inf, the clean image. With
`stop_logsnr` a grid keeps its spacing but ends in exactly that level, in at most n steps: matched in logSNR, so the
schedule of whoever asked does not matter.
"""

import math

import numpy as np

KINDS = ("time", "logsnr", "rho")
SIGMAS, RHO = (0.002, 80.0), 7.0  # Karras et al. 2022, table 1


def grid(schedule, steps, kind="time", stop_logsnr=None, std=1.0, sigmas=SIGMAS, rho=RHO):
    """Knots of `steps` steps, float64; `kind` is one of KINDS; `sigmas` (least, most) and `rho` are of eq. 2 and 3."""
    if steps < 1:
        raise ValueError(f"`steps` (={steps}) must be at least 1")
    if kind not in KINDS:
        raise ValueError(f"`grid` (={kind!r}) must be one of {', '.join(KINDS)}")
    if not 0 < sigmas[0] < sigmas[1]:
        raise ValueError(f"`sigmas` (={sigmas}) must be two rising positive levels")
    shift = -2 * math.log(std)

    if kind == "time":
        first, last = schedule.logsnr_min, schedule.logsnr_max
    else:
        last, first = (float(np.clip(-2 * math.log(s), schedule.logsnr_min, schedule.logsnr_max)) for s in sigmas)
    high, low = (math.exp(-level / (2 * rho)) for level in (first, last))  # of eq. 3

    def levels(u):
        if kind == "time":
            knots = schedule.logsnr(1 - u)
        elif kind == "logsnr":
            knots = first + u * (last - first)
        else:
            knots = -2 * rho * np.log(high + u * (low - high))
        knots = np.minimum(knots + shift, schedule.logsnr_max)
        knots[0] = first  # from pure noise, whatever the images
        return knots

    def place(level):
        level = np.clip(level - shift, schedule.logsnr_min if kind == "time" else first, last)
        if kind == "time":
            return 1 - float(schedule.time(level))
        return float((level - first) / (last - first) if kind == "logsnr" else
                     (math.exp(-level / (2 * rho)) - high) / (low - high))

    if stop_logsnr is None:
        knots = levels(np.arange(steps) / (steps if kind == "time" else max(steps - 1, 1)))
        if np.any(np.diff(knots) <= 0):
            raise ValueError(f"`steps` (={steps}) must be fewer: the schedule has not so many levels up to "
                             f"logSNR {schedule.logsnr_max:.1f}")
        return np.append(knots, np.inf)
    if not schedule.logsnr_min < stop_logsnr <= schedule.logsnr_max:
        raise ValueError(f"`stop_logsnr` (={stop_logsnr:.3f}) must lie in the range of the schedule that stops there, "
                         f"({schedule.logsnr_min:.3f}, {schedule.logsnr_max:.3f}]")
    stop = place(stop_logsnr)
    steps = max(1, math.ceil(steps * stop - 1e-9))
    return stopped(levels(stop * np.arange(steps) / steps), stop_logsnr)


def searched(levels, error, steps):
    """Knots of `steps` steps among K rising `levels` of logSNR, from the first to the clean image, that lose the least
    of the likelihood's bound, by dynamic programming (Watson et al. 2021, Learning to efficiently sample).

    error: [K] mean squared errors of x0 at the levels. An ancestral step from the level t to s costs the bound
    (SNR_s - SNR_t) error_t / 2 (Kingma et al. 2021, eq. 13), whatever comes before and after; the last step is to the
    cleanest of the levels.
    """
    levels, error = np.asarray(levels, np.float64), np.asarray(error, np.float64)
    count = len(levels)
    if not 1 <= steps < count:
        raise ValueError(f"`steps` (={steps}) must lie between 1 and the {count - 1} steps between the levels")
    snr = np.exp(levels)
    cost = np.where(np.arange(count)[:, None] < np.arange(count), (snr - snr[:, None]) * error[:, None] / 2, np.inf)
    best, before = np.where(np.arange(count) == 0, 0.0, np.inf), []  # of reaching a level in the steps so far
    for _ in range(steps):
        total = best[:, None] + cost
        before.append(total.argmin(0))
        best = total.min(0)
    path = [count - 1]
    for step in reversed(before):
        path.append(int(step[path[-1]]))
    return np.append(levels[path[:0:-1]], np.inf)


def stopped(knots, stop_logsnr):
    """Knots, searched ones say, up to a level, which is their last; at least one step is taken."""
    knots = np.asarray(knots, np.float64)
    return np.append(knots[:1], [*knots[1:][knots[1:] < stop_logsnr], stop_logsnr])
