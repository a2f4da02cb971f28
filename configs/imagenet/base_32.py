"""The base stage of CDM (Ho et al. 2021, table of hyperparameters): class-conditional ImageNet 2012 at 32x32.

    cdm data pack tfds:imagenet2012 --size 32 --out imagenet_32
    cdm train --config=configs/imagenet/base_32.py --workdir=runs/base_32 --config.data.source=imagenet_32

825.5 M parameters, 415 GFLOP an image of training, 23 GB of state; `cdm describe` has them. 6.0e20 FLOP in all: 420 hours
of an H100 if it reaches 40 % of its peak in bfloat16, which has not been run. Eight of 80 GB: --config.train.accumulate=4.

The paper's: network, dropout, flips, batch, rate, 700 thousand steps, average (0.9999 a step), cosine schedule, 4000
ancestral steps. Not the paper's: v is regressed, in continuous time, and the variance is fixed, where the paper learns
the variance with the hybrid loss; so no number of the paper is promised (FID 1.11 against the training images).
"""

from cdm.config import base_stage


def get_config():
    config = base_stage("base_32", 32)
    config.data.source = "tfds:imagenet2012"
    config.data.flip = True
    config.model.channels = 256
    config.model.multipliers = (1, 2, 3, 4)
    config.model.blocks = 6
    config.model.attention = (8, 16)
    config.model.heads = 4
    config.model.dropout = 0.1
    config.train.images = 700_000 * 2048
    config.train.batch_size = 2048
    config.train.learning_rate = 1e-4
    config.train.class_dropout = 0.0
    config.train.ema_half_life = 14_200_000
    config.checkpoint.every = 5_000_000
    config.checkpoint.snapshots = 70_000_000
    config.log.every = 400_000
    config.log.grid = 20_000_000
    config.sample.sampler = "ancestral"
    config.sample.steps = 4000
    return config
