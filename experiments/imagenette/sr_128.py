"""Ten classes of photographs (Imagenette), super-resolution 64 -> 128, trained on crops, sized for two CPU cores.

    cdm train --config=experiments/imagenette/sr_128.py --workdir=runs/imagenette/sr_128
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("sr_128", 64, 128)
    config.data.source = "runs/imagenette/train_128"
    config.data.flip = True
    config.data.crop = 48
    config.model.channels = 24
    config.model.multipliers = (1, 2, 3)
    config.model.blocks = 1
    config.model.attention = ()
    config.model.resample = "between"
    config.diffusion.residual = True
    config.diffusion.data_std = 0.09
    config.augment.max_level = 0.5
    config.train.images = 6_000
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
