"""The stage 256 -> 1024 of SR3's unconditional chain of faces 64 -> 256 -> 1024 (Saharia et al. 2021, table of
architectures): after faces_64 and faces_64_256.

    cdm data pack ffhq/images1024x1024 --size 1024 --out ffhq_1024
    cdm train --config=configs/sr3/faces_256_1024.py --workdir=runs/faces_256_1024 --config.data.source=ffhq_1024

148.8 M parameters; 648 GFLOP an evaluation, 64.84 TFLOP an image by the settings below, 1936 GFLOP an image of
training: 4.2 GB of state and, in bfloat16, 10.29 GB an image more (`cdm describe`). At 1024 px one image makes it 14.2
GB at its peak, and sampling 1.2 GB. 256 M images are 5.0e+20 FLOP: 928 hours of one H100 at 15 % of its 989 TFLOP/s,
which is assumed: it has not been run. Eight of 80 GB: --config.train.accumulate=8.

The paper has 150 M parameters. Expected: it shows pictures of the chain, and no number that we know of. The share of
the peak is lower than at 128 px, as layers of 16 channels wait for memory.

The paper's: network, rate, a warm-up of 10 thousand steps, 1 million steps of 256, average (0.9999 a step), absolute
error of the noise, at continuous levels within 2000 steps, the variance beta, at most 100 sampling steps. Ours, where
it is silent: attention at 16 px and in the middle with one head (which its count of parameters asks for), a linear
schedule with the ends of public code, evenly spaced sampling steps (the paper searched them: `cdm tune`), clipping of
the gradient.
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("faces_256_1024", 256, 1024)
    config.data.source = "ffhq"
    config.data.labels = False
    config.model.channels = 16
    config.model.multipliers = (1, 2, 4, 8, 16, 32, 32, 32)
    config.model.blocks = 2
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
