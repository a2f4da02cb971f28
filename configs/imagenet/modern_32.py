"""The base stage at 32x32 of a modern chain on ImageNet 2012, modern_32 to modern_256.

    cdm data pack tfds:imagenet2012 --size 32 --out imagenet_32
    cdm train --config=configs/imagenet/modern_32.py --workdir=runs/modern_32 --config.data.source=imagenet_32

825.5 M parameters; 139 GFLOP an evaluation, 8.905 TFLOP an image by the settings below, 417 GFLOP an image of training:
23.1 GB of state and, in bfloat16, 0.38 GB an image more (`cdm describe`). 717 M images are 3.0e+20 FLOP: 210 hours of
one H100 at 40 % of its 989 TFLOP/s, which is assumed: it has not been run. Eight of 80 GB: --config.train.accumulate=2.

Expected: no paper has trained this. CDM's base stage has FID 1.11 after twice the images, and 4000 steps.

What came after CDM, on the network of base_32, with half of its images: EDM's preconditioning, v of pictures of
deviation 0.5 (Karras et al. 2022), weighted by a sigmoid of logSNR of bias -1.0 (Kingma and Gao 2023; Hoogeboom et al.
2024), a cosine schedule whose shift by size (Hoogeboom et al. 2023) is 0 at its reference of 32 px, guidance of 0.5
between logSNR -2.13 and 2.55, which is sigma 2.9 to 0.28 (Kynkaanniemi et al. 2024), 32 steps of DPM-Solver++. Weight's
bias, guidance and steps are ours and untested: `cdm tune` searches guidance and steps.
"""

from cdm.config import base_stage


def get_config():
    config = base_stage("modern_32", 32)
    config.data.source = "tfds:imagenet2012"
    config.data.flip = True
    config.model.channels = 256
    config.model.multipliers = (1, 2, 3, 4)
    config.model.blocks = 6
    config.model.attention = (8, 16)
    config.model.heads = 4
    config.model.dropout = 0.1
    config.diffusion.data_std = 0.5
    config.diffusion.weight = "sigmoid"
    config.diffusion.weight_bias = -1.0
    config.train.images = 350_000 * 2048
    config.train.batch_size = 2048
    config.train.learning_rate = 1e-4
    config.train.warmup = 10_000_000
    config.train.class_dropout = 0.1
    config.train.ema_half_life = 14_200_000
    config.checkpoint.every = 5_000_000
    config.checkpoint.snapshots = 35_000_000
    config.log.every = 400_000
    config.log.grid = 20_000_000
    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 32
    config.sample.guidance = 0.5
    config.sample.interval = (-2.13, 2.55)
    return config
