"""SR3's stage 64 -> 256 of ImageNet 2012 (Saharia et al. 2021, table of architectures), which is told no class.

    cdm data pack tfds:imagenet2012 --size 256 --out imagenet_256
    cdm train --config=configs/sr3/imagenet_64_256.py --workdir=runs/imagenet_64_256 --config.data.source=imagenet_256

617.4 M parameters; 1731 GFLOP an evaluation, 173.1 TFLOP an image by the settings below, 5188 GFLOP an image of
training: 17.3 GB of state and, in bfloat16, 6.10 GB an image more (`cdm describe`). 256 M images are 1.3e+21 FLOP: 933
hours of one H100 at 40 % of its 989 TFLOP/s, which is assumed: it has not been run. Eight of 80 GB:
--config.train.accumulate=4.

The paper has 625 M parameters. Expected of validation images: FID 5.2, IS 180.1, PSNR 26.4, SSIM 0.762 (its regression:
15.2, 121.1, 27.9, 0.801). People take it for the photograph in 39.0 % of looks without the input (task 2 of `cdm
study`). As the second of two stages that generate by class it is trained on blurred input,
--config.augment.blur_probability=0.5: FID 11.3, and 13.1 without blur.

The paper's: network, rate, a warm-up of 10 thousand steps, 1 million steps of 256, average (0.9999 a step), absolute
error of the noise, at continuous levels within 2000 steps, the variance beta, at most 100 sampling steps. Ours, where
it is silent: attention at 16 px and in the middle with one head (which its count of parameters asks for), a linear
schedule with the ends of public code, evenly spaced sampling steps (the paper searched them: `cdm tune`), clipping of
the gradient, no class (that CDM later gained by one says as much).
"""

from cdm.config import sr_stage


def get_config():
    config = sr_stage("imagenet_64_256", 64, 256)
    config.data.source = "tfds:imagenet2012"
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
