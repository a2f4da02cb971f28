"""SR3's own baseline for sr_64: the same network and pictures, trained as a regression (Saharia et al. 2021).

    cdm train --config=configs/demo/sr_64_regression.py --workdir=runs/sr_64_regression

Expected: 35.6 dB on held-out input, bicubic + 7.7 dB. About 8 minutes of one CPU core. No part of the cascade;
docs/evaluation.md has the comparison.
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("sr_64_regression", 32, 64)
    config.data.balance = True
    config.data.cache = True
    config.data.crop = 32
    config.model.channels = 24
    config.model.multipliers = (1, 2, 3)
    config.model.blocks = 1
    config.model.attention = ()
    config.model.resample = "between"
    config.diffusion.loss = "regression"
    config.diffusion.target = "x0"
    config.diffusion.residual = True
    config.diffusion.data_std = 0.1
    config.augment.max_level = 0.0
    config.train.images = 20_000
    config.train.batch_size = 8
    config.train.learning_rate = 8e-4
    config.train.warmup = 2_000
    config.train.decay = "cosine"
    config.train.ema_half_life = 1_500
    config.checkpoint.every = 5_000
    config.log.every = 500
    config.log.grid = 10_000
    config.sample.steps = 1
    config.sample.aug_level = 0.0
    return config
