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

from cdm import nn
from cdm.nn import convolution
from cdm.stage import BINS
from cdm.training import ema as averages


class TrainState(NamedTuple):
    """`params`, the averages (`ema` of a half-life, `power` by sigma) and Adam's moments are float32; `images` (uint32)
    is the example the next batch begins with; `skipped` counts the steps that were not finite, `streak` those in a
    row; `totals` are sums of what a row of the log tells."""

    params: Any
    ema: Any
    power: Any
    optimizer: Any
    images: jax.Array
    skipped: jax.Array
    streak: jax.Array
    totals: Any


def optimizer(config):
    """Clipping and Adam, without the rate."""
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
    sums = {"bin_sums": jnp.zeros(BINS), "bin_counts": jnp.zeros(BINS)}
    if stage.bounded:
        sums["bits"] = jnp.zeros([])
    return TrainState(
        params, jax.tree.map(jnp.copy, params),
        {str(sigma): jax.tree.map(jnp.copy, params) for sigma in stage.config.train.ema_sigmas},
        optimizer(stage.config).init(params), *(jnp.zeros([], jnp.uint32) for _ in range(3)),
        {"loss": jnp.zeros([]), "batches": jnp.zeros([]), **sums})


def _as_kernels_lie(slope):
    """A kernel's gradient in memory in the order of its axes. A GPU's convolutions make it in another, in which the
    compiler would update the state, and copy it there and back (docs/speed.md)."""
    return jax.lax.optimization_barrier(slope.reshape(-1)).reshape(slope.shape) if slope.ndim == 4 else slope


def gradient(stage, params, batch, lesson=None):
    """(loss, sums, gradient) of a batch, computed in `train.accumulate` parts: equal but for rounding and dropout;
    `params` may be cast as `nn.cast` does, the gradient is float32; `lesson` as in `Stage.loss`."""
    parts = stage.config.train.accumulate

    def once(batch):
        objective = functools.partial(stage.loss, seed=stage.config.train.seed, lesson=lesson, **batch)
        (loss, sums), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        if "bits" in sums:  # a mean, as the loss is
            sums["bits"] /= parts
        return (loss / parts, sums, jax.tree.map(lambda g: g.astype(jnp.float32) / parts, gradient))

    if parts == 1:
        return once(batch)
    # Example n goes to part n mod parts, so that no example leaves its device.
    split = jax.tree.map(lambda leaf: jnp.swapaxes(leaf.reshape(-1, parts, *leaf.shape[1:]), 0, 1), batch)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                        jax.eval_shape(once, jax.tree.map(lambda leaf: leaf[0], split)))
    return jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, once(part)), None), zero, split)[0]


def step(stage, partition, teacher, state, batch, knowledge=None):
    """(state, metrics) after one batch: the dict that `Stage.batch` has, with stop [B] bool: whether the
    process that an example is of was told to stop; `teacher` a Teacher or None, `knowledge` its parameters.

    The partition says where things lie: parameters are gathered for the batch, its gradient is scattered again.
    """
    config, place = stage.config, jax.lax.with_sharding_constraint
    batch = dict(batch)
    stop = jnp.any(batch.pop("stop"))
    lesson = teacher.lesson(place(knowledge, partition.everywhere)) if teacher else None
    # Cast where they lie, and then gathered: half of the bytes in half precision.
    cast = place(nn.cast(state.params, stage.dtype), partition.shardings(state.params))
    loss, sums, slope = gradient(stage, place(cast, partition.everywhere), batch, lesson)
    slope = place(slope, partition.shardings(slope))
    if convolution.backend() == "gpu":
        slope = partition.each(_as_kernels_lie, slope)
    norm = optax.tree.norm(slope)
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    size = np.uint32(len(batch["label"]))
    images = state.images + size
    seen = images.astype(jnp.float32)

    updates, moments = optimizer(config).update(slope, state.optimizer, state.params)
    rate = learning_rate(config, state.images)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)

    def average(old, share):
        return jax.tree.map(lambda e, p: e + share * (p - e), old, params)

    half_life = jnp.minimum(config.train.ema_half_life, 0.05 * seen)
    ema = average(state.ema, -jnp.expm1(-np.log(2) * size / jnp.maximum(half_life, 1e-6)))
    power = {name: average(old, averages.share(float(name), size, seen)) for name, old in state.power.items()}

    fresh, old = (params, ema, power, moments), (state.params, state.ema, state.power, state.optimizer)
    fresh = jax.tree.map(lambda new, old: jnp.where(good, new, old), fresh, old)

    # Totals since the last multiple of log.every; they are in the state, so that a row does not tell of a resumption.
    every = np.uint32(config.log.every)
    begins = (state.images < size) | (state.images // every != (state.images - size) // every)
    now = {"loss": loss, "batches": 1.0, **sums}
    totals = jax.tree.map(lambda old, new: jnp.where(begins, 0, old) + jnp.where(good, new, 0), state.totals, now)
    streak = jnp.where(good, 0, state.streak + 1).astype(jnp.uint32)
    state = TrainState(*fresh, images, state.skipped + ~good, streak, totals)
    return state, {"gradient_norm": norm, "streak": streak, "stop": stop}
