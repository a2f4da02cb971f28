"""The demo's base stage: class-conditional Fluent Emoji at 32x32, sized for two CPU cores.

    cdm train --config=configs/demo/base_32.py --workdir=runs/base_32

Expected: held-out v-loss at 0.10 (clean) to 0.90 (noise) of the Wiener denoiser's, as of the stage that the package had
before that of base_32_wide.py. About 2.8 hours of one CPU core.
"""

from cdm.config import base_stage


def get_config():
    config = base_stage("base_32", 32)
    config.data.balance = True
    config.data.cache = True
    config.model.channels = 32
    config.model.multipliers = (1, 2, 4)
    config.model.blocks = 2
    config.model.attention = (8,)
    config.model.resample = "between"
    config.train.images = 175_000
    config.train.batch_size = 16
    config.train.learning_rate = 6e-4
    config.train.warmup = 3_000
    config.train.decay = "cosine"
    config.train.ema_half_life = 3_000
    config.checkpoint.every = 5_000
    config.log.every = 1_000
    config.log.grid = 15_000
    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 20
    config.sample.guidance = 2.0
    return config
