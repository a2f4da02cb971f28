"""Conditioning augmentation (Ho et al. 2021, sec. 4) of the low-res image z_0 that a super-resolution stage is given.

    noise   z_s = alpha_s z_0 + sigma_s eps, s drawn per example and given to the network         (1)
    blur    3x3 Gaussian, its coin and sigma drawn per example, given to nobody, in training only (2)

and the two hand-overs of sampling, with one and the same network:

    truncated       the stage before stops at s: its state is z_s already, float and unclipped
    non-truncated   the stage before finishes; its image is clipped and then noised by eq. 1

Low-res images are [B, h, w, C] in [-1, 1]; keys are [B], one per example. `aug_level` in [0, 1] is the time of the
augmentation's schedule; level 0 adds nothing at all and is embedded as logsnr_max.
"""

import math

import jax
import jax.numpy as jnp

from cdm.diffusion import process


def normal(keys, shape):
    """Standard normal [B, *shape], row i from keys[i] alone, so that a batch's make-up changes no image.

    Drawn flat, which has the same bits and compiles several times faster on the CPU than a draw of three axes.
    """
    return jax.vmap(lambda key: jax.random.normal(key, (math.prod(shape),)).reshape(shape))(keys)


def noise(lowres, level, schedule, keys):
    """(z_s, aug_logsnr [B]) by eq. 1 for levels [B]."""
    aug_logsnr = schedule.logsnr(level)
    noised = process.q_sample(lowres, aug_logsnr, normal(keys, lowres.shape[1:]))
    clean = (level <= 0).reshape(-1, 1, 1, 1)
    return jnp.where(clean, lowres, noised), aug_logsnr


def blur(lowres, keys, probability, sigma_range):
    """Eq. 2: with this probability a 3x3 Gaussian of sigma ~ U(*sigma_range) pixels, edges replicated."""

    def one(image, key):
        coin, draw = jax.random.split(key)
        low, high = sigma_range
        sigma = jax.random.uniform(draw, minval=low, maxval=high)
        side = jnp.exp(-0.5 / sigma**2)
        kernel = jnp.stack([side, jnp.ones_like(side), side]) / (1 + 2 * side)
        padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
        h, w = image.shape[:2]
        rows = sum(kernel[i] * padded[i : i + h] for i in range(3))
        blurred = sum(kernel[i] * rows[:, i : i + w] for i in range(3))
        return jnp.where(jax.random.uniform(coin) < probability, blurred, image)

    return jax.vmap(one)(lowres, keys)


def hand_over(sample, level, schedule, keys):
    """The non-truncated hand-over: a finished sample, clipped and noised to levels [B]. Returns as `noise`."""
    return noise(jnp.clip(sample, -1, 1), level, schedule, keys)
