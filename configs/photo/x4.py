"""Photographs of any kind, four times as large (64 -> 256): phones, messengers, old files. Trained on the `photo`
degradation, so it also cleans; convolutional, for windows of pictures of any size. Sized for two CPU cores: it begins
from the package's stage of clean pictures.

    cdm train --config=configs/photo/x4.py --workdir=runs/photo_x4 --config.data.source=PHOTOS

PHOTOS is what docs/data.md allows, squares of at least 256 px. On an accelerator widen it and begin afresh
(`--config.model.channels=64 --config.model.blocks=2 --config.train.batch_size=64 --config.train.init_from=`) and train
longer.

Expected: a loss, of the standardised difference, of 0.30. Half an hour of one CPU core. The stage in the package was
made so.
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("photo_x4", 64, 256)
    config.degrade.kind = "photo"
    config.data.labels = False
    config.data.flip = True
    config.data.crop = 64
    config.model.channels = 16
    config.model.multipliers = (1, 2, 2)
    config.model.blocks = 1
    config.model.resample = "between"
    config.diffusion.target = "x0"
    config.diffusion.residual = True
    config.diffusion.data_std = 0.16
    config.augment.max_level = 0.25
    config.train.init_from = "cdm/weights/photo_x4_bicubic"
    config.train.images = 24_000
    config.train.batch_size = 8
    config.train.learning_rate = 6e-4
    config.train.warmup = 1_000
    config.train.decay = "cosine"
    config.train.ema_half_life = 3_000
    config.train.class_dropout = 0.0
    config.checkpoint.every = 5_000
    config.log.every = 500
    config.log.grid = 10_000
    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 2
    config.sample.aug_level = 0.0
    return config
