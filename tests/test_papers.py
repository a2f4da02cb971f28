"""The configs of the papers: what their docstrings say is what `describe` says, and their chains fit together."""

import ast
import functools
import pathlib
import re

import jax
import numpy as np
import pytest

from cdm import config as configs
from cdm.cascade import Cascade, sample_stage
from cdm.describe import describe
from cdm.images.resize import resize, to_float
from cdm.stage import Stage, flatten, unflatten
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


@pytest.mark.slow
def test_the_stage_to_1024_px_trains_and_samples_at_an_eighth_of_its_width(hasty, lively):
    narrow = Stage(configs.load(FILES["faces_256_1024"], ["--config.model.channels=2"]), ())
    params = lively(jax.eval_shape(narrow.init))
    image = np.random.default_rng(0).integers(0, 256, (1, 1024, 1024, 3), np.uint8)
    batch = {"image": image, "label": np.zeros(1, np.int32), "index": np.zeros(1, np.uint32)}
    loss, _, slope = jax.jit(functools.partial(states.gradient, narrow))(params, batch)
    assert np.isfinite(loss) and all(np.any(leaf) for leaf in jax.tree.leaves(slope["middle_block_1"]))
    # Clipping and Adam know no shapes, and one vector has one program for each of their operations.
    vector, slope = (np.concatenate([np.ravel(leaf) for leaf in flatten(tree).values()]) for tree in (params, slope))
    optimizer = states.optimizer(narrow.config)
    update, _ = optimizer.update(slope, optimizer.init(vector))
    after = vector - narrow.config.train.learning_rate * np.asarray(update)
    assert np.all(np.isfinite(after)) and np.mean(after != vector) > 0.9
    parts = np.split(after, np.cumsum([leaf.size for leaf in flatten(params).values()])[:-1])
    narrow.params = unflatten({name: part.reshape(leaf.shape) for (name, leaf), part in
                               zip(flatten(params).items(), parts)})
    lowres = resize(to_float(image), 256)
    sample = sample_stage(narrow, np.zeros(1, np.int32), lowres=lowres, steps=1)
    assert sample.shape == (1, 1024, 1024, 3) and np.all(np.isfinite(sample)) and sample.std() > 0
