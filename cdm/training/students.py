"""`cdm distill`: a line of students, each of half its teacher's steps; the first one's teacher is the stage given.

    RUN/steps_16/       the run of the student of 16 steps        RUN/stage_16/       the stage folder it ended as
"""

import pathlib

from ml_collections import ConfigDict

from cdm import config as configs
from cdm.stage import load_stage
from cdm.training.loop import train
from cdm.training.run import export

SHARE = 8  # what part of its teacher's images a student is trained for: it begins as its teacher


def student(folder, steps, guidance, overrides=()):
    """The config of a student of `steps` steps of the stage in `folder`, whose guidance is built in; all else is the
    teacher's, with the rate falling to nothing. It begins well, so that a warm-up is needed: Adam's first steps are as
    long as any."""
    config = ConfigDict(load_stage(folder).config.to_dict(), convert_dict=True)
    train = config.train
    train.teacher, train.teacher_guidance, train.init_from, train.class_dropout = str(folder), guidance, "", 0.0
    train.images = max(train.images // SHARE, train.batch_size)
    train.warmup, train.decay, train.ema_half_life = train.images // 20, "cosine", max(train.images // 20, 1)
    config.sample.update({"sampler": "ddim", "steps": steps, "guidance": 0.0, "grid": "time", "interval": (), "eta": 0.0})
    return configs.changed(config.lock(), overrides, folder)


def distill(folder, run, steps=(16, 8, 4), guidance=None, overrides=()):
    """Train students of the stage in `folder`, of `steps` each half the one before, in the folder `run`, or go on with
    it; returns the path of the last one's stage folder. `guidance`, the stage's own if None, is built into the first.
    """
    run, teacher = pathlib.Path(run), pathlib.Path(folder)
    if not steps or any(n < 1 for n in steps) or any(n != 2 * m for n, m in zip(steps, steps[1:])):
        raise ValueError(f"`steps` (={','.join(map(str, steps))}) must each be half the one before")
    if guidance is None:
        guidance = load_stage(folder).config.sample.guidance
    for n in steps:
        out = run / f"stage_{n}"
        if not out.exists():
            train(student(teacher, n, guidance, overrides), run / f"steps_{n}")
            export([run / f"steps_{n}"], out)
        teacher, guidance = out, 0.0
    return teacher
