"""SR3's own baseline for x4_bicubic.py: the same network and pictures, trained as a regression (Saharia et al. 2021).
It begins from the stage in the package, whose prediction from pure noise is already close to the conditional mean, and
so has seen 80,000 crops where that one has seen 60,000.

    cdm train --config=configs/photo/x4_regression.py --workdir=runs/photo_x4_regression --config.data.source=PHOTOS

Expected: a loss, of the standardised difference, of 0.90. Half an hour of one CPU core at most. Not in the package;
docs/upscaling.md has the comparison.
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("photo_x4_regression", 64, 256)
    config.data.labels = False
    config.data.flip = True
    config.data.crop = 64
    config.model.channels = 16
    config.model.multipliers = (1, 2, 2)
    config.model.blocks = 1
    config.model.resample = "between"
    config.diffusion.loss = "regression"
    config.diffusion.target = "x0"
    config.diffusion.residual = True
    config.diffusion.data_std = 0.10
    config.augment.max_level = 0.0
    config.train.init_from = "cdm/weights/photo_x4_bicubic"
    config.train.images = 20_000
    config.train.batch_size = 8
    config.train.learning_rate = 6e-4
    config.train.warmup = 1_000
    config.train.decay = "cosine"
    config.train.ema_half_life = 2_000
    config.train.class_dropout = 0.0
    config.checkpoint.every = 5_000
    config.log.every = 500
    config.log.grid = 10_000
    config.sample.steps = 1
    config.sample.aug_level = 0.0
    return config
