"""SR3's own baseline for x4_bicubic.py: the same network and pictures, trained as a regression (Saharia et al. 2021).
The one that is compared with the package's stage has seen 150,016 crops, that stage 350,016.

    cdm train --config=configs/photo/x4_regression.py --workdir=runs/photo_x4_regression --config.data.source=PHOTOS
    cdm export runs/photo_x4_regression --ema-sigma 0.05 --out stages/photo_x4_regression

Expected: a loss, of the standardised difference, of 0.79. A minute and a half of an H200 that trains another stage
beside it. Not in the package; docs/upscaling.md has the comparison.
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("photo_x4_regression", 64, 256)
    config.data.labels = False
    config.data.flip = True
    config.data.cache = True
    config.data.crop = 128
    config.model.channels = 32
    config.model.multipliers = (1, 2, 4)
    config.model.blocks = 1
    config.model.resample = "between"
    config.diffusion.loss = "regression"
    config.diffusion.target = "x0"
    config.diffusion.residual = True
    config.diffusion.data_std = 0.10
    config.augment.max_level = 0.0
    config.train.images = 150_016
    config.train.batch_size = 64
    config.train.learning_rate = 8e-4
    config.train.warmup = 10_000
    config.train.ema_half_life = 20_000
    config.train.class_dropout = 0.0
    config.checkpoint.every = 50_000
    config.checkpoint.snapshots = 50_000
    config.log.every = 6_400
    config.log.grid = 50_000
    config.sample.steps = 1
    config.sample.aug_level = 0.0
    return config
