"""The base stage at 64x64 of SR3's unconditional chain of faces 64 -> 256 -> 1024 (Saharia et al. 2021): before
faces_64_256 and faces_256_1024.

    cdm data pack ffhq/images1024x1024 --size 64 --out ffhq_64
    cdm train --config=configs/sr3/faces_64.py --workdir=runs/faces_64 --config.data.source=ffhq_64

62.5 M parameters; 81 GFLOP an evaluation, 81.12 TFLOP an image by the settings below, 243 GFLOP an image of training:
1.8 GB of state and, in bfloat16, 0.43 GB an image more (`cdm describe`). 128 M images are 3.1e+19 FLOP: 22 hours of one
H100 at 40 % of its 989 TFLOP/s, which is assumed: it has not been run.

Expected: the paper shows pictures of the chain, and no number that we know of. Neither does it tell this network, which
is ours: of SR3's family, trained as its stages, but for half as long, on the squared error and with dropout, as the
pictures are few.
"""

from cdm.config import base_stage


def get_config():
    config = base_stage("faces_64", 64)
    config.data.source = "ffhq"
    config.data.labels = False
    config.model.channels = 128
    config.model.multipliers = (1, 2, 2, 2)
    config.model.blocks = 4
    config.model.attention = (16,)
    config.model.heads = 1
    config.model.dropout = 0.1
    config.model.embedding = "additive"
    config.model.skip_rescale = True
    config.diffusion.target = "eps"
    config.diffusion.levels = "interval"
    config.diffusion.schedule = {"name": "linear_beta", "timesteps": 2000, "beta_start": 1e-6, "beta_end": 1e-2}
    config.train.images = 500_000 * 256
    config.train.batch_size = 256
    config.train.learning_rate = 1e-4
    config.train.warmup = 2_560_000
    config.train.class_dropout = 0.0
    config.train.ema_half_life = 1_770_000
    config.checkpoint.every = 1_000_000
    config.checkpoint.snapshots = 6_400_000
    config.log.every = 100_000
    config.log.grid = 5_000_000
    config.sample.sampler = "ancestral"
    config.sample.variance = "large"
    config.sample.steps = 1000
    return config
