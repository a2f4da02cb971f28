"""Photographs four times as large (64 -> 256), of clean pictures that were only made small (bicubic): what the
super-resolution benchmarks measure, and what `cdm upscale --consistent` is for. Convolutional, for windows of pictures
of any size.

    cdm train --config=configs/photo/x4_bicubic.py --workdir=runs/photo_x4_bicubic --config.data.source=PHOTOS
    cdm export runs/photo_x4_bicubic --ema-sigma 0.05 --dtype float16 --out stages/photo_x4_bicubic

PHOTOS is what docs/data.md allows, squares of at least 256 px. For two CPU cores, an hour of one:
--config.model.channels=16 '--config.model.multipliers=(1,2,2)' --config.data.crop=64 --config.train.batch_size=8
--config.train.images=60_000 --config.train.decay=cosine --config.train.warmup=2_000 --config.train.ema_half_life=3_000

Expected: a loss, of the standardised difference, of 0.32. Three minutes of an H200 that trains another stage beside it.
The stage in the package was made so, of the photographs that its card names.
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("photo_x4_bicubic", 64, 256)
    config.data.labels = False
    config.data.flip = True
    config.data.cache = True
    config.data.crop = 128
    config.model.channels = 32
    config.model.multipliers = (1, 2, 4)
    config.model.blocks = 1
    config.model.resample = "between"
    config.diffusion.target = "x0"
    config.diffusion.residual = True
    config.diffusion.data_std = 0.10
    config.augment.max_level = 0.25
    config.train.images = 350_016
    config.train.batch_size = 64
    config.train.learning_rate = 8e-4
    config.train.warmup = 10_000
    config.train.ema_half_life = 20_000
    config.train.class_dropout = 0.0
    config.checkpoint.every = 50_000
    config.checkpoint.snapshots = 50_000
    config.log.every = 6_400
    config.log.grid = 100_000
    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 4
    config.sample.aug_level = 0.0
    return config
