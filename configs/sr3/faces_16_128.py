"""SR3's stage of faces 16 -> 128 (Saharia et al. 2021, table of architectures), trained on FFHQ, tested on CelebA-HQ.

    cdm data pack ffhq/images1024x1024 --size 128 --out ffhq_128
    cdm train --config=configs/sr3/faces_16_128.py --workdir=runs/faces_16_128 --config.data.source=ffhq_128

561.0 M parameters; 528 GFLOP an evaluation, 52.77 TFLOP an image by the settings below, 1583 GFLOP an image of
training: 15.7 GB of state and, in bfloat16, 1.64 GB an image more (`cdm describe`). 256 M images are 4.1e+20 FLOP: 285
hours of one H100 at 40 % of its 989 TFLOP/s, which is assumed: it has not been run.

The paper has 550 M parameters. Expected: PSNR 23.04, SSIM 0.65, consistency 2.68e-5 (its regression: 23.96, 0.69,
2.71e-5), and 47.4 % of looks in which people take it for the photograph, without seeing the input (task 2 of `cdm
study`).

The paper's: network, rate, a warm-up of 10 thousand steps, 1 million steps of 256, average (0.9999 a step), dropout of
0.2, absolute error of the noise, at continuous levels within 2000 steps, the variance beta, at most 100 sampling steps.
Ours, where it is silent: attention at 16 px and in the middle with one head (which its count of parameters asks for), a
linear schedule with the ends of public code, evenly spaced sampling steps (the paper searched them: `cdm tune`),
clipping of the gradient.
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("faces_16_128", 16, 128)
    config.data.source = "ffhq"
    config.data.labels = False
    config.model.channels = 128
    config.model.multipliers = (1, 2, 4, 8, 8)
    config.model.blocks = 3
    config.model.attention = (16,)
    config.model.heads = 1
    config.model.dropout = 0.2
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
