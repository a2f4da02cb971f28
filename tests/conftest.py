"""Tiny stages, a tiny cascade, a tiny data set and a tiny run, shared by the session: compiling is the cost."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
import uvicorn
from PIL import Image, PngImagePlugin

from cdm import config as configs
from cdm.cascade import Cascade
from cdm.evals.study import design
from cdm.evals.study.app import make_app
from cdm.evals.study.pictures import Folders
from cdm.evals.study.store import create
from cdm.stage import Stage, flatten, unflatten
from cdm.training import loop


def pytest_configure(config):
    """Warnings are errors; slow laws can be left out with -m "not slow". One device, whichever test comes first."""
    jax.config.update("jax_num_cpu_devices", 1)
    config.addinivalue_line("markers", "slow: takes more than a quarter of a minute")
    config.addinivalue_line("filterwarnings", "error")


CLASSES = ("animals", "food", "symbols")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Programs that several tests compile anew are compiled once a session."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """What the command line sets for its process stays inside the test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def run_script(script, *arguments, **env):
    """What a script prints, in a process of its own that has a CPU, as JSON."""
    flags = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    env = {**{name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}, "XLA_FLAGS": flags,
           "JAX_PLATFORMS": "cpu", **env}
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def tiny(config):
    """The smallest network that has every part, and little of everything else."""
    with config.unlocked():
        config.dtype = "float32"
        config.model.channels, config.model.multipliers, config.model.blocks = 8, (1, 2), 1
        config.model.attention, config.model.heads = (config.size // 2,), 2
        config.train.images, config.train.batch_size, config.train.warmup = 32, 4, 8
        config.train.learning_rate, config.train.ema_half_life = 3e-3, 16
        config.checkpoint.every, config.checkpoint.keep, config.checkpoint.snapshots = 8, 10, 16
        config.log.every, config.log.grid = 4, 1_000_000
        config.sample.steps, config.sample.sampler = 4, "ancestral"
        if "augment" in config:
            config.model.attention = ()
            config.augment.max_level = 0.5
    return config


@pytest.fixture
def tiny_base():
    """A config that a test may change: 8 px, with attention."""
    return tiny(configs.base_stage("base_8", 8))


@pytest.fixture
def tiny_sr():
    """A config that a test may change: 8 to 16 px, convolutional."""
    return tiny(configs.sr_stage("sr_16", 8, 16))


@pytest.fixture
def tiny_sr2():
    """A config that a test may change: 16 to 32 px, convolutional."""
    return tiny(configs.sr_stage("sr_32", 16, 32))


def _lively(shapes, seed=0):
    """Random parameters in the shapes of a tree, none of them zero, so that every part of a network has a say."""
    random, params = np.random.default_rng(seed), {}
    for name, leaf in flatten(shapes).items():
        value = random.normal(size=leaf.shape).astype(np.float32)
        if name.endswith("/kernel"):
            value /= np.sqrt(np.prod(leaf.shape[:-1]))
        elif name.endswith(("/scale", "/bias")):
            value = 0.1 * value + name.endswith("/scale")
        params[name] = np.asarray(value, np.float32)
    return unflatten(params)


@pytest.fixture(scope="session")
def lively():
    """lively(shapes, seed) -> parameters: see `_lively`."""
    return _lively


@pytest.fixture(scope="session")
def make_stage():
    """make_stage(config, seed) -> a Stage with lively parameters."""

    def make(config, seed=0, classes=CLASSES):
        stage = Stage(config, classes)
        stage.params = _lively(jax.eval_shape(stage.init), seed)
        return stage

    return make


@pytest.fixture(scope="session")
def base_stage(make_stage):
    return make_stage(tiny(configs.base_stage("base_8", 8)))


@pytest.fixture(scope="session")
def sr_stage(make_stage):
    return make_stage(tiny(configs.sr_stage("sr_16", 8, 16)), seed=1)


@pytest.fixture(scope="session")
def stage_folder(sr_stage, tmp_path_factory):
    """The folder of `sr_stage`."""
    folder = tmp_path_factory.mktemp("stages") / "sr_16"
    sr_stage.save(folder)
    return folder


@pytest.fixture(scope="session")
def cascade(base_stage, sr_stage, make_stage):
    """8 -> 16 -> 32 px, every sampler's noise and every input of consequence."""
    return Cascade([base_stage, sr_stage, make_stage(tiny(configs.sr_stage("sr_32", 16, 32)), seed=2)])


@pytest.fixture(scope="session")
def class_folder(tmp_path_factory):
    """A folder of class folders with a few pictures each, none of them square."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for i in range(3 + label):
            blocks = random.integers(0, 256, (4, 3, 3), np.uint8)
            Image.fromarray(blocks).resize((20, 16), Image.Resampling.BICUBIC).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def run_config(class_folder):
    """A config that a test may change: that of the fixture `run`."""
    return _run_config(class_folder)


def _run_config(class_folder):
    config = tiny(configs.base_stage("base_8", 8))
    config.data.source = str(class_folder)
    config.model.multipliers, config.model.attention = (1,), ()  # a run is long to compile, whatever its network
    return config


@pytest.fixture(scope="session")
def run(tmp_path_factory, class_folder):
    """The folder of a tiny run: 32 images in batches of 4, a checkpoint every 8."""
    folder = tmp_path_factory.mktemp("runs") / "base_8"
    loop.train(_run_config(class_folder), folder)
    return folder


@pytest.fixture(scope="session")
def study_folders(tmp_path_factory):
    """Folders of six pictures of 16x12: real (JPEG), methods a (PNG with a comment) and b (WebP), lowres of 8x6."""
    folder, random = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    comment = PngImagePlugin.PngInfo()
    comment.add_text("made by", "a")
    for i in range(6):
        noise = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        for name, ending, image, options in (
                ("real", "jpg", noise, {}), ("a", "png", noise.convert("L").convert("RGB"), {"pnginfo": comment}),
                ("b", "webp", Image.new("RGB", (16, 12), (40 * i, 90, 90)), {}),
                ("lowres", "png", noise.resize((8, 6)), {})):
            (folder / name / "set").mkdir(parents=True, exist_ok=True)
            image.save(folder / name / "set" / f"{i}.{ending}", **options)
    return folder


@pytest.fixture
def make_study(study_folders, tmp_path):
    """make_study(task, path=None, methods=("a", "b"), **protocol) -> (Store, its path), of `study_folders`."""
    stores = []

    def make(task, path=None, methods=("a", "b"), **protocol):
        path = path or tmp_path / f"study_{len(stores)}.sqlite"
        folders = Folders(study_folders / "real", {name: study_folders / name for name in methods},
                          study_folders / "lowres" if task == 1 else None)
        stores.append(create(path, design.protocol(folders, task, **protocol), folders))
        return stores[-1], path

    yield make
    for store in stores:
        store.close()


@pytest.fixture(scope="session")
def serving():
    """serving(store, port=0): a context that is the address of a server of the store, in a thread."""

    @contextlib.contextmanager
    def serve(store, port=0):
        with socket.create_server(("127.0.0.1", port)) as listening:
            server = uvicorn.Server(uvicorn.Config(make_app(store, "Ada <ada@example.org>"), log_level="warning"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join()

    return serve


class Convolution:
    """The interface of an extractor of evals with the smallest network: one random 3x3 convolution, rectified, pooled."""

    name, sha256, resize, dim = "convolution", "0" * 64, "none", 6
    _kernel = np.random.default_rng(0).normal(size=(27, 11)).astype(np.float32)
    _kernel -= _kernel.mean(0)  # texture, not brightness

    def __init__(self):
        self.images = 0  # how many went through

    def __call__(self, images):
        assert images.dtype == np.uint8
        self.images += len(images)
        windows = np.lib.stride_tricks.sliding_window_view(images.astype(np.float32) / 100, (3, 3), axis=(1, 2))
        found = np.maximum(windows.reshape(*windows.shape[:3], 27) @ self._kernel, 0).mean((1, 2))
        return {"pool": found[:, :6], "logits": found[:, 6:]}


@pytest.fixture
def extractor():
    return Convolution()


@pytest.fixture(scope="session")
def convolution():
    """One for all."""
    return Convolution()


@pytest.fixture(scope="session")
def smooth():
    """smooth(n, seed, size) -> [n, size, size, 3] uint8 pictures, no two alike."""

    def make(n, seed=0, size=16):
        blocks = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), np.uint8)
        return np.stack([np.asarray(Image.fromarray(b).resize((size, size), Image.Resampling.BICUBIC)) for b in blocks])

    return make
