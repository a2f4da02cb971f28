"""A searched grid for a stage: how wrong it is about real pictures at each noise level decides where its steps go."""

import jax
import jax.numpy as jnp
import numpy as np

from cdm import nn
from cdm.data.reading import read_good
from cdm.diffusion import grids, process
from cdm.images import augment

LEVELS, PICTURES, BATCH = 64, 64, 16


def errors(stage, source, aug_level=None, count=LEVELS):
    """(levels [count] of logSNR, mean squared errors of x0 [count]) of a Stage, at PICTURES of a source, evenly over
    it; `aug_level` is of the input of a super-resolution stage. The same noises are used at every level."""
    levels = grids.grid(stage.schedule, count, "logsnr", std=stage.config.diffusion.data_std)[:-1]
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), PICTURES)

    @jax.jit
    def error(params, image, label, keys, levels):
        x0, lowres = stage.pair(image)
        params = nn.cast(params, stage.dtype)
        noise_keys, eps_keys = jax.vmap(lambda key: jax.random.split(key))(keys).swapaxes(0, 1)
        aug_logsnr = None
        if stage.lowres_size:
            level = jnp.full(len(label), aug_level)
            lowres, aug_logsnr = augment.noise(lowres, level, stage.augment_schedule, noise_keys)
        eps = augment.normal(eps_keys, x0.shape[1:])

        def at(logsnr):
            logsnr = jnp.full(len(label), logsnr)
            found = stage.predict(params, process.q_sample(x0, logsnr, eps), logsnr, label, lowres, aug_logsnr)
            return jnp.mean((found.x0 - x0) ** 2)

        return jax.lax.map(at, levels)

    total, records = 0.0, np.linspace(0, len(source) - 1, PICTURES).astype(int)
    for part in np.split(np.arange(PICTURES), PICTURES // BATCH):
        places, images = zip(*(read_good(source, int(records[i]), stage.size) for i in part))
        labels = np.asarray(source.labels[np.array(places)], np.int32) % max(len(stage.classes), 1)
        total += np.asarray(error(stage.params, np.stack(images), labels, keys[part], levels.astype(np.float32)))
    return levels, total * BATCH / PICTURES


def levels(levels, errors, steps):
    """The searched grid of so many steps by what `errors` found, as a setting: rising levels of logSNR."""
    return tuple(round(float(level), 3) for level in grids.searched(levels, errors, steps)[:-1])
