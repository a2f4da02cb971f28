"""What is timed of ours: functions without arguments that return when all is computed."""

import functools
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from cdm import config as configs
from cdm import devices
from cdm.cascade import Cascade, sample_stage, turn
from cdm.data.sources import EMBEDDED, open_source
from cdm.describe import program
from cdm.stage import Stage
from cdm.training import mesh
from cdm.training import state as states
from cdm.upscaling import enlarge

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
IMAGENET = tuple(map(str, range(1000)))  # classes by number: how many there are makes the network


class Ours:
    """A stage of a config, with fresh parameters unless nothing but training steps are wanted, which have their own."""

    def __init__(self, config, classes, seed=0, drawn=True):
        with config.unlocked():
            config.train.ema_sigmas = ()  # one average, as the other side has
        self.stage = Stage(config, classes)
        if drawn:
            self.stage.params = jax.jit(self.stage.init)()
        self.random = np.random.default_rng(seed)

    @property
    def parameters(self):
        return self.stage.parameters

    @property
    def flops(self):
        """Of one call of the network for one picture."""
        x, label, lowres = self._inputs(1)
        level = np.zeros(1, np.float32)
        return program(self.stage.predict, self.stage.params, x, level, label, lowres,
                       None if lowres is None else level)[0]

    def _inputs(self, batch, side=None):
        stage, side = self.stage, side or self.stage.size
        noise = functools.partial(self.random.standard_normal, dtype=np.float32)
        small = stage.lowres_size and side * stage.lowres_size // stage.size
        lowres = noise((batch, small, small, 3)) if small else None
        label = self.random.integers(0, max(len(stage.classes), 1), batch).astype(np.int32)
        return noise((batch, side, side, 3)), label, lowres

    def forward(self, batch, side=None):
        """One call of the network as a denoiser, at the stage's size unless another is said, on the devices that a
        sampler has."""
        x, label, lowres = self._inputs(batch, side)
        level = np.zeros(batch, np.float32)
        over = devices.mesh(batch, self.stage.params)
        split, everywhere = devices.shardings(over)
        params = jax.device_put(self.stage.params, everywhere)
        given = jax.device_put((x, level, label, lowres, None if lowres is None else level), split)
        run = devices.split(self.stage.predict, over, (everywhere.spec, *[split.spec] * 5), split.spec,
                            turn(self.stage))
        return lambda: jax.block_until_ready(run(params, *given))

    def step_of(self, batch, over=None):
        """(the training step, jitted as `cdm train` does, on one device unless told; what makes its first state; the
        partition of both; the shapes of a state, with where they lie)."""
        with self.stage.config.unlocked():
            self.stage.config.train.batch_size = batch
        partition = mesh.Partition(self.stage.config, over or jax.devices()[:1])
        create = functools.partial(states.create, self.stage)
        shapes = jax.eval_shape(create)
        shardings = partition.shardings(shapes)  # of every state, or step two compiles anew
        step = jax.jit(functools.partial(states.step, self.stage, partition, None), donate_argnums=0,
                       out_shardings=(shardings, partition.everywhere))
        shapes = jax.tree.map(lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes,
                              shardings)
        return step, jax.jit(create, out_shardings=shardings), partition, shapes

    def _step(self, batch, over=None):
        """(the training step; what makes its first state; a batch)."""
        step, create, partition, _ = self.step_of(batch, over)
        side = self.stage.size
        given = {"image": self.random.integers(0, 256, (batch, side, side, 3), np.uint8),
                 "label": self.random.integers(0, max(len(self.stage.classes), 1), batch).astype(np.int32),
                 "index": np.arange(batch, dtype=np.uint32), "stop": np.zeros(batch, bool)}
        return step, create, partition.batch(given)

    def ahead(self, batch):
        """What starts `train`, its step compiled before there is a state."""
        step, create, given = self._step(batch)
        return functools.partial(_steps, step.lower(create.eval_shape(), given).compile(), create, given)

    def train(self, batch, over=None):
        """A training step: forward, backward, clipping, Adam, the average."""
        return _steps(*self._step(batch, over))

    def host_seconds(self, batch, repeats):
        """Until a training step has been handed over, with nothing before it to wait for: the median."""
        step, create, given = self._step(batch)
        state, times = create(), []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            state, metrics = step(state, given)
            times.append(time.perf_counter() - began)
            jax.block_until_ready((state, metrics))
        return statistics.median(times[1:])

    def compile_seconds(self, batch):
        """Of the training step: to trace and lower it; to compile it; and the same from the cache on the disk."""
        step, create, given = self._step(batch)
        state, found = create(), {}
        with tempfile.TemporaryDirectory() as cache:
            before = jax.config.jax_compilation_cache_dir
            jax.config.update("jax_compilation_cache_dir", cache)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            compilation_cache.reset_cache()
            for name in ("compile", "from_cache"):
                jax.clear_caches()
                began = time.perf_counter()
                lowered = step.lower(state, given)
                found["lower"] = time.perf_counter() - began
                lowered.compile()
                found[name] = time.perf_counter() - began - found["lower"]
            jax.config.update("jax_compilation_cache_dir", before)
            compilation_cache.reset_cache()
        return found

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


def _steps(step, create, given):
    """A function that takes one step after the other from a first state."""
    state = create()

    def run():
        nonlocal state
        state, metrics = step(state, given)
        jax.block_until_ready((state, metrics))

    return run


def cascade(nets, batch, name, steps):
    """Pictures of all stages one after the other, `steps` a number of each, as `cdm sample` has it."""
    chain, classes = Cascade([net.stage for net in nets]), np.arange(batch) % len(nets[0].stage.classes)
    return lambda: chain.sample(classes, batch_size=batch, sampler=name, steps=steps, guidance=0.0, aug_level=0.0)


def ours_of(name, overrides=(), drawn=True):
    """Ours of a stage of configs/, by the name of its file; of configs/demo unless a folder is said."""
    folder, stage = f"demo/{name}".split("/")[-2:]
    classes = IMAGENET if folder == "imagenet" else open_source(EMBEDDED).classes if folder == "demo" else ()
    return Ours(configs.load(CONFIGS / folder / f"{stage}.py", overrides), classes, drawn=drawn)
