"""`train`: from a config and a run folder to a trained stage. A run folder is what the next call resumes from.

    RUN/config.json     the config and the classes        RUN/metrics.jsonl   rows of loss, rate, speed, loss by bin
    RUN/checkpoints/    the training states               RUN/samples/        a grid every log.grid images
"""

import functools
import json
import pathlib
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cdm import cascade as runner
from cdm import config as configs
from cdm.data.pipeline import batches
from cdm.data.sources import open_source, read_square
from cdm.images.files import write_grid, write_json
from cdm.images.resize import resize, to_float
from cdm.stage import BINS, Stage, load_stage
from cdm.training import state as states
from cdm.training.checkpoints import Checkpoints
from cdm.training.log import Log


def open_run(run):
    """The Stage of a run folder, without parameters."""
    path = pathlib.Path(run) / "config.json"
    if not path.is_file():
        raise ValueError(f"`run` (={run}) must be a run folder of cdm train: config.json is missing")
    try:
        about = json.loads(path.read_text())
        return Stage(configs.from_dict(about["config"]), about["classes"])
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as e:
        raise ValueError(f"`run` (={run}) is damaged: {type(e).__name__}: {e}") from e


def differences(old, new, prefix=""):
    """Names of the values that differ between two nested dicts."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if json.dumps(old) == json.dumps(new) else [prefix.rstrip(".")]
    names = sorted(old.keys() | new.keys())
    return [d for name in names for d in differences(old.get(name), new.get(name), f"{prefix}{name}.")]


# What may change when a run is resumed: how long, how often and where, but nothing the numbers so far rest on.
CHANGEABLE = ("train.images", "checkpoint.", "log.", "sample.", "data.cache", "data.source")


def _claim(run, config, classes):
    """Write config.json into a new run, or check that an old one is of the same config."""
    path = run / "config.json"
    about = {"config": config.to_dict(), "classes": list(classes)}
    if path.exists():
        old = open_run(run)
        changed = [d for d in differences(json.loads(path.read_text())["config"], about["config"])
                   if not d.startswith(CHANGEABLE)]
        if changed:
            raise ValueError(f"`workdir` (={run}) holds a run of another config; these differ: {', '.join(changed)}")
        if old.classes != tuple(classes):
            raise ValueError(f"`workdir` (={run}) holds a run of other classes: {', '.join(old.classes)}")
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_json(path, about)
    except OSError as e:
        raise ValueError(f"`workdir` (={run}) must be a folder that can be written: {e.strerror}") from e


def train(config, run):
    """Train the stage of `config` in the folder `run`, from its newest checkpoint if it has one; returns the Stage
    with the averaged (EMA) parameters."""
    run = pathlib.Path(run)
    source = open_source(config.data.source)
    stage = Stage(config, source.classes)
    batch_size, total = config.train.batch_size, config.train.images
    devices = jax.devices()
    if batch_size % len(devices):
        raise ValueError(f"`train.batch_size` (={batch_size}) must be divisible by the {len(devices)} devices")
    _claim(run, config, source.classes)
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    everywhere, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))

    state = jax.jit(functools.partial(states.create, stage), out_shardings=everywhere)()
    checkpoints = Checkpoints(run, config.checkpoint.keep)
    images = checkpoints.latest() or 0
    if images:
        state = checkpoints.restore(images, state)
    log = Log(run, images, total)
    log.say(f"{stage.name}: {'resumed from ' + str(images) if images else 'new run'}, to {total} images in {run}")
    step = jax.jit(functools.partial(states.step, stage), donate_argnums=0, in_shardings=(everywhere, spread),
                   out_shardings=everywhere)
    sums, counts, losses = np.zeros(BINS), np.zeros(BINS), []
    seconds = time.monotonic()
    for batch in batches(source, config, images, total):
        state, metrics = step(state, jax.device_put(batch, spread))
        before, images = images, images + batch_size
        log.advance(batch_size)
        losses.append(metrics)
        # One step ahead of the device and no more, so that the bar tells the truth and memory stays flat.
        jax.block_until_ready(losses[-2:][0])

        def due(every, before=before, images=images):
            return before // every < images // every or images + batch_size > total

        if due(config.log.every):
            rows = jax.device_get(losses)
            sums, counts = sum(r["bin_sums"] for r in rows), sum(r["bin_counts"] for r in rows)
            now = time.monotonic()
            log.row(images=images, loss=float(np.mean([r["loss"] for r in rows])),
                    gradient_norm=float(rows[-1]["gradient_norm"]), skipped=int(state.skipped),
                    learning_rate=float(states.learning_rate(config, images)),
                    images_per_second=len(rows) * batch_size / (now - seconds),
                    loss_by_bin=[float(s / c) if c else None for s, c in zip(sums, counts)])
            losses, seconds = [], now
        if due(config.checkpoint.every):
            checkpoints.save(images, state)
        if due(config.log.grid):
            stage.params = state.ema
            write_grid(run / "samples" / f"{images:09d}.png", preview(stage, source))
            seconds = time.monotonic()
    checkpoints.close()
    log.close()
    stage.params = jax.device_get(state.ema)
    stage.facts = {"images": images}
    return stage


def preview(stage, source, columns=8):
    """A grid [rows, columns, H, W, 3] in [-1, 1]: a base stage's samples, two rows of classes in turn; or an SR stage's
    low-res input, its sample and the real image, in three rows."""
    labels = np.arange(2 * columns if not stage.lowres_size else columns) % max(len(stage.classes), 1)
    if not stage.lowres_size:
        return runner.sample_stage(stage, labels, seed=0).reshape(2, columns, stage.size, stage.size, 3)
    records = np.linspace(0, len(source) - 1, columns).astype(int)
    real = np.stack([to_float(read_square(source, int(i), stage.size)) for i in records])
    lowres = resize(real, stage.lowres_size)
    sample = runner.sample_stage(stage, source.labels[records], seed=0, lowres=lowres)
    return np.stack([resize(lowres, stage.size), sample, real])


def trained(run, at=None):
    """The Stage of a run folder with the EMA of its newest checkpoint, or of the one at `at` images; a stage folder is
    taken as it is."""
    if (pathlib.Path(run) / "stage.json").exists():
        return load_stage(run)
    stage = open_run(run)
    checkpoints = Checkpoints(run, stage.config.checkpoint.keep)
    if at is not None and at not in checkpoints.all():
        raise ValueError(f"`at` (={at}) must be a checkpoint of {run}: {', '.join(map(str, checkpoints.all()))}")
    images = checkpoints.latest() if at is None else at
    if images is None:
        raise ValueError(f"`run` (={run}) has no checkpoint yet")
    state = checkpoints.restore(images, jax.eval_shape(functools.partial(states.create, stage)))
    stage.params = jax.device_get(state.ema)
    stage.facts = {"images": images, "weights": "ema", "ema_half_life": stage.config.train.ema_half_life}
    return stage


def export(runs, out, at=None, dtype=np.float32):
    """Write the stage folder `out` from one run, or a cascade folder from several, lowest stage first; parameters are
    stored as `dtype`."""
    stages = [trained(run, at) for run in runs]
    whole = stages[0] if len(stages) == 1 else runner.Cascade(stages)
    whole.save(out, dtype)
    return whole
