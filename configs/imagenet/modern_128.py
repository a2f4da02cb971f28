"""The stage 64 -> 128 of a modern chain on ImageNet 2012, modern_32 to modern_256.

    cdm data pack tfds:imagenet2012 --size 128 --out imagenet_128
    cdm train --config=configs/imagenet/modern_128.py --workdir=runs/modern_128 --config.data.source=imagenet_128

575.6 M parameters; 528 GFLOP an evaluation, 8.445 TFLOP an image by the settings below, 1582 GFLOP an image of
training: 16.1 GB of state and, in bfloat16, 1.68 GB an image more (`cdm describe`). 256 M images are 4.0e+20 FLOP: 284
hours of one H100 at 40 % of its 989 TFLOP/s, which is assumed: it has not been run. Eight of 80 GB:
--config.train.accumulate=4.

Expected: no paper has trained this. Of single pixel-space models at 128x128 simple diffusion has FID 2.26, without
guidance; SiD2's, which we do not know, is lower.

What came after CDM, on the network of sr_128 (with embeddings through scale and shift), with half of its images: EDM's
preconditioning, v of pictures of deviation 0.5 (Karras et al. 2022), weighted by a sigmoid of logSNR of bias -2.0
(Kingma and Gao 2023; Hoogeboom et al. 2024), a cosine schedule shifted by 2 ln(64/128), from the size of the input to
that of the output (Hoogeboom et al. 2023), noise of levels up to 0.5 and blur on the input, no guidance, as the class
is in the input by then, 16 steps of DPM-Solver++. Weight's bias, levels and steps are ours and untested: `cdm tune`
searches levels and steps.
"""

from math import log

from cdm.config import sr_stage


def get_config():
    config = sr_stage("modern_128", 64, 128)
    config.data.source = "tfds:imagenet2012"
    config.data.flip = True
    config.model.channels = 128
    config.model.multipliers = (1, 2, 4, 8, 8)
    config.model.blocks = 3
    config.model.attention = (16,)
    config.model.heads = 1
    config.diffusion.data_std = 0.5
    config.diffusion.weight = "sigmoid"
    config.diffusion.weight_bias = -2.0
    config.diffusion.schedule = {"name": "cosine", "logsnr_min": -20.0, "logsnr_max": 20.0, "shift": 2 * log(64 / 128)}
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
    config.sample.steps = 16
    config.sample.aug_level = 0.1
    return config
