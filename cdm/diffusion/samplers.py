"""Samplers: one loop, one contract.

A denoiser maps (x_t [B, H, W, C], logsnr [B]) to a Prediction. A sampler is a table: row i evaluates the denoiser at
`logsnr[i]` and takes a linear step

    x_s = a x_t + b x0 + c x0_previous + d exp(e v) z,    z ~ N(0, 1)                             (1)

with v in [0, 1] the variance fraction of the Prediction, if it has one. The coefficients are computed from the knots on
the host in float64, so that 4000 tiny steps lose no digits to float32, and are padded to CAPACITY, so that the number
of rows is a traced value. With t the knot a step leaves, s the one it reaches, r = SNR_t / SNR_s, h half the rise in
logSNR and h' that of the step before:

    ancestral   x_s ~ q(x_s | x_t, x0), variance sigma_s^2 (1 - r) or sigma_t^2 (1 - r)
                (Ho et al. 2020, sec. 3.2: beta~ "small", beta "large"), or "learned": v log beta + (1 - v) log beta~
                of this very pair of levels (Nichol and Dhariwal 2021, eq. 15)                    (2)
    DDIM        x_s = alpha_s x0 + sqrt(sigma_s^2 - d^2) eps + d z, d = eta sigma_s sqrt(1 - r)
                (Song et al. 2021, eq. 12, 16)                                                    (3)
    DPM++ 2M    x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) D,
                D = (1 + h / 2h') x0 - (h / 2h') x0_previous
                (Lu et al. 2022, DPM-Solver++, algorithm 2; the first and the clean step are of first order)   (4)
    its SDE     x_s = sigma_s / sigma_t e^-h x_t + alpha_s (1 - e^-2h) D + sigma_s sqrt(1 - e^-2h) z
                (ibid., sec. 4.2, of second order)                                                (5)
    Heun        two rows a step, of which the clean one has only the first. DDIM's step to s, x~; then, with x0 at s,
                x_s = x~ + alpha_s (1 - q) / 2q (x0 - x0_previous), q the ratio of the levels sigma / alpha
                (Karras et al. 2022, algorithm 1, whose state is x / alpha). With churn the state goes, before a step
                from the level s = sigma / alpha, up to (1 + g) s by fresh noise, g = min(churn / steps, sqrt 2 - 1)
                where s lies in `churn_range` (algorithm 2). From pure noise there is nowhere to go up to: the first
                step has none                                                                     (6)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CAPACITY = 4096


class Plan(NamedTuple):
    """A sampling run: `logsnr` [CAPACITY] and `coefficients` [CAPACITY, 5] of eq. 1 (a, b, c, d, e), float32, of which
    the first `steps` (int32) count: evaluations of the denoiser."""

    logsnr: np.ndarray
    coefficients: np.ndarray
    steps: np.ndarray


def _alpha_sigma(logsnr):
    return np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))


def _steps(knots):
    """(alpha_t, sigma_t, alpha_s, sigma_s, r) of each step between the knots, float64 [n] each."""
    knots = np.asarray(knots, np.float64)
    if knots.ndim != 1 or len(knots) < 2 or not np.all(np.diff(knots) > 0) or not np.all(np.isfinite(knots[:-1])):
        raise ValueError(f"`knots` (shape {knots.shape}) must be two or more rising logSNR values, finite but the last")
    with np.errstate(over="ignore"):
        return *_alpha_sigma(knots[:-1]), *_alpha_sigma(knots[1:]), np.exp(knots[:-1] - knots[1:])


def _rows(knots, a, b, c=0.0, d=0.0, e=0.0):
    """(logsnr [n], coefficients [n, 5]) of a sampler that evaluates at the knots."""
    levels = np.asarray(knots, np.float64)[:-1]
    return levels, np.stack(np.broadcast_arrays(a, b, c, d, e, levels)[:5], axis=1)


def ancestral(knots, variance="small"):
    """Rows of eq. 2; `variance` is "small", "large" or "learned". The step to the clean image adds no noise."""
    if variance not in ("small", "large", "learned"):
        raise ValueError(f"`variance` (={variance!r}) must be small, large or learned")
    alpha_t, sigma_t, alpha_s, sigma_s, r = _steps(knots)
    noisy = np.isfinite(knots[1:])
    std = np.where(noisy, np.sqrt(1 - r) * (sigma_t if variance == "large" else sigma_s), 0)
    ratio = np.log(sigma_t / np.where(noisy, sigma_s, sigma_t)) if variance == "learned" else 0.0
    return _rows(knots, r * alpha_s / alpha_t, (1 - r) * alpha_s, d=std, e=ratio)


def ddim(knots, eta=0.0):
    """Rows of eq. 3; eta in [0, 1], 0 is deterministic and 1 is ancestral "small"."""
    if not 0 <= eta <= 1:
        raise ValueError(f"`eta` (={eta}) must lie in [0, 1]")
    alpha_t, sigma_t, alpha_s, sigma_s, r = _steps(knots)
    std = eta * sigma_s * np.sqrt(1 - r)
    eps = np.sqrt(sigma_s**2 - std**2) / sigma_t
    return _rows(knots, eps, alpha_s - eps * alpha_t, d=std)


def _extrapolation(knots):
    """h / 2h' of eq. 4 and 5, 0 where a step is of first order."""
    half = np.diff(np.asarray(knots, np.float64)) / 2
    slope = np.zeros_like(half)
    slope[1:] = half[1:] / (2 * half[:-1])
    slope[np.isinf(half)] = 0
    return slope


def dpmpp_2m(knots):
    """Rows of eq. 4."""
    _, sigma_t, alpha_s, sigma_s, r = _steps(knots)
    slope, gain = _extrapolation(knots), alpha_s * (1 - np.sqrt(r))
    return _rows(knots, sigma_s / sigma_t, gain * (1 + slope), -gain * slope)


def dpmpp_2m_sde(knots):
    """Rows of eq. 5."""
    _, sigma_t, alpha_s, sigma_s, r = _steps(knots)
    slope, gain = _extrapolation(knots), alpha_s * (1 - r)
    return _rows(knots, sigma_s / sigma_t * np.sqrt(r), gain * (1 + slope), -gain * slope, sigma_s * np.sqrt(1 - r))


def heun(knots, churn=0.0, churn_range=(0.05, 50.0), churn_noise=1.003):
    """Rows of eq. 6: 2n - 1 of n steps to the clean image, 2n to another level.

    churn >= 0 is S_churn, 0 deterministic; churn_range (S_tmin, S_tmax) in sigma / alpha; churn_noise S_noise, the
    fresh noise's deviation.
    """
    if not churn >= 0:
        raise ValueError(f"`churn` (={churn}) must be at least 0")
    knots = np.asarray(knots, np.float64)
    _steps(knots)
    level = np.exp(-knots / 2)
    gain = np.where((churn_range[0] <= level) & (level <= churn_range[1]), min(churn / (len(knots) - 1), 2**0.5 - 1), 0)
    gain[[0, -1]] = 0
    up = knots - 2 * np.log1p(gain)  # where each step begins
    logsnr, rows = [], []
    for t, s, next_t in zip(up[:-1], knots[1:], up[1:]):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = _alpha_sigma(t), _alpha_sigma(s)
        a = sigma_s / sigma_t
        logsnr.append(t)
        rows.append((a, alpha_s - a * alpha_t, 0, 0, 0))
        if np.isfinite(s):
            q = np.exp((t - s) / 2)
            scale = _alpha_sigma(next_t)[0] / alpha_s
            b = scale * alpha_s * (1 - q) / (2 * q)
            d = churn_noise * scale * alpha_s * np.sqrt(np.exp(-next_t) - np.exp(-s))
            logsnr.append(s)
            rows.append((scale, b, -b, d, 0))
    return np.array(logsnr), np.array(rows, np.float64)


SAMPLERS = {"ancestral": ancestral, "ddim": ddim, "dpmpp_2m": dpmpp_2m, "dpmpp_2m_sde": dpmpp_2m_sde, "heun": heun}


def intervals(sampler, evaluations):
    """How many steps a sampler takes with so many evaluations of the denoiser: of Heun's, every step but the clean one
    costs two (an even number of evaluations leaves one over)."""
    return (evaluations + 1) // 2 if sampler == "heun" else evaluations


def plan(sampler, knots, **options):
    """The Plan of a sampler (one of SAMPLERS) over these knots; `options` are its own: `variance`, `eta`, `churn`, …"""
    if sampler not in SAMPLERS:
        raise ValueError(f"`sampler` (={sampler!r}) must be one of {', '.join(SAMPLERS)}")
    levels, coefficients = SAMPLERS[sampler](knots, **options)
    steps = len(levels)
    if steps > CAPACITY:
        raise ValueError(f"`steps` (={steps}) must be at most {CAPACITY}")
    table, logsnr = np.zeros((CAPACITY, 5), np.float32), np.zeros(CAPACITY, np.float32)
    table[:steps], logsnr[:steps] = coefficients, levels
    return Plan(logsnr, table, np.int32(steps))


def step(plan, denoise, noise, i, state):
    """One step of eq. 1 on the state (x, x0 of the step before). `noise(i)` gives z; it is not called where d = 0."""
    x, previous = state
    a, b, c, d, e = jnp.asarray(plan.coefficients)[i]
    logsnr = jnp.full(x.shape[:1], jnp.asarray(plan.logsnr)[i])
    x0, _, fraction = denoise(x, logsnr)
    mean = a * x + b * x0 + c * previous
    std = d if fraction is None else d * jnp.exp(e * fraction)
    return jax.lax.cond(d > 0, lambda: mean + std * noise(i), lambda: mean), x0


def sample(plan, denoise, noise, x, previews=0):
    """Run the whole plan from x [B, H, W, C] at the first knot to the last; traceable, `plan.steps` may be traced.

    With `previews`, a number K, returns (that, [K, B, H, W, C]): x0 as it was predicted when one, two, … K parts of K of
    the steps were taken, rounded up.
    """
    state = (x, jnp.zeros_like(x))
    if not previews:
        return jax.lax.fori_loop(0, plan.steps, lambda i, state: step(plan, denoise, noise, i, state), state)[0]
    ends = (jnp.arange(1, previews + 1) * plan.steps + previews - 1) // previews  # steps when each part is over

    def body(i, carry):
        state, shown = carry
        state = step(plan, denoise, noise, i, state)
        return state, jnp.where((ends == i + 1).reshape(-1, *[1] * x.ndim), state[1], shown)

    (x, _), shown = jax.lax.fori_loop(0, plan.steps, body, (state, jnp.zeros((previews, *x.shape), x.dtype)))
    return x, shown
