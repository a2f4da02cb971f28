"""Adapters from denoiser to denoiser: class guidance and thresholding.

    x0 = (1 + w) x0(class) - w x0(no class)     (Ho and Salimans 2022, eq. 6, in x0 at a fixed x_t)      (1)
"""

import jax.numpy as jnp

from cdm.diffusion import process


def _with_x0(x0, x_t, logsnr):
    alpha, sigma = process.alpha_sigma(logsnr, x_t)
    return process.Prediction(x0, (x_t - alpha * x0) / sigma)


def class_guidance(denoise_pair, weight):
    """Eq. 1 by one doubled batch: `denoise_pair` takes x [2B, H, W, C] and logsnr [2B], conditional half first.

    `weight` is w, a scalar or [B]; 0 gives the conditional prediction.
    """

    def denoise(x, logsnr):
        pair = denoise_pair(jnp.concatenate([x, x]), jnp.concatenate([logsnr, logsnr])).x0
        conditional, unconditional = jnp.split(pair, 2)
        w = jnp.asarray(weight, jnp.float32)
        w = w.reshape(w.shape + (1,) * (x.ndim - w.ndim))
        return _with_x0(conditional + w * (conditional - unconditional), x, logsnr)

    return denoise


def static_threshold(denoise, limit=1.0):
    """Clip x0 to [-limit, limit] (Saharia et al. 2022, sec. 2.3) and keep eps consistent with it."""

    def clipped(x, logsnr):
        return _with_x0(jnp.clip(denoise(x, logsnr).x0, -limit, limit), x, logsnr)

    return clipped
