"""What is timed of ours: functions without arguments that return when all is computed."""

import functools

import jax
import numpy as np

from cdm.cascade import sample_stage
from cdm.describe import program
from cdm.stage import Stage, flatten
from cdm.training import mesh
from cdm.training import state as states
from cdm.upscaling import enlarge


class Ours:
    """A stage of a config, with fresh parameters."""

    def __init__(self, config, classes, seed=0):
        with config.unlocked():
            config.train.ema_sigmas = ()  # one average, as the other side has
        self.stage = Stage(config, classes)
        self.stage.params = jax.jit(self.stage.init)()
        self.random = np.random.default_rng(seed)

    @property
    def parameters(self):
        return sum(leaf.size for leaf in flatten(self.stage.params).values())

    @property
    def flops(self):
        """Of one call of the network for one picture."""
        x, label, lowres = self._inputs(1)
        level = np.zeros(1, np.float32)
        return program(self.stage.predict, self.stage.params, x, level, label, lowres,
                       None if lowres is None else level)[0]

    def _inputs(self, batch):
        stage = self.stage
        noise = functools.partial(self.random.standard_normal, dtype=np.float32)
        lowres = noise((batch, stage.lowres_size, stage.lowres_size, 3)) if stage.lowres_size else None
        label = self.random.integers(0, max(len(stage.classes), 1), batch).astype(np.int32)
        return noise((batch, stage.size, stage.size, 3)), label, lowres

    def forward(self, batch):
        """One call of the network as a denoiser at the stage's size."""
        x, label, lowres = jax.device_put(self._inputs(batch))
        level = jax.device_put(np.zeros(batch, np.float32))
        run = jax.jit(self.stage.predict)
        return lambda: jax.block_until_ready(
            run(self.stage.params, x, level, label, lowres, None if lowres is None else level))

    def train(self, batch):
        """A training step: forward, backward, clipping, Adam, the average."""
        with self.stage.config.unlocked():
            self.stage.config.train.batch_size = batch
        partition = mesh.Partition(self.stage.config)
        state = jax.jit(functools.partial(states.create, self.stage))()
        step = jax.jit(functools.partial(states.step, self.stage, partition, None), donate_argnums=0)
        side = self.stage.size
        given = {"image": self.random.integers(0, 256, (batch, side, side, 3), np.uint8),
                 "label": self._inputs(batch)[1], "index": np.arange(batch, dtype=np.uint32),
                 "stop": np.zeros(batch, bool)}
        given = partition.batch(given)

        def run():
            nonlocal state
            state, metrics = step(state, given)
            jax.block_until_ready((state, metrics))

        return run

    def sampler(self, batch, name, steps):
        """A whole run of a sampler, as `cdm sample` has it."""
        _, label, lowres = self._inputs(batch)
        return lambda: np.asarray(sample_stage(self.stage, label, lowres=lowres, sampler=name, steps=steps,
                                               guidance=0.0))

    def upscale(self, side, name, steps):
        """A picture to side x side through windows, as `cdm upscale` has it."""
        small = side * self.stage.lowres_size // self.stage.size
        image = self.random.uniform(-1, 1, (small, small, 3))
        return lambda: enlarge(image, [self.stage], (side, side), sampler=name, steps=steps, aug_level=0.0)
