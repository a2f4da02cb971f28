"""`cdm distill`: a line of students, each of half its teacher's steps; the first one's teacher is the stage given.

    RUN/steps_16/       the run of the student of 16 steps        RUN/stage_16/       the stage folder it ended as
"""

import pathlib

from ml_collections import ConfigDict

from cdm import config as configs
from cdm.stage import load_config, load_stage
from cdm.training.loop import train
from cdm.training.run import differences, export
from cdm.training.stop import Stopped, on_sigterm

SHARE, BEGINNING = 8, 20  # what part of the first stage's images a student is trained for, and of these its warm-up


def student(teacher, config, steps, guidance, overrides=()):
    """The config of a student of `steps` steps of the stage folder `teacher`, whose guidance is built in. All else is
    that of `config`, the first stage's, with the rate falling to nothing. It begins well, so that a warm-up is needed:
    Adam's first steps are as long as any."""
    config = ConfigDict(config.to_dict(), convert_dict=True)
    train = config.train
    train.teacher, train.teacher_guidance, train.init_from, train.class_dropout = str(teacher), guidance, "", 0.0
    train.images, train.decay = max(train.images // SHARE, train.batch_size), "cosine"
    config.sample.update({"sampler": "ddim", "eta": 0.0, "steps": steps, "grid": "time", "guidance": 0.0,
                          "interval": ()})
    images = configs.changed(config.lock(), overrides, teacher).train.images
    with config.unlocked():
        train.warmup = train.ema_half_life = max(images // BEGINNING, 1)
    return configs.changed(config, overrides, teacher)


def distill(folder, run, steps=(16, 8, 4), guidance=None, overrides=()):
    """Train students of the stage in `folder`, of `steps` each half the one before, in the folder `run`, or go on with
    it; returns the path of the last one's stage folder. `guidance`, the stage's own if None, is built into the first.
    Raises Stopped after a SIGTERM, everything saved.
    """
    run, teacher, first = pathlib.Path(run), pathlib.Path(folder), load_config(folder)
    if not steps or any(n < 1 for n in steps) or any(n != 2 * m for n, m in zip(steps, steps[1:])):
        raise ValueError(f"`steps` (={','.join(map(str, steps))}) must each be half the one before")
    guidance = first.sample.guidance if guidance is None else guidance
    with on_sigterm() as asked:
        for n in steps:
            config, out = student(teacher, first, n, guidance, overrides), run / f"stage_{n}"
            if out.exists():
                _agree(out, teacher, config)
            else:
                train(config, run / f"steps_{n}")
                export([run / f"steps_{n}"], out)
            if asked() and n != steps[-1]:
                raise Stopped(f"it was asked to stop; the student of {n} steps is finished, the same command goes on")
            teacher, guidance = out, 0.0
    return teacher


def _agree(out, teacher, config):
    """ValueError unless the student in `out` is one of this teacher and config."""
    old = load_stage(out)
    differ = [name for name in differences(old.config.to_dict(), config.to_dict()) if name != "train.teacher"]
    if old.facts.get("teacher", {}).get("sha256") != load_stage(teacher).sha256:
        differ.append("the teacher's sha256")
    if differ:
        raise ValueError(f"`workdir` (={out.parent}) holds another student, {out.name}; these differ: "
                         f"{', '.join(differ)}")
