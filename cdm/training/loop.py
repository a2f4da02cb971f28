"""`train`: from a config and a run folder to a trained stage. Whatever the folder holds is resumed from."""

import functools
import pathlib
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cdm import cascade as runner
from cdm.data import manifest
from cdm.data.pipeline import batches
from cdm.data.sources import open_source, read_good
from cdm.images.files import write_grid
from cdm.images.resize import resize, to_float
from cdm.stage import Stage, load_stage
from cdm.training import state as states
from cdm.training.checkpoints import Checkpoints
from cdm.training.log import Log
from cdm.training.run import claim, facts


def train(config, run):
    """Train the stage of `config` in the folder `run`, from its newest checkpoint if it has one; returns the Stage
    with the averaged (EMA) parameters."""
    run = pathlib.Path(run)
    source = manifest.resume(open_source(config.data.source), run)
    devices = jax.devices()
    if config.train.batch_size % len(devices):
        raise ValueError(f"`train.batch_size` (={config.train.batch_size}) must be divisible by the {len(devices)} "
                         "devices")
    stage = Stage(config, source.classes)
    stage.plan(runner.settings_of(stage).steps)  # what the grids will need is checked now, not hours in
    with claim(run, config, source.classes), Checkpoints(run, config.checkpoint.keep) as checkpoints:
        return _train(stage, manifest.freeze(source, run), run, checkpoints, devices)


def _train(stage, source, run, checkpoints, devices):
    config, batch_size, total = stage.config, stage.config.train.batch_size, stage.config.train.images
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    everywhere, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    images = max(checkpoints.all(), default=0)
    params = None
    if config.train.init_from and not images:
        params = stage.inherit(load_stage(config.train.init_from), config.train.seed)
    state = jax.jit(functools.partial(states.create, stage), out_shardings=everywhere)(params)
    step = jax.jit(functools.partial(states.step, stage), donate_argnums=0, in_shardings=(everywhere, spread),
                   out_shardings=everywhere)
    if images:
        state = checkpoints.restore(images, state)
    log = Log(run, images, total)
    log.say(f"{stage.name}: {f'resumed from {images}' if images else 'new run'}, to {total} images in {run}")
    for line in source.notes():
        log.say(line)

    def due(every):
        """Whether the batch that ends at `images` passed a multiple of `every`, or was the last."""
        return images // every > (images - batch_size) // every or images + batch_size > total

    pending, since = [], time.monotonic()
    for batch in batches(source, config, images, total, bad=source.bad):
        state, metrics = step(state, jax.device_put(batch, spread))
        images += batch_size
        pending.append(metrics)
        # One step ahead of the device and no more, so that the bar tells the truth and memory stays flat.
        jax.block_until_ready(pending[-2:][0])
        log.advance(batch_size)
        if due(config.log.every):
            rows, now = jax.device_get(pending), time.monotonic()
            sums, counts = sum(r["bin_sums"] for r in rows), sum(r["bin_counts"] for r in rows)
            log.row(images=images, loss=float(np.mean([r["loss"] for r in rows])),
                    loss_by_bin=[float(s / c) if c else None for s, c in zip(sums, counts)],
                    gradient_norm=float(rows[-1]["gradient_norm"]), skipped=int(state.skipped),
                    learning_rate=float(states.learning_rate(config, images)),
                    images_per_second=len(rows) * batch_size / (now - since))
            source.write_bad()
            pending, since = [], now
        if due(config.checkpoint.every):
            checkpoints.save(images, state)
        if due(config.log.grid):
            stage.params, before = state.ema, time.monotonic()
            write_grid(run / "samples" / f"{images:09d}.png", preview(stage, source))
            since += time.monotonic() - before  # img/s is of training alone
    log.close()
    stage.params = jax.device_get(state.ema)
    stage.facts = facts(run, images)
    return stage


def preview(stage, source, columns=8):
    """A grid [rows, columns, H, W, 3] in [-1, 1]: a base stage's samples, two rows of classes in turn; or an SR stage's
    low-res input, its sample and the real image, in three rows."""
    labels = np.arange(2 * columns if not stage.lowres_size else columns) % max(len(stage.classes), 1)
    if not stage.lowres_size:
        return runner.sample_stage(stage, labels, seed=0).reshape(2, columns, stage.size, stage.size, 3)
    records = np.linspace(0, len(source) - 1, columns).astype(int)
    records, real = zip(*(read_good(source, int(i), stage.size) for i in records))
    records, real = np.array(records), to_float(np.stack(real))
    lowres = resize(real, stage.lowres_size)
    sample = runner.sample_stage(stage, source.labels[records], seed=0, lowres=lowres)
    return np.stack([resize(lowres, stage.size), sample, real])
