"""Samplers: one loop, one contract.

A denoiser maps (x_t [B, H, W, C], logsnr [B]) to a Prediction. A sampler is a table: step i evaluates the denoiser at
`logsnr[i]` and takes a linear step

    x_s = a x_t + b x0 + c x0_previous + d z,    z ~ N(0, 1)                                      (1)

whose coefficients are computed from the knots on the host in float64, so that 4000 tiny steps lose no digits to
float32, and are padded to CAPACITY, so that the number of steps is a traced value. With t the knot it leaves, s the
one it reaches, r = SNR_t / SNR_s, and h half the rise in logSNR:

    ancestral   x_s ~ q(x_s | x_t, x0), variance sigma_s^2 (1 - r) or sigma_t^2 (1 - r)
                (Ho et al. 2020, sec. 3.2: beta~ "small", beta "large")                           (2)
    DDIM        x_s = alpha_s x0 + sqrt(sigma_s^2 - d^2) eps + d z, d = eta sigma_s sqrt(1 - r)
                (Song et al. 2021, eq. 12, 16)                                                    (3)
    DPM++ 2M    x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) D,
                D = (1 + h / 2h') x0 - (h / 2h') x0_previous, h' the step before
                (Lu et al. 2022, DPM-Solver++, algorithm 2; the first and the clean step are of first order)   (4)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CAPACITY = 4096


class Plan(NamedTuple):
    """A sampling run: `logsnr` [CAPACITY] and `coefficients` [CAPACITY, 4] of eq. 1 (a, b, c, d), float32, of which
    the first `steps` (int32) count."""

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


def ancestral(knots, variance="small"):
    """Coefficients [n, 4] of eq. 2; `variance` is "small" or "large". The step to the clean image adds no noise."""
    if variance not in ("small", "large"):
        raise ValueError(f"`variance` (={variance!r}) must be small or large")
    alpha_t, sigma_t, alpha_s, sigma_s, r = _steps(knots)
    std = np.sqrt(1 - r) * (sigma_s if variance == "small" else sigma_t)
    std = np.where(np.isinf(knots[1:]), 0, std)
    return np.stack([r * alpha_s / alpha_t, (1 - r) * alpha_s, np.zeros_like(r), std], axis=1)


def ddim(knots, eta=0.0):
    """Coefficients [n, 4] of eq. 3; eta in [0, 1], 0 is deterministic and 1 is ancestral "small"."""
    if not 0 <= eta <= 1:
        raise ValueError(f"`eta` (={eta}) must lie in [0, 1]")
    alpha_t, sigma_t, alpha_s, sigma_s, r = _steps(knots)
    std = eta * sigma_s * np.sqrt(1 - r)
    eps = np.sqrt(sigma_s**2 - std**2) / sigma_t
    return np.stack([eps, alpha_s - eps * alpha_t, np.zeros_like(r), std], axis=1)


def dpmpp_2m(knots):
    """Coefficients [n, 4] of eq. 4."""
    _, sigma_t, alpha_s, sigma_s, r = _steps(knots)
    half = np.diff(np.asarray(knots, np.float64)) / 2
    slope = np.zeros_like(half)  # h / 2h'
    slope[1:] = half[1:] / (2 * half[:-1])
    slope[np.isinf(half)] = 0
    gain = alpha_s * (1 - np.sqrt(r))
    return np.stack([sigma_s / sigma_t, gain * (1 + slope), -gain * slope, np.zeros_like(r)], axis=1)


SAMPLERS = {"ancestral": ancestral, "ddim": ddim, "dpmpp_2m": dpmpp_2m}


def plan(sampler, knots, **options):
    """The Plan of a sampler (one of SAMPLERS) over these knots; `options` are its own: `variance`, or `eta`."""
    if sampler not in SAMPLERS:
        raise ValueError(f"`sampler` (={sampler!r}) must be one of {', '.join(SAMPLERS)}")
    coefficients = SAMPLERS[sampler](knots, **options)
    steps = len(coefficients)
    if steps > CAPACITY:
        raise ValueError(f"`steps` (={steps}) must be at most {CAPACITY}")
    table, logsnr = np.zeros((CAPACITY, 4), np.float32), np.zeros(CAPACITY, np.float32)
    table[:steps], logsnr[:steps] = coefficients, knots[:-1]
    return Plan(logsnr, table, np.int32(steps))


def step(plan, denoise, noise, i, state):
    """One step of eq. 1 on the state (x, x0 of the step before). `noise(i)` gives z; it is not called where d = 0."""
    x, previous = state
    a, b, c, d = jnp.asarray(plan.coefficients)[i]
    logsnr = jnp.full(x.shape[:1], jnp.asarray(plan.logsnr)[i])
    x0 = denoise(x, logsnr).x0
    mean = a * x + b * x0 + c * previous
    return jax.lax.cond(d > 0, lambda: mean + d * noise(i), lambda: mean), x0


def sample(plan, denoise, noise, x):
    """Run the whole plan from x [B, H, W, C] at the first knot to the last; traceable, `plan.steps` may be traced."""
    state = (x, jnp.zeros_like(x))
    return jax.lax.fori_loop(0, plan.steps, lambda i, state: step(plan, denoise, noise, i, state), state)[0]
