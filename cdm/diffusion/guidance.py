"""Adapters from denoiser to denoiser: guidance and thresholding.

    x0 = (1 + w) x0(class) - w x0(no class)     (Ho and Salimans 2022, eq. 6, in x0 at a fixed x_t)      (1)
    x0 = (1 + w) x0 - w x0(weaker network)      (Karras et al. 2024b, autoguidance, eq. 3, w its guidance less 1)  (2)

The variance fraction of a Prediction is that of the first of the two.
"""

import jax
import jax.numpy as jnp

from cdm.diffusion import process


def _with_x0(x0, x_t, logsnr, fraction):
    alpha, sigma = process.alpha_sigma(logsnr, x_t)
    return process.Prediction(x0, (x_t - alpha * x0) / sigma, fraction)


def _extrapolate(better, worse, weight, x_t, logsnr):
    w = jnp.asarray(weight, jnp.float32)
    w = w.reshape(w.shape + (1,) * (x_t.ndim - w.ndim))
    return _with_x0(better.x0 + w * (better.x0 - worse.x0), x_t, logsnr, better.fraction)


def class_guidance(denoise_pair, weight):
    """Eq. 1 by one doubled batch: `denoise_pair` takes x [2B, H, W, C] and logsnr [2B], conditional half first.

    `weight` is w, a scalar or [B]; 0 gives the conditional prediction.
    """

    def denoise(x, logsnr):
        both = denoise_pair(jnp.concatenate([x, x]), jnp.concatenate([logsnr, logsnr]))
        halves = [None if part is None else jnp.split(part, 2) for part in both]
        conditional, unconditional = (
            process.Prediction(*(part and part[i] for part in halves)) for i in range(2))
        return _extrapolate(conditional, unconditional, weight, x, logsnr)

    return denoise


def autoguidance(denoise, weaker, weight):
    """Eq. 2: away from what a weaker denoiser of the same class says; `weight` as in `class_guidance`."""
    return lambda x, logsnr: _extrapolate(denoise(x, logsnr), weaker(x, logsnr), weight, x, logsnr)


def limited(guided, plain, interval):
    """`guided` while logSNR lies in the interval (low, high), `plain` outside, where the other half of the work is
    skipped (Kynkaanniemi et al. 2024). A batch has one level: its first decides, as in every sampler."""
    low, high = interval

    def denoise(x, logsnr):
        inside = (low < logsnr[0]) & (logsnr[0] < high)
        return jax.lax.cond(inside, guided, plain, x, logsnr)

    return denoise


def static_threshold(denoise, limit=1.0):
    """Clip x0 to [-limit, limit] (Saharia et al. 2022, sec. 2.3) and keep eps consistent with it."""

    def clipped(x, logsnr):
        x0, _, fraction = denoise(x, logsnr)
        return _with_x0(jnp.clip(x0, -limit, limit), x, logsnr, fraction)

    return clipped


def dynamic_threshold(denoise, percentile=99.5):
    """Clip x0 of each image to [-s, s] and divide it by s, s the percentile of |x0| but at least 1 (ibid.): colours
    that strong guidance drives out of range come back without saturating."""

    def clipped(x, logsnr):
        x0, _, fraction = denoise(x, logsnr)
        s = jnp.percentile(jnp.abs(x0), percentile, axis=tuple(range(1, x0.ndim)), keepdims=True)
        s = jnp.maximum(s, 1.0)
        return _with_x0(jnp.clip(x0, -s, s) / s, x, logsnr, fraction)

    return clipped
