"""Training: stopped and resumed is never stopped, the average is the average, and a bad step is no step."""

import functools
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from cdm.data.sources import open_source, read_square
from cdm.images.resize import resize, to_float
from cdm.stage import flatten, load_stage
from cdm.training import loop
from cdm.training import run as runs
from cdm.training import state as states
from cdm.training.checkpoints import Checkpoints
from cdm.training.log import Log


def saved(run, images):
    """The whole state of a run's checkpoint."""
    like = jax.eval_shape(functools.partial(states.create, runs.open_run(run)))
    with Checkpoints(run) as checkpoints:
        return jax.device_get(checkpoints.restore(images, like))


def rows(run):
    """The rows of a run's metrics, without the clock's."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines]


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)))


def test_a_run_stopped_and_resumed_ends_as_one_never_stopped(run, run_config, tmp_path):
    run_config.train.images, run_config.checkpoint.keep = 16, 2
    loop.train(run_config, tmp_path / "run")
    assert_equal(saved(tmp_path / "run", 16), saved(run, 16))
    assert rows(tmp_path / "run") == [row for row in rows(run) if row["images"] <= 16]
    run_config.train.images = 32
    loop.train(run_config, tmp_path / "run")
    assert_equal(saved(tmp_path / "run", 32), saved(run, 32))
    assert rows(tmp_path / "run") == rows(run)
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()} == {"24", "32"}


def test_a_run_killed_between_checkpoints_does_the_lost_work_again(run, run_config, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for images in (24, 32):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(images))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as f:
        f.write('{"images": 36, "lo')
    loop.train(run_config, tmp_path / "run")
    assert_equal(saved(tmp_path / "run", 32), saved(run, 32))
    assert rows(tmp_path / "run") == rows(run)


def test_a_finished_run_is_left_as_it_is(run, run_config):
    before, stage = rows(run), loop.train(run_config, run)
    assert rows(run) == before
    assert_equal(stage.params, saved(run, 32).ema)


def test_a_run_keeps_its_config_rows_and_grid(run, run_config):
    stage = runs.open_run(run)
    assert stage.config.to_dict() == run_config.to_dict() and stage.classes == ("animals", "food", "symbols")
    assert [row["images"] for row in rows(run)] == list(range(4, 33, 4))
    for row in rows(run):
        assert np.isfinite(row["loss"]) and row["skipped"] == 0 and len(row["loss_by_bin"]) == 10
    with Image.open(run / "samples" / "000000032.png") as grid:
        assert grid.size == (8 * 8, 2 * 8)


@pytest.mark.parametrize("name, value", [("train.seed", 1), ("model.channels", 16), ("train.batch_size", 8),
                                         ("diffusion.target", "eps"), ("name", "other"), ("train.ema_half_life", 17)])
def test_another_config_is_refused_by_the_name_that_differs(run, run_config, name, value):
    *path, last = name.split(".")
    node = run_config
    for part in path:
        node = node[part]
    node[last] = value
    before = (run / "config.json").read_bytes()
    with pytest.raises(ValueError, match=f"differ: {name}$"):
        loop.train(run_config, run)
    assert (run / "config.json").read_bytes() == before


def test_other_pictures_are_refused(run, run_config, class_folder, tmp_path):
    shutil.copytree(class_folder, tmp_path / "pictures")
    (tmp_path / "pictures" / "food").rename(tmp_path / "pictures" / "drink")
    (tmp_path / "pictures" / "symbols").rename(tmp_path / "pictures" / "signs")
    run_config.data.source = str(tmp_path / "pictures")
    with pytest.raises(ValueError, match="`data.source` must be that of the run: 9 of its 12"):
        loop.train(run_config, run)


def test_a_run_folder_that_can_not_be_is_refused(run_config, tmp_path):
    (tmp_path / "file").write_text("")
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="`workdir`"):
            loop.train(run_config, run)


def test_rows_past_the_checkpoint_and_half_a_line_are_cut(tmp_path):
    log = Log(tmp_path, 0, 100)
    for images in (10, 20, 30):
        log.row(images=images, loss=0.5)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"images": 15, "lo')
    log = Log(tmp_path, 20, 100)
    log.row(images=25, loss=0.25)
    log.close()
    assert [row["images"] for row in rows(tmp_path)] == [10, 20, 25]


@pytest.fixture(scope="module")
def stage(make_stage, run):
    return make_stage(runs.open_run(run).config)


@pytest.fixture(scope="module")
def begun(stage):
    """(step, state before the first image, its parameters lively), made as the loop makes them, so that the session has
    compiled them already."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    everywhere, spread = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    state = jax.jit(functools.partial(states.create, stage), out_shardings=everywhere)()
    params = jax.device_put(stage.params, everywhere)
    step = jax.jit(functools.partial(states.step, stage), donate_argnums=0, in_shardings=(everywhere, spread),
                   out_shardings=everywhere)
    return lambda state, batch: step(jax.tree.map(jnp.copy, state), batch), state._replace(params=params, ema=params)


@pytest.fixture
def step(begun):
    return begun[0]


@pytest.fixture
def start(begun):
    return begun[1]


def batch(first):
    random = np.random.default_rng(0)
    index = np.arange(first, first + 4, dtype=np.uint32)
    image = random.integers(0, 256, (4, 8, 8, 3), np.uint8)
    return {"image": image, "label": (index % 3).astype(np.int32), "index": index}


def test_the_average_is_its_formula(step, start):
    state, ema = start, {name: np.float64(leaf) for name, leaf in flatten(start.ema).items()}
    for images in range(4, 45, 4):
        state, _ = step(state, batch(images - 4))
        keep = 0.5 ** (4 / min(16, 0.05 * images))
        for name, leaf in flatten(state.params).items():
            ema[name] = keep * ema[name] + (1 - keep) * np.float64(leaf)
    for name, leaf in flatten(state.ema).items():
        np.testing.assert_allclose(leaf, ema[name], atol=2e-6, err_msg=name)
    assert not same(state.ema, state.params)


def test_the_first_step_moves_a_parameter_by_the_rate_at_most(step, start, stage):
    state, _ = step(start, batch(0))
    rate = stage.config.train.learning_rate / stage.config.train.warmup
    moved = jax.tree.map(lambda after, before: np.ravel(np.abs(after - before)), state.params, start.params)
    moves = np.concatenate(jax.tree.leaves(moved))
    assert moves.max() <= rate * 1.01 and np.median(moves) > 0.9 * rate  # Adam begins with the gradient's sign


def test_the_rate_warms_up_and_decays_by_its_formula(run_config):
    images = np.arange(0, 40)
    run_config.train.decay = "cosine"
    warm = np.minimum(1, (images + 1) / 8)
    cosine = 0.5 * (1 + np.cos(np.pi * np.minimum(images / 32, 1)))
    np.testing.assert_allclose(states.learning_rate(run_config, images), 3e-3 * warm * cosine, rtol=1e-5, atol=1e-9)
    run_config.train.decay = "none"
    np.testing.assert_allclose(states.learning_rate(run_config, images), 3e-3 * warm, rtol=1e-5)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_step_that_is_not_finite_advances_the_images_and_nothing_else(step, start, poison):
    good, _ = step(start, batch(0))
    params = {**good.params, "out_2": {**good.params["out_2"], "bias": good.params["out_2"]["bias"].at[0].set(poison)}}
    before = good._replace(params=params)
    after, metrics = step(before, batch(4))
    assert not np.isfinite(metrics["loss"])
    for name in ("params", "ema", "optimizer"):
        assert_equal(getattr(after, name), getattr(before, name))
    assert (after.images, after.skipped) == (8, 1) and good.skipped == 0


def test_the_loss_falls_on_a_handful_of_images(step, start):
    state, losses = start, []
    for i in range(300):
        state, metrics = step(state, batch(0) | {"index": batch(4 * i)["index"]})
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-50:]) < 0.8 * np.mean(losses[:50])


def test_an_export_is_the_average_at_its_checkpoint(run, tmp_path):
    runs.export([run], tmp_path / "last")
    runs.export([run], tmp_path / "early", at=16)
    for folder, images in (("last", 32), ("early", 16)):
        stage, state = load_stage(tmp_path / folder), saved(run, images)
        assert stage.facts["images"] == images and stage.classes == ("animals", "food", "symbols")
        assert_equal(stage.params, state.ema)
        assert not same(stage.params, state.params)


def test_a_run_begins_where_its_parent_ended_and_says_so(run, run_config, tmp_path):
    runs.export([run], tmp_path / "parent", at=16)
    run_config.train.init_from, run_config.train.images = str(tmp_path / "parent"), 8
    run_config.train.learning_rate = 1e-12
    child = loop.train(run_config, tmp_path / "run")
    parent = load_stage(tmp_path / "parent")
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), child.params, parent.params)
    shutil.rmtree(tmp_path / "parent")  # who resumes needs it no more
    run_config.train.images = 16
    assert loop.train(run_config, tmp_path / "run").facts == {
        "images": 16, "weights": "ema", "ema_half_life": 16, "init_from": {"sha256": parent.sha256, **parent.facts}}


@pytest.mark.parametrize("begin", ["nowhere", "no stage"])
def test_a_parent_that_is_not_there_leaves_no_run(run_config, tmp_path, begin):
    (tmp_path / "no stage").mkdir()
    run_config.train.init_from = str(tmp_path / begin)
    for _ in range(2):
        with pytest.raises(ValueError, match="`stage` .* must be a stage folder: stage.json is missing"):
            loop.train(run_config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_an_export_of_what_is_not_there_is_one_line(run, tmp_path):
    (tmp_path / "new").mkdir()
    shutil.copy(run / "config.json", tmp_path / "new")
    for folder, at, rule in ((run, 17, "`at` \\(=17\\) must be .*8, 16, 24, 32"),
                             (tmp_path / "new", None, "no checkpoint"), (tmp_path, None, "must be a run folder")):
        with pytest.raises(ValueError, match=rule):
            runs.export([folder], tmp_path / "stage", at=at)
    assert not (tmp_path / "stage").exists()


def test_an_sr_preview_shows_the_input_the_sample_and_the_real_picture(sr_stage, class_folder):
    grid = loop.preview(sr_stage, open_source(str(class_folder)))
    assert grid.shape == (3, 8, 16, 16, 3)
    np.testing.assert_allclose(grid[0], resize(resize(grid[2], 8), 16), atol=1e-5)
    assert np.abs(grid).max(axis=(1, 2, 3, 4))[1] <= 1 and np.abs(grid[1] - grid[2]).mean() > 0.05
    first, last = grid[2][0], grid[2][-1]
    source = open_source(str(class_folder))
    np.testing.assert_array_equal(first, to_float(read_square(source, 0, 16)))
    np.testing.assert_array_equal(last, to_float(read_square(source, len(source) - 1, 16)))


FOUR_DEVICES = """
import json, sys
from cdm import config as configs
from cdm.training import loop
tree = json.loads(open(sys.argv[1]).read())["config"]
tree["train"]["images"], tree["train"]["batch_size"] = 16, int(sys.argv[3])
loop.train(configs.from_dict(tree), sys.argv[2])
"""


def on_four_devices(*arguments):
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", FOUR_DEVICES, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_four_devices_train_the_same_stage_and_one_exports_it(run, tmp_path):
    done = on_four_devices(run / "config.json", tmp_path / "run", 4)
    assert done.returncode == 0, done.stderr
    runs.export([tmp_path / "run"], tmp_path / "stage")
    for name, leaf in flatten(load_stage(tmp_path / "stage").params).items():
        np.testing.assert_allclose(leaf, flatten(saved(run, 16).ema)[name], atol=1e-3, err_msg=name)


@pytest.mark.slow
def test_a_batch_that_the_devices_do_not_divide_is_refused_before_anything_is_written(run, tmp_path):
    done = on_four_devices(run / "config.json", tmp_path / "run", 6)
    assert "`train.batch_size` (=6) must be divisible by the 4 devices" in done.stderr
    assert not (tmp_path / "run").exists()
