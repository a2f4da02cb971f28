"""Photographs of any kind, four times as large (64 -> 256): phones, messengers, old files. Trained on the `photo`
degradation, so it also cleans; convolutional, for windows of pictures of any size. It begins from the package's stage
of clean pictures.

    cdm train --config=configs/photo/x4.py --workdir=runs/photo_x4 --config.data.source=PHOTOS
    cdm export runs/photo_x4 --ema-sigma 0.05 --dtype float16 --out stages/photo_x4

PHOTOS is what docs/data.md allows, squares of at least 256 px. In another size (see x4_bicubic.py) it begins afresh:
--config.train.init_from=

Expected: a loss, of the standardised difference, of 0.28. Two minutes of an H200 that trains another stage beside it.
The stage in the package was made so, of the photographs that its card names.
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("photo_x4", 64, 256)
    config.degrade.kind = "photo"
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
    config.diffusion.data_std = 0.16
    config.augment.max_level = 0.25
    config.train.init_from = "cdm/weights/photo_x4_bicubic"
    config.train.images = 150_016
    config.train.batch_size = 64
    config.train.learning_rate = 6e-4
    config.train.warmup = 10_000
    config.train.ema_half_life = 20_000
    config.train.class_dropout = 0.0
    config.checkpoint.every = 50_000
    config.checkpoint.snapshots = 50_000
    config.log.every = 6_400
    config.log.grid = 50_000
    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 4
    config.sample.aug_level = 0.0
    return config
