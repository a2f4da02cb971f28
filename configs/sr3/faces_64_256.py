"""The stage 64 -> 256 of SR3's unconditional chain of faces 64 -> 256 -> 1024 (Saharia et al. 2021, table of
architectures): between faces_64 and faces_256_1024.

    cdm data pack ffhq/images1024x1024 --size 256 --out ffhq_256
    cdm train --config=configs/sr3/faces_64_256.py --workdir=runs/faces_64_256 --config.data.source=ffhq_256

617.4 M parameters; 1731 GFLOP an evaluation, 173.1 TFLOP an image by the settings below, 5188 GFLOP an image of
training: 17.3 GB of state and, in bfloat16, 6.10 GB an image more (`cdm describe`). 256 M images are 1.3e+21 FLOP: 933
hours of one H100 at 40 % of its 989 TFLOP/s, which is assumed: it has not been run. Eight of 80 GB:
--config.train.accumulate=4.

The paper has 625 M parameters. Expected: it shows pictures of the chain, and no number that we know of.

The paper's: network, rate, a warm-up of 10 thousand steps, 1 million steps of 256, average (0.9999 a step), absolute
error of the noise, at continuous levels within 2000 steps, the variance beta, at most 100 sampling steps. Ours, where
it is silent: attention at 16 px and in the middle with one head (which its count of parameters asks for), a linear
schedule with the ends of public code, evenly spaced sampling steps (the paper searched them: `cdm tune`), clipping of
the gradient.
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("faces_64_256", 64, 256)
    config.data.source = "ffhq"
    config.data.labels = False
    config.model.channels = 128
    config.model.multipliers = (1, 2, 4, 4, 8, 8)
    config.model.blocks = 3
    config.model.attention = (16,)
    config.model.heads = 1
    config.model.embedding = "additive"
    config.model.skip_rescale = True
    config.diffusion.target = "eps"
    config.diffusion.norm = 1
    config.diffusion.levels = "interval"
    config.diffusion.schedule = {"name": "linear_beta", "timesteps": 2000, "beta_start": 1e-6, "beta_end": 1e-2}
    config.augment.max_level = 0.0
    config.train.images = 1_000_000 * 256
    config.train.batch_size = 256
    config.train.learning_rate = 1e-4
    config.train.warmup = 2_560_000
    config.train.class_dropout = 0.0
    config.train.ema_half_life = 1_770_000
    config.checkpoint.every = 1_000_000
    config.checkpoint.snapshots = 12_800_000
    config.log.every = 100_000
    config.log.grid = 5_000_000
    config.sample.sampler = "ancestral"
    config.sample.variance = "large"
    config.sample.steps = 100
    config.sample.aug_level = 0.0
    return config
