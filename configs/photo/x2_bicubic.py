"""Clean photographs, twice as large (128 -> 256). Sized for two CPU cores.

    cdm train --config=configs/photo/x2_bicubic.py --workdir=runs/photo_x2_bicubic --config.data.source=PHOTOS

Expected: a loss, of the standardised difference, of 0.27, in an hour and a half of one CPU core; both are of the stage
in the package, which has seen as many crops, but the first 60,000 of them as a stage of this size that made pictures
four times as large, which is not in the package any more. From a fresh start this has not been run.
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("photo_x2_bicubic", 128, 256)
    config.data.labels = False
    config.data.flip = True
    config.data.crop = 64
    config.model.channels = 16
    config.model.multipliers = (1, 2, 2)
    config.model.blocks = 1
    config.model.resample = "between"
    config.diffusion.target = "x0"
    config.diffusion.residual = True
    config.diffusion.data_std = 0.06
    config.augment.max_level = 0.25
    config.train.images = 80_000
    config.train.batch_size = 8
    config.train.learning_rate = 8e-4
    config.train.warmup = 2_000
    config.train.decay = "cosine"
    config.train.ema_half_life = 2_000
    config.train.class_dropout = 0.0
    config.checkpoint.every = 5_000
    config.log.every = 500
    config.log.grid = 10_000
    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 2
    config.sample.aug_level = 0.0
    return config
