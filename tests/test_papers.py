"""The configs of the papers: what their docstrings say is what `describe` says, and their chains fit together."""

import ast
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm import config as configs
from cdm.cascade import Cascade, sample_stage
from cdm.describe import describe
from cdm.images.resize import resize, to_float
from cdm.stage import Stage, flatten, unflatten
from cdm.training import mesh
from cdm.training import state as states

FOLDER = pathlib.Path(__file__).parent.parent / "configs"
FILES = {path.stem: path for folder in ("imagenet", "sr3") for path in sorted((FOLDER / folder).glob("*.py"))}
CLASSES = [f"class {i}" for i in range(1000)]
PUBLISHED = {"faces_16_128": 550, "faces_64_256": 625, "faces_64_512": 625, "faces_256_1024": 150,
             "imagenet_64_256": 625}  # millions of parameters (Saharia et al. 2021)
CHAINS = [("base_32", "sr_64", "sr_128"), ("base_32", "sr_64", "sr_64_256"), ("base_32", "sr_64", "sr_128", "sr_256"),
          ("modern_32", "modern_64", "modern_128", "modern_256"), ("faces_64", "faces_64_256", "faces_256_1024")]
PEAK = 989e12  # FLOP/s of an H100 in bfloat16


def told(name):
    """What a docstring says of its stage, by the words before or behind the number."""
    text = " ".join(ast.get_docstring(ast.parse(FILES[name].read_text())).split())
    patterns = {
        "params": r"([\d.]+) M parameters;", "denoise": r"([\d.]+) GFLOP an evaluation",
        "sample": r"([\d.]+) TFLOP an image by the settings", "train": r"([\d.]+) GFLOP an image of training",
        "state": r"([\d.]+) GB of state", "activations": r"([\d.]+) GB an image more",
        "images": r"([\d,]+) M images are", "total": r"are ([\d.e+]+) FLOP", "hours": r": ([\d,]+) hours of one H100",
        "share": r"at (\d+) % of its 989 TFLOP/s"}
    return {name: float(re.search(pattern, text)[1].replace(",", "")) for name, pattern in patterns.items()}


@functools.cache
def stage(name):
    return Stage(configs.load(FILES[name]), CLASSES)  # the faces know none


@pytest.mark.parametrize("name", FILES)
def test_the_estimate_of_hours_follows_from_what_is_said_before_it(name):
    """The parameters are checked in test_cli."""
    say, config = told(name), stage(name).config
    assert say["images"] == round(config.train.images / 1e6)
    assert say["total"] == pytest.approx(say["train"] * 1e9 * config.train.images, rel=0.05)
    assert say["hours"] == pytest.approx(say["train"] * 1e9 * config.train.images / (PEAK * say["share"] / 100) / 3600,
                                         rel=0.01)
    calls = config.sample.steps * (2 if config.sample.guidance else 1)
    assert say["sample"] == pytest.approx(say["denoise"] * calls / 1e3, rel=0.01)
    assert say["train"] == pytest.approx(3 * say["denoise"], rel=0.02)  # forward, and twice that backward
    states = 5 + len(config.train.ema_sigmas)
    assert say["state"] == pytest.approx(4 * states * say["params"] / 1e3, abs=0.06)


@pytest.mark.slow
def test_describe_says_what_the_docstring_says_of_the_stage_to_1024_px():
    name = "faces_256_1024"
    about = describe(configs.load(FILES[name], ["--config.dtype=bfloat16"]), CLASSES)
    say, cost, memory = told(name), about["flops_per_image"], about["memory"]
    for value, number in (
            (say["params"] * 1e6, about["params"]), (say["denoise"] * 1e9, cost["denoise"]),
            (say["sample"] * 1e12, cost["sample"]), (say["train"] * 1e9, cost["train"]),
            (say["activations"] * 1e9, memory["activations_per_image"])):
        assert value == pytest.approx(number, rel=0.01)  # another version of XLA may count a little otherwise
    text = " ".join(ast.get_docstring(ast.parse(FILES[name].read_text())).split())
    for value, number in zip(re.search(r"makes it ([\d.]+) GB at its peak, and sampling ([\d.]+) GB", text).groups(),
                             (memory["peak"]["train"], memory["peak"]["denoise"])):
        assert float(value) == pytest.approx(number / 1e9, abs=0.06)


@pytest.mark.parametrize("name, millions", PUBLISHED.items())
def test_the_networks_of_sr3_have_the_published_parameters(name, millions):
    assert told(name)["params"] == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("names", CHAINS, ids="-".join)
def test_a_chain_fits_together(names):
    cascade = Cascade([stage(name) for name in names])
    assert cascade.stages[-1].size in (128, 256, 1024)
    assert cascade.classes == (() if "faces_64" in names else tuple(CLASSES))
    cascade.check(cascade.settings())
    if cascade.settings()[1].aug_level:  # which the stage before can stop at
        cascade.check(cascade.settings(hand_over=["truncated"] + ["non_truncated"] * (len(names) - 2)))


@pytest.fixture
def hasty():
    """Programs that run once are compiled without care."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class OneVector(Stage):
    """A stage whose parameters are one vector: what a step does to each of hundreds of arrays is then compiled once."""

    def __init__(self, config, classes, shapes):
        super().__init__(config, classes)
        self._shapes = flatten(shapes)

    def tree(self, vector):
        parts = jnp.split(vector, np.cumsum([leaf.size for leaf in self._shapes.values()])[:-1])
        return unflatten({name: part.reshape(leaf.shape) for part, (name, leaf) in zip(parts, self._shapes.items())})

    def loss(self, params, *arguments, **named):
        return super().loss(self.tree(params), *arguments, **named)


@pytest.mark.slow
def test_the_stage_to_1024_px_trains_and_samples_at_an_eighth_of_its_width(hasty, lively):
    config = configs.load(FILES["faces_256_1024"], [f"--config.{name}" for name in (
        "model.channels=2", "train.batch_size=1", "train.warmup=1")])
    narrow = Stage(config, ())
    before = lively(jax.eval_shape(narrow.init))
    whole = OneVector(config, (), before)
    state = states.create(whole, np.concatenate([np.ravel(leaf) for leaf in flatten(before).values()]))
    image = np.random.default_rng(0).integers(0, 256, (1, 1024, 1024, 3), np.uint8)
    batch = {"image": image, "label": np.zeros(1, np.int32), "index": np.zeros(1, np.uint32), "stop": np.zeros(1, bool)}
    state, metrics = jax.jit(functools.partial(states.step, whole, mesh.Partition(config), None))(state, batch)
    assert state.images == 1 and state.skipped == 0 and state.totals["loss"] > 0 and metrics["gradient_norm"] > 0
    narrow.params = jax.tree.map(np.asarray, whole.tree(state.params))
    for name, leaf in flatten(narrow.params).items():  # by the rate at most, as Adam's first step is, and everywhere
        moved = np.abs(leaf - flatten(before)[name])
        assert np.any(moved > 0) and np.all(moved < 1.01 * config.train.learning_rate), name
    np.testing.assert_allclose(state.ema, state.params, atol=1e-6)  # whose half-life is a twentieth of an image yet
    sample = sample_stage(narrow, np.zeros(1, np.int32), lowres=resize(to_float(image), 256), steps=1)
    assert sample.shape == (1, 1024, 1024, 3) and np.all(np.isfinite(sample)) and sample.std() > 0
