"""The stage 128 -> 256 of our chain 32 -> 64 -> 128 -> 256 on ImageNet 2012: CDM's 64 -> 256 with input twice as large.

    cdm data pack tfds:imagenet2012 --size 256 --out imagenet_256
    cdm train --config=configs/imagenet/sr_256.py --workdir=runs/sr_256 --config.data.source=imagenet_256

618.0 M parameters; 1731 GFLOP an evaluation, 173.1 TFLOP an image by the settings below, 5188 GFLOP an image of
training: 17.3 GB of state and, in bfloat16, 6.10 GB an image more (`cdm describe`). 512 M images are 2.7e+21 FLOP:
1,865 hours of one H100 at 40 % of its 989 TFLOP/s, which is assumed: it has not been run. Eight of 80 GB:
--config.train.accumulate=16.

Expected: no paper has trained it. CDM reaches 256x256 from 64x64 in one stage (sr_64_256) with FID 4.88; a chain whose
128x128 pictures have 3.52 should come no worse.

Everything but the size of its input is that of sr_64_256.
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("sr_256", 128, 256)
    config.data.source = "tfds:imagenet2012"
    config.data.flip = True
    config.model.channels = 128
    config.model.multipliers = (1, 2, 4, 4, 8, 8)
    config.model.blocks = 3
    config.model.attention = (16,)
    config.model.heads = 1
    config.model.embedding = "additive"
    config.model.skip_rescale = True
    config.diffusion.target = "eps"
    config.diffusion.levels = "interval"
    config.diffusion.schedule = {"name": "linear_beta", "timesteps": 2000, "beta_start": 1e-6, "beta_end": 1e-2}
    config.augment.max_level = 0.0
    config.augment.blur_probability = 0.5
    config.augment.blur_sigma = (0.4, 0.6)
    config.train.images = 500_000 * 1024
    config.train.batch_size = 1024
    config.train.learning_rate = 1e-4
    config.train.warmup = 10_000_000
    config.train.class_dropout = 0.0
    config.train.ema_half_life = 7_100_000
    config.checkpoint.every = 5_000_000
    config.checkpoint.snapshots = 25_000_000
    config.log.every = 200_000
    config.log.grid = 10_000_000
    config.sample.sampler = "ancestral"
    config.sample.variance = "large"
    config.sample.steps = 100
    config.sample.aug_level = 0.0
    return config
