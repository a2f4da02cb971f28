"""The training state and its one step: gradient, Adam, EMA, all counted in images.

    EMA_k = EMA_{k-1} + (1 - b) (params_k - EMA_{k-1}),  b = 0.5^(batch / min(half_life, 0.05 images seen))   (1)

(the warm-up of Karras et al. 2022, app. F.2: early on the average is short, so that it forgets the start). A step
whose loss or gradient is not finite advances the images, and nothing else.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class TrainState(NamedTuple):
    """`params`, `ema` and Adam's moments are float32; `images` (uint32) is the example the next batch begins with;
    `skipped` counts steps that were not finite."""

    params: Any
    ema: Any
    optimizer: Any
    images: jax.Array
    skipped: jax.Array


def _optimizer(config):
    clip = optax.clip_by_global_norm(config.train.clip) if config.train.clip else optax.identity()
    return optax.chain(clip, optax.scale_by_adam())


def learning_rate(config, images):
    """The rate after `images`: linear warm-up, then constant or a cosine to 0 at train.images."""
    images = jnp.asarray(images, jnp.float32)
    rate = config.train.learning_rate * jnp.minimum(1.0, (images + 1) / max(config.train.warmup, 1))
    if config.train.decay == "cosine":
        rate *= 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(images / config.train.images, 1)))
    return rate


def create(stage, params=None):
    """The state before the first image, of fresh parameters or of those given."""
    params = stage.init(stage.config.train.seed) if params is None else params
    return TrainState(params, jax.tree.map(jnp.copy, params), _optimizer(stage.config).init(params),
                      jnp.zeros([], jnp.uint32), jnp.zeros([], jnp.uint32))


def step(stage, state, batch):
    """(state, metrics) after one batch: dict of image [B, H, W, 3] uint8, label [B], index [B]."""
    config = stage.config
    objective = functools.partial(stage.loss, seed=config.train.seed, **batch)
    (loss, bins), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
    norm = optax.tree.norm(gradient)
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    size = np.uint32(len(batch["label"]))
    images = state.images + size

    updates, optimizer = _optimizer(config).update(gradient, state.optimizer, state.params)
    rate = learning_rate(config, state.images)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    half_life = jnp.minimum(config.train.ema_half_life, 0.05 * images.astype(jnp.float32))
    decay = 0.5 ** (size.astype(jnp.float32) / jnp.maximum(half_life, 1e-6))
    ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)

    fresh, old = (params, ema, optimizer), (state.params, state.ema, state.optimizer)
    params, ema, optimizer = jax.tree.map(lambda new, old: jnp.where(good, new, old), fresh, old)
    state = TrainState(params, ema, optimizer, images, state.skipped + ~good)
    return state, {"loss": loss, "gradient_norm": norm, "bin_sums": bins[0], "bin_counts": bins[1]}
