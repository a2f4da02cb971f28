"""SR3's stage of faces 64 -> 512 (Saharia et al. 2021, table of architectures), trained on FFHQ.

    cdm data pack ffhq/images1024x1024 --size 512 --out ffhq_512
    cdm train --config=configs/sr3/faces_64_512.py --workdir=runs/faces_64_512 --config.data.source=ffhq_512

609.9 M parameters; 2268 GFLOP an evaluation, 226.8 TFLOP an image by the settings below, 6795 GFLOP an image of
training: 17.1 GB of state and, in bfloat16, 12.70 GB an image more (`cdm describe`). 256 M images are 1.7e+21 FLOP:
1,629 hours of one H100 at 30 % of its 989 TFLOP/s, which is assumed: it has not been run. Eight of 80 GB:
--config.train.accumulate=8.

The paper has 625 M parameters. Expected: it shows pictures, and no number that we know of. The share of the peak is
lower than at 128 px, as layers of 64 channels wait for memory.

The paper's: network, rate, a warm-up of 10 thousand steps, 1 million steps of 256, average (0.9999 a step), absolute
error of the noise, at continuous levels within 2000 steps, the variance beta, at most 100 sampling steps. Ours, where
it is silent: attention at 16 px and in the middle with one head (which its count of parameters asks for), a linear
schedule with the ends of public code, evenly spaced sampling steps (the paper searched them: `cdm tune`), clipping of
the gradient.
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("faces_64_512", 64, 512)
    config.data.source = "ffhq"
    config.data.labels = False
    config.model.channels = 64
    config.model.multipliers = (1, 2, 4, 8, 8, 16, 16)
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
