"""base_32 of configs/demo as CDM trained it: eps in 4000 discrete steps, their variance learned by the hybrid loss.

    cdm train --config=experiments/quality/learned.py --workdir=runs/learned
"""

from cdm.config import base_stage


def get_config():
    config = base_stage("base_32", 32)
    config.data.balance = True
    config.data.cache = True
    config.model.channels = 32
    config.model.resample = "between"
    config.diffusion.target = "eps"
    config.diffusion.levels = "table"
    config.diffusion.variance = "learned"
    config.diffusion.schedule = {"name": "discrete_cosine", "timesteps": 4000}
    config.train.batch_size = 16
    config.train.learning_rate = 6e-4
    config.train.decay = "cosine"
    config.checkpoint.every = 5_000
    config.sample.sampler = "ancestral"
    config.sample.steps = 32
    return config
