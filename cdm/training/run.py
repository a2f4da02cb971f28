"""The run folder of a stage: claimed by one training at a time, and exported.

    RUN/config.json     the config and the classes        RUN/metrics.jsonl   rows of loss, rate, speed, loss by bin
    RUN/checkpoints/    the training states               RUN/samples/        a grid every log.grid images
    RUN/snapshots/      power-function averages           RUN/manifest.json.gz, bad_files*.json: see cdm.data.manifest
"""

import contextlib
import functools
import json
import pathlib

import jax
import numpy as np

from cdm import config as configs
from cdm.cascade import Cascade
from cdm.images.files import hold, reading, write_json
from cdm.stage import Stage, load_stage
from cdm.training import ema as averages
from cdm.training import state as states
from cdm.training.checkpoints import Checkpoints


def open_run(run):
    """The Stage of a run folder, without parameters."""
    with reading(run, "config.json", "run") as about:
        return Stage(configs.from_dict(about["config"]), about["classes"], facts=about.get("facts"))


def differences(old, new, prefix=""):
    """Names of the values that differ between two nested dicts."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if json.dumps(old) == json.dumps(new) else [prefix.rstrip(".")]
    names = sorted(old.keys() | new.keys())
    return [d for name in names for d in differences(old.get(name), new.get(name), f"{prefix}{name}.")]


# What may change when a run is resumed: how long (with it the end of a cosine decay), how often, on what devices, and
# where the same data, or the same teacher, lies; nothing that the numbers so far rest on, but for rounding.
CHANGEABLE = ("train.images", "train.max_skipped", "train.accumulate", "train.deterministic", "model.remat",
              "checkpoint.", "log.", "mesh.", "sample.", "data.cache", "data.source", "data.lowres",
              "train.teacher")


@contextlib.contextmanager
def claim(run):
    """Hold the run folder, new or old, which no other process trains."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ValueError(f"`workdir` (={run}) must be a folder that can be written: {e.strerror}") from e
    with hold(run, "workdir"):
        yield


def agree(run, config, classes, teacher=None):
    """Write config.json into a new run, or check that an old one is of the same config and Teacher."""
    path = run / "config.json"
    about = {"config": config.to_dict(), "classes": list(classes), "facts": {}}
    if path.exists():
        old = open_run(run)
        about["facts"] = old.facts
        changed = [d for d in differences(old.config.to_dict(), about["config"]) if not d.startswith(CHANGEABLE)]
        if changed:
            raise ValueError(f"`workdir` (={run}) holds a run of another config; these differ: {', '.join(changed)}")
        if old.classes != tuple(classes):
            raise ValueError(f"`workdir` (={run}) holds a run of other classes: {', '.join(old.classes)}")
        if teacher and differences(old.facts["teacher"], teacher.facts):
            raise ValueError(f"`workdir` (={run}) holds a run of another teacher than is in {config.train.teacher}, or "
                             "of other steps")
    elif config.train.init_from:
        parent = load_stage(config.train.init_from)
        about["facts"] = {"init_from": {"sha256": parent.sha256, **parent.facts}}
    elif teacher:
        about["facts"] = {"teacher": teacher.facts}
    try:
        write_json(path, about)
    except OSError as e:
        raise ValueError(f"`workdir` (={run}) must be a folder that can be written: {e.strerror}") from e


def facts(run, images):
    """What a stage folder tells of its training; `init_from` and `teacher`, of its parent's."""
    about = open_run(run)
    return {"images": images, "weights": "ema", "ema_half_life": about.config.train.ema_half_life, **about.facts}


def trained(run, at=None, ema_sigma=None):
    """The Stage of a run folder with the EMA of its newest checkpoint, or of the one at `at` images; or, with
    `ema_sigma`, with the power-function average of that deviation at the newest snapshot, or the one at `at` images. A
    stage folder is taken as it is."""
    if (pathlib.Path(run) / "stage.json").exists():
        return load_stage(run)
    if ema_sigma is not None:
        return _rebuilt(open_run(run), run, at, ema_sigma)
    stage, state = restored(run, at)
    stage.params = state["ema"]
    stage.facts = facts(run, int(state["images"]))
    return stage


def restored(run, at=None):
    """(Stage without parameters, training state as a dict of NumPy arrays) of a run's newest checkpoint, or the one at
    `at` images."""
    stage = open_run(run)
    with Checkpoints(run) as checkpoints:
        saved = checkpoints.all()
        if not saved:
            raise ValueError(f"`run` (={run}) has no checkpoint yet")
        if at is not None and at not in saved:
            raise ValueError(f"`at` (={at}) must be a checkpoint of {run}: {', '.join(map(str, saved))}")
        like = jax.eval_shape(functools.partial(states.create, stage))._asdict()
        return stage, jax.device_get(checkpoints.restore(saved[-1] if at is None else at, like))


def _rebuilt(stage, run, at, sigma):
    """`trained`, of the snapshots."""
    sigmas = stage.config.train.ema_sigmas
    if not 0 < sigma < 0.28:
        raise ValueError(f"`ema_sigma` (={sigma}) must lie between 0 and 0.28")
    with Checkpoints(run, "snapshots") as snapshots:
        saved = [images for images in snapshots.all() if at is None or images <= at]
        if not saved or at not in (None, saved[-1]):
            known = ", ".join(map(str, snapshots.all())) or "none yet"
            raise ValueError(f"`ema_sigma` (={sigma}) must find a snapshot of {run} "
                             f"{'' if at is None else f'at {at} images '}(train.ema_sigmas); there are: {known}")
        like = jax.eval_shape(functools.partial(states.create, stage)).power
        stored = [(images, float(s)) for images in saved for s in sigmas]
        stage.params = averages.combine(stored, (saved[-1], sigma),
                                        lambda images: jax.device_get(snapshots.restore(images, like)))
    stage.facts = {**facts(run, saved[-1]), "weights": "power-function ema", "ema_sigma": sigma}
    del stage.facts["ema_half_life"]
    return stage


def export(runs, out, at=None, dtype=np.float32, ema_sigma=None, guides=None):
    """Write the stage folder `out` from one run, or a cascade folder from several, lowest stage first; parameters are
    stored as `dtype`. `guides` maps the name of a stage to the run or stage folder of a weaker one of the same task that
    its guidance leads away from: they too make a cascade folder."""
    stages = [trained(run, at, ema_sigma) for run in runs]
    guides = {name: trained(run) for name, run in (guides or {}).items()}
    whole = stages[0] if len(stages) == 1 and not guides else Cascade(stages, guides=guides)
    whole.save(out, dtype)
    return whole
