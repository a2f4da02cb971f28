"""`train`: from a config and a run folder to a trained stage. Whatever the folder holds is resumed from.

Every process of a job runs all of this, on its slice of each batch; the first one writes what is written once.
"""

import contextlib
import functools
import pathlib
import time

import jax
import numpy as np

from cdm import cascade as runner
from cdm.data import manifest
from cdm.data.pairs import open_data
from cdm.data.pipeline import batches
from cdm.data.reading import read_evenly
from cdm.images.files import write_grid
from cdm.images.resize import resize, to_float
from cdm.settings import plan, settings_of
from cdm.stage import Stage, load_stage
from cdm.training import mesh, speed
from cdm.training import state as states
from cdm.training.checkpoints import Checkpoints
from cdm.training.distillation import Teacher
from cdm.training.log import Log
from cdm.training.run import agree, claim, facts
from cdm.training.stop import Stopped, on_sigterm


def train(config, run):
    """Train the stage of `config` in the folder `run`, from its newest checkpoint if it has one; returns the Stage
    with the averaged (EMA) parameters. Raises Stopped after a SIGTERM, everything saved."""
    run = pathlib.Path(run)
    opened = open_data(config.data.source, config.data.get("lowres"))
    source = manifest.resume(opened, run)
    partition = mesh.Partition(config)
    stage = Stage(config, source.classes)
    plan(stage, settings_of(stage))  # what the grids will need is checked now, not hours in
    teacher = Teacher(stage) if config.train.teacher else None
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(on_sigterm())  # first, as the last save is waited for on leaving

        def claimed():
            stack.enter_context(claim(run))
            manifest.freeze(opened, run)  # first, as it may find no picture, and so no run
            agree(run, config, stage.classes, teacher)

        mesh.led(claimed)
        source = manifest.resume(opened, run, jax.process_index())
        if source is opened:
            raise ValueError(f"`workdir` (={run}) must be a folder that all processes of a job share")
        kept = stack.enter_context(Checkpoints(run, write=True, keep=config.checkpoint.keep,
                                               keep_every=config.checkpoint.keep_every))
        snapshots = stack.enter_context(Checkpoints(run, "snapshots", write=True))
        return _train(stage, teacher, source, run, partition, kept, snapshots, asked)


def _train(stage, teacher, source, run, partition, kept, snapshots, asked):
    config, batch_size, total = stage.config, stage.config.train.batch_size, stage.config.train.images
    state, images = _begin(stage, teacher, partition, kept)
    knowledge = [jax.device_put(teacher.params, partition.shardings(teacher.params))] if teacher else []
    snapshots.forget_after(images)
    log = Log(run if mesh.leads() else None, images, total, config.log.writers)
    with contextlib.closing(log):
        log.say(f"{stage.name}: {f'resumed from {images}' if images else 'new run'}, to {total} images in {run}")
        for line in [*source.notes(), *(warnings(config, source) if not images else ())]:
            log.say(f"{stage.name}: {line}")
        step, seconds = _compile(stage, teacher, partition, state, *knowledge)
        clock = speed.Clock(stage, seconds)

        def due(every):
            """Whether the batch that ends at `images` passed a multiple of `every`, or was the last."""
            return images // every > (images - batch_size) // every or images + batch_size > total

        if images and due(config.checkpoint.snapshots) and state.power:  # a kill may have taken it
            snapshots.save(images, state.power)
        def finite(metrics):
            """Whether to stop, of the batch before, which was finite or not the last straw."""
            if int(metrics["streak"]) >= config.train.max_skipped:
                raise FloatingPointError(
                    f"`train.max_skipped` (={config.train.max_skipped}) batches in a row were not finite, the last of "
                    f"them examples {images - batch_size} to {images - 1} of seed {config.train.seed}; "
                    f"the last checkpoint is at {max(kept.all(), default=0)} images")
            return bool(metrics["stop"])

        before, stream = None, batches(source, config, images, total, jax.process_index(), jax.process_count(),
                                       source.bad)
        while images + batch_size <= total:
            waits = time.monotonic()
            batch = next(stream)
            waited = time.monotonic() - waits
            batch["stop"] = np.full(len(batch["label"]), asked())
            state, metrics = step(state, partition.batch(batch), *knowledge)
            # One step ahead of the device and no more, so that the bar tells the truth and memory stays flat.
            stop = finite(before) if before else False
            before, images = metrics, images + batch_size
            stop = stop and images + batch_size <= total
            clock.step(batch_size, waited)
            log.advance(batch_size)
            if due(config.log.every):
                log.row(**_row(config, state, metrics, images), speed=clock.row())
            if due(config.checkpoint.every) or stop:
                if told := source.write_bad():  # what the state rests on is known before it is saved
                    log.say(f"{stage.name}: {told}")
                snapshots.wait()  # a checkpoint goes on from all snapshots before it
                kept.save(images, state._asdict())
            if due(config.checkpoint.snapshots) and state.power:
                snapshots.save(images, state.power)
            if due(config.log.grid):
                began = time.monotonic()
                stage.params = partition.whole(state.ema)
                grid = preview(stage, source)
                if mesh.leads():
                    write_grid(run / "samples" / f"{images:09d}.png", grid)
                clock.out(time.monotonic() - began)
            if stop:
                kept.wait()
                snapshots.wait()
                raise Stopped(f"{stage.name} was asked to stop and is saved at {images} of {total} images; "
                              "the same command goes on")
        if before:
            finite(before)
    stage.params = partition.whole(state.ema)
    stage.facts = facts(run, images)
    return stage


def _begin(stage, teacher, partition, kept):
    """(state on the devices, images): the newest checkpoint's, the parent's or a fresh one, born where it lies."""
    create = functools.partial(states.create, stage)
    shapes = jax.eval_shape(create)
    shardings = partition.shardings(shapes)
    images = mesh.agree(max(kept.all(), default=0))
    if images:
        like = jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                            shapes, shardings)
        return states.TrainState(**kept.restore(images, like._asdict())), images
    parent = stage.config.train.init_from
    params = [stage.inherit(load_stage(parent), stage.config.train.seed)] if parent else []
    params = [teacher.params] if teacher else params
    return jax.jit(create, out_shardings=shardings)(*params), 0


def _compile(stage, teacher, partition, state, *knowledge):
    """(step(state, batch, *knowledge), seconds it took to compile)."""
    began, count = time.monotonic(), stage.config.train.batch_size
    shapes, *known = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), [state, *knowledge])
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=partition.spread),
                         {**stage.batch(count), "stop": jax.ShapeDtypeStruct((count,), bool)})
    step = jax.jit(functools.partial(states.step, stage, partition, teacher), donate_argnums=0,
                   out_shardings=(shardings, partition.everywhere))
    return step.lower(shapes, batch, *known).compile(), time.monotonic() - began


def _row(config, state, metrics, images):
    """What a row of the log says of the training itself: the same numbers however often the run was stopped."""
    totals = jax.device_get(state.totals)
    bits = {"bits_per_dim": float(totals["bits"] / totals["batches"])} if "bits" in totals and totals["batches"] else {}
    return {
        "images": images, "loss": float(totals["loss"] / totals["batches"]) if totals["batches"] else float("nan"),
        "loss_by_bin": [float(s / c) if c else None for s, c in zip(totals["bin_sums"], totals["bin_counts"])],
        **bits, "gradient_norm": float(metrics["gradient_norm"]), "skipped": int(state.skipped),
        "learning_rate": float(states.learning_rate(config, images - config.train.batch_size))}


def warnings(config, source):
    """What makes a run unlikely to end well, a line each."""
    if len(source) < 10_000:
        yield f"warning: {len(source)} images are few; under 10000 the model begins to remember them"
    if source.size and config.size > source.size:
        yield f"warning: its pictures are {source.size} px and enlarged to `size` (={config.size})"
    if config.data.get("lowres") and (side := _lowres_side(source)) not in (None, config.lowres_size):
        yield (f"warning: low-res pictures are resized to `lowres_size` (={config.lowres_size}), the first from {side} "
               "px" + ("; that takes away noise, which the stage will not meet" if side > config.lowres_size else ""))
    if config.train.batch_size < 32:
        yield f"warning: `train.batch_size` (={config.train.batch_size}) is small; under 32 the gradient is noisy"


def _lowres_side(source):
    """Pixels of the short side of the first low-res picture of pairs that can be read, None if none can."""
    for i in range(len(source)):
        with contextlib.suppress(Exception):  # it is replaced when it is met
            return min(source.partner(i).shape[:2])


def preview(stage, source, columns=8):
    """A grid [rows, columns, H, W, 3] in [-1, 1]: a base stage's samples, two rows of classes in turn; or an SR stage's
    low-res input, made as in training or given, its sample and the real image, in three rows."""
    labels = np.arange(2 * columns if not stage.lowres_size else columns) % max(len(stage.classes), 1)
    if not stage.lowres_size:
        return runner.sample_stage(stage, labels, seed=0).reshape(2, columns, stage.size, stage.size, 3)
    records, real, *partners = read_evenly(source, columns, stage.size, stage.partner_size)
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), len(records))
    lowres = stage.pair(real, None, keys, *partners)[1]  # not jitted: that would compile anew for every grid of a run
    sample = runner.sample_stage(stage, source.labels[records], seed=0, lowres=lowres)
    return np.stack([resize(lowres, stage.size), sample, to_float(real)])
