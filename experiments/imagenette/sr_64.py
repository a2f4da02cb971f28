"""Ten classes of photographs (Imagenette), super-resolution 32 -> 64, trained on crops, sized for two CPU cores.

    cdm train --config=experiments/imagenette/sr_64.py --workdir=runs/imagenette/sr_64
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("sr_64", 32, 64)
    config.data.source = "runs/imagenette/train_64"
    config.data.flip = True
    config.data.crop = 32
    config.model.channels = 32
    config.model.multipliers = (1, 2, 3)
    config.model.blocks = 1
    config.model.attention = ()
    config.model.resample = "between"
    config.diffusion.residual = True
    config.diffusion.data_std = 0.11
    config.augment.max_level = 0.5
    config.train.images = 10_000
    config.train.batch_size = 8
    config.train.learning_rate = 8e-4
    config.train.warmup = 1_000
    config.train.decay = "cosine"
    config.train.ema_half_life = 1_500
    config.checkpoint.every = 2_000
    config.checkpoint.snapshots = 10_000
    config.log.every = 500
    config.log.grid = 10_000
    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 10
    config.sample.aug_level = 0.1
    return config
