"""The stage 32 -> 64 of a modern chain on ImageNet 2012, modern_32 to modern_256.

    cdm data pack tfds:imagenet2012 --size 64 --out imagenet_64
    cdm train --config=configs/imagenet/modern_64.py --workdir=runs/modern_64 --config.data.source=imagenet_64

751.7 M parameters; 482 GFLOP an evaluation, 23.15 TFLOP an image by the settings below, 1446 GFLOP an image of
training: 21.0 GB of state and, in bfloat16, 1.17 GB an image more (`cdm describe`). 410 M images are 5.9e+20 FLOP: 416
hours of one H100 at 40 % of its 989 TFLOP/s, which is assumed: it has not been run. Eight of 80 GB:
--config.train.accumulate=8.

Expected: no paper has trained this. The best single pixel-space model published has FID 1.01 at 64x64 (EDM2 with
autoguidance).

What came after CDM, on the network of sr_64, with half of its images: EDM's preconditioning, v of pictures of deviation
0.5 (Karras et al. 2022), weighted by a sigmoid of logSNR of bias -2.0 (Kingma and Gao 2023; Hoogeboom et al. 2024), a
cosine schedule shifted by 2 ln(32/64), from the size of the input to that of the output (Hoogeboom et al. 2023), noise
of levels up to 0.5 on the input, guidance of 0.2 between logSNR -2.13 and 2.55, which is sigma 2.9 to 0.28
(Kynkaanniemi et al. 2024), 24 steps of DPM-Solver++. Weight's bias, guidance and steps are ours and untested: `cdm
tune` searches guidance and steps.
"""

from math import log

from cdm.config import sr_stage


def get_config():
    config = sr_stage("modern_64", 32, 64)
    config.data.source = "tfds:imagenet2012"
    config.data.flip = True
    config.model.channels = 256
    config.model.multipliers = (1, 2, 3, 4)
    config.model.blocks = 5
    config.model.attention = (8, 16)
    config.model.heads = 4
    config.model.dropout = 0.1
    config.diffusion.data_std = 0.5
    config.diffusion.weight = "sigmoid"
    config.diffusion.weight_bias = -2.0
    config.diffusion.schedule = {"name": "cosine", "logsnr_min": -20.0, "logsnr_max": 20.0, "shift": 2 * log(32 / 64)}
    config.augment.max_level = 0.5
    config.train.images = 200_000 * 2048
    config.train.batch_size = 2048
    config.train.learning_rate = 1e-4
    config.train.warmup = 10_000_000
    config.train.class_dropout = 0.1
    config.train.ema_half_life = 14_200_000
    config.checkpoint.every = 5_000_000
    config.checkpoint.snapshots = 20_000_000
    config.log.every = 400_000
    config.log.grid = 20_000_000
    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 24
    config.sample.guidance = 0.2
    config.sample.interval = (-2.13, 2.55)
    config.sample.aug_level = 0.1
    return config
