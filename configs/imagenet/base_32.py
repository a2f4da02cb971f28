"""The base stage of CDM (Ho et al. 2021, table of hyperparameters): class-conditional ImageNet 2012 at 32x32.

    cdm data pack tfds:imagenet2012 --size 32 --out imagenet_32
    cdm train --config=configs/imagenet/base_32.py --workdir=runs/base_32 --config.data.source=imagenet_32

825.5 M parameters; 139 GFLOP an evaluation, 556.6 TFLOP an image by the settings below, 417 GFLOP an image of training:
23.1 GB of state and, in bfloat16, 0.38 GB an image more (`cdm describe`). 1,434 M images are 6.0e+20 FLOP: 420 hours of
one H100 at 40 % of its 989 TFLOP/s, which is assumed: it has not been run. Eight of 80 GB: --config.train.accumulate=2.

Expected, without guidance: FID 1.11 against the training images, 1.99 against the validation images; IS 26.01.

The paper's: network, dropout, flips, batch, rate, 700 thousand steps, average (0.9999 a step), cosine schedule of 4000
steps, variance learned by the hybrid loss, 4000 ancestral steps. Ours, where it is silent: warm-up, clipping of the
gradient, the embedding through scale and shift (Nichol and Dhariwal 2021).
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
    config.diffusion.target = "eps"
    config.diffusion.levels = "table"
    config.diffusion.variance = "learned"
    config.diffusion.schedule = {"name": "discrete_cosine", "timesteps": 4000}
    config.train.images = 700_000 * 2048
    config.train.batch_size = 2048
    config.train.learning_rate = 1e-4
    config.train.warmup = 10_000_000
    config.train.class_dropout = 0.0
    config.train.ema_half_life = 14_200_000
    config.checkpoint.every = 5_000_000
    config.checkpoint.snapshots = 70_000_000
    config.log.every = 400_000
    config.log.grid = 20_000_000
    config.sample.sampler = "ancestral"
    config.sample.steps = 4000
    return config
