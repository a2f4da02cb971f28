"""The package's base stage: that of base_32.py, wider, for an accelerator. Class-conditional Fluent Emoji at 32x32.

    cdm train --config=configs/demo/base_32_wide.py --workdir=runs/base_32_wide
    cdm export runs/base_32_wide --ema-sigma 0.1 --dtype float16 --out stages/base_32

The rate does not fall: the power-function average does what a decay would, and makes a stage of every snapshot.

Expected: a loss of 0.060. Four minutes of an H200 that trains another stage beside it. With more images it remembers
its pictures: docs/evaluation.md.
"""

from cdm.config import base_stage


def get_config():
    config = base_stage("base_32", 32)
    config.data.balance = True
    config.data.cache = True
    config.model.channels = 48
    config.model.multipliers = (1, 2, 4)
    config.model.blocks = 2
    config.model.attention = (16, 8)
    config.model.dropout = 0.15
    config.model.resample = "between"
    config.train.images = 1_400_064
    config.train.batch_size = 256
    config.train.learning_rate = 8e-4
    config.train.warmup = 50_000
    config.train.ema_half_life = 100_000
    config.checkpoint.every = 250_000
    config.checkpoint.snapshots = 200_000
    config.log.every = 25_600
    config.log.grid = 1_000_000
    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 16
    config.sample.guidance = 2.0
    return config
