"""Ten classes of photographs (Imagenette) at 32x32: the base stage of the experiment, sized for two CPU cores.

    cdm train --config=experiments/imagenette/base_32.py --workdir=runs/imagenette/base_32

On an accelerator widen it (`--config.model.channels=128`) and train longer; the run resumes wherever it was stopped.
"""

from cdm.config import base_stage


def get_config():
    config = base_stage("base_32", 32)
    config.data.source = "runs/imagenette/train_32"
    config.data.flip = True
    config.data.cache = True
    config.model.channels = 32
    config.model.multipliers = (1, 2, 4)
    config.model.blocks = 2
    config.model.attention = (8,)
    config.model.resample = "between"
    config.diffusion.data_std = 0.55
    config.train.images = 32_000
    config.train.batch_size = 16
    config.train.learning_rate = 6e-4
    config.train.warmup = 3_000
    config.train.decay = "cosine"
    config.train.ema_half_life = 3_000
    config.checkpoint.every = 2_000
    config.checkpoint.snapshots = 10_000
    config.log.every = 1_000
    config.log.grid = 10_000
    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 20
    config.sample.guidance = 1.0
    return config
