"""The forward process, its posterior, and the conversions between what a network may predict.

    x_t = alpha x_0 + sigma eps                                                                   (1)
    v   = alpha eps - sigma x_0          (Salimans and Ho 2022, sec. 4)                           (2)
    q(x_s | x_t, x_0) = N(r alpha_s / alpha_t x_t + (1 - r) alpha_s x_0,  sigma_s^2 (1 - r)),
        r = SNR_t / SNR_s, s cleaner than t   (Ho et al. 2020, eq. 6-7; Kingma et al. 2021, eq. 25)   (3)

Images of mean m and standard deviation d, m possibly known better for one image than for another, are standardised:

    y_t = (x_t - alpha m) / sqrt(alpha^2 d^2 + sigma^2)   is the process (1) of   y_0 = (x_0 - m) / d
    with the same eps, at   logSNR_y = logSNR + 2 ln d                                            (4)

so that v of y_0 is -F of Karras et al. 2022, eq. 7 and table 1, with sigma_data = d.

Images are [B, H, W, C]; logSNR values are scalars or [B], broadcast over the image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

TARGETS = ("eps", "x0", "v")


class Prediction(NamedTuple):
    """What a denoiser says of x_t: the clean image and the noise, [B, H, W, C] each and tied by eq. 1; and, where the
    variance is learned, `fraction` [B, H, W, C] in [0, 1]: how far it lies from beta~ to beta, in the logarithm."""

    x0: jax.Array
    eps: jax.Array
    fraction: jax.Array | None = None


def alpha_sigma(logsnr, like=None):
    """(alpha, sigma) of a logSNR, shaped to broadcast against `like` if given; exact at +inf and -inf."""
    logsnr = jnp.asarray(logsnr, jnp.float32)
    if like is not None:
        logsnr = logsnr.reshape(logsnr.shape + (1,) * (like.ndim - logsnr.ndim))
    return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))


def q_sample(x0, logsnr, eps):
    """x_t by eq. 1."""
    alpha, sigma = alpha_sigma(logsnr, x0)
    return alpha * x0 + sigma * eps


def posterior(x_t, x0, logsnr_t, logsnr_s):
    """Mean and variance of q(x_s | x_t, x_0), eq. 3."""
    alpha_t, _ = alpha_sigma(logsnr_t, x_t)
    alpha_s, sigma_s = alpha_sigma(logsnr_s, x_t)
    step = jnp.asarray(logsnr_t, jnp.float32) - jnp.asarray(logsnr_s, jnp.float32)
    step = step.reshape(step.shape + (1,) * (x_t.ndim - step.ndim))
    ratio, rest = jnp.exp(step), -jnp.expm1(step)
    return ratio * alpha_s / alpha_t * x_t + rest * alpha_s * x0, sigma_s**2 * rest


def standardise(x_t, logsnr, mean, std):
    """(y_t, logSNR_y) by eq. 4; mean broadcasts against the images and std is a scalar or [B]."""
    alpha, sigma = alpha_sigma(logsnr, x_t)
    d = jnp.asarray(std).reshape(jnp.shape(std) + (1,) * (x_t.ndim - jnp.ndim(std)))
    return (x_t - alpha * mean) / jnp.sqrt(alpha**2 * d**2 + sigma**2), logsnr + 2 * jnp.log(std)


def target(kind, x0, eps, logsnr):
    """What a network of this kind should answer, one of TARGETS."""
    if kind == "eps":
        return eps
    if kind == "x0":
        return x0
    if kind == "v":
        alpha, sigma = alpha_sigma(logsnr, x0)
        return alpha * eps - sigma * x0
    raise ValueError(f"`target` (={kind!r}) must be one of {', '.join(TARGETS)}")


def prediction(kind, output, x_t, logsnr):
    """The Prediction that a network's `output` of this kind makes of x_t; the inverse of `target`."""
    alpha, sigma = alpha_sigma(logsnr, x_t)
    if kind == "eps":
        return Prediction((x_t - sigma * output) / alpha, output)
    if kind == "x0":
        return Prediction(output, (x_t - alpha * output) / sigma)
    if kind == "v":
        return Prediction(alpha * x_t - sigma * output, sigma * x_t + alpha * output)
    raise ValueError(f"`target` (={kind!r}) must be one of {', '.join(TARGETS)}")


def simple_loss(kind, output, x0, eps, logsnr, norm=2):
    """The simple loss in the space of the target, per example [B]: mean over pixels of |output - target|^norm, which is
    1 or 2."""
    error = jnp.abs(output.astype(jnp.float32) - target(kind, x0, eps, logsnr))
    return jnp.mean(error**norm, axis=tuple(range(1, error.ndim)))


def x0_mse(kind, loss, logsnr):
    """That loss of norm 2 converted to the mean squared error of x0: eps-MSE = SNR x0-MSE, v-MSE = (SNR + 1) x0-MSE."""
    return loss * {"eps": jnp.exp(-logsnr), "x0": jnp.ones_like(logsnr), "v": jax.nn.sigmoid(-logsnr)}[kind]
