"""The stage 128 -> 256 of a modern chain on ImageNet 2012, modern_32 to modern_256.

    cdm data pack tfds:imagenet2012 --size 256 --out imagenet_256
    cdm train --config=configs/imagenet/modern_256.py --workdir=runs/modern_256 --config.data.source=imagenet_256

634.4 M parameters; 1731 GFLOP an evaluation, 20.77 TFLOP an image by the settings below, 5188 GFLOP an image of
training: 17.8 GB of state and, in bfloat16, 6.38 GB an image more (`cdm describe`). 256 M images are 1.3e+21 FLOP: 933
hours of one H100 at 40 % of its 989 TFLOP/s, which is assumed: it has not been run. Eight of 80 GB:
--config.train.accumulate=16.

Expected: no paper has trained this. The best single pixel-space model published has FID 1.38 at 256x256 (SiD2).

What came after CDM, on the network of sr_256 (with embeddings through scale and shift), with half of its images: EDM's
preconditioning, v of pictures of deviation 0.5 (Karras et al. 2022), weighted by a sigmoid of logSNR of bias -3.0
(Kingma and Gao 2023; Hoogeboom et al. 2024), a cosine schedule shifted by 2 ln(128/256), from the size of the input to
that of the output (Hoogeboom et al. 2023), noise of levels up to 0.5 and blur on the input, no guidance, as the class
is in the input by then, 12 steps of DPM-Solver++. Weight's bias, levels and steps are ours and untested: `cdm tune`
searches levels and steps.
"""

from math import log

from cdm.config import sr_stage


def get_config():
    config = sr_stage("modern_256", 128, 256)
    config.data.source = "tfds:imagenet2012"
    config.data.flip = True
    config.model.channels = 128
    config.model.multipliers = (1, 2, 4, 4, 8, 8)
    config.model.blocks = 3
    config.model.attention = (16,)
    config.model.heads = 1
    config.diffusion.data_std = 0.5
    config.diffusion.weight = "sigmoid"
    config.diffusion.weight_bias = -3.0
    config.diffusion.schedule = {"name": "cosine", "logsnr_min": -20.0, "logsnr_max": 20.0, "shift": 2 * log(128 / 256)}
    config.augment.max_level = 0.5
    config.augment.blur_probability = 0.5
    config.train.images = 250_000 * 1024
    config.train.batch_size = 1024
    config.train.learning_rate = 1e-4
    config.train.warmup = 10_000_000
    config.train.class_dropout = 0.1
    config.train.ema_half_life = 7_100_000
    config.checkpoint.every = 5_000_000
    config.checkpoint.snapshots = 12_500_000
    config.log.every = 200_000
    config.log.grid = 10_000_000
    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 12
    config.sample.aug_level = 0.1
    return config
