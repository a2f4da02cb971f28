"""Training: stopped and resumed is never stopped, the average is the average, and a bad step is no step."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cdm import cli
from cdm import config as configs
from cdm.cascade import load_cascade
from cdm.data.reading import read_square
from cdm.data.sources import open_source
from cdm.describe import describe
from cdm.images.resize import resize, to_float
from cdm.stage import Stage, flatten, load_stage
from cdm.training import doctor, ema, loop, speed
from cdm.training import run as runs
from cdm.training import state as states
from cdm.training.checkpoints import Checkpoints
from cdm.training.mesh import Partition


def saved(run, images):
    """The whole state of a run's checkpoint."""
    like = jax.eval_shape(functools.partial(states.create, runs.open_run(run)))
    with Checkpoints(run) as checkpoints:
        return states.TrainState(**jax.device_get(checkpoints.restore(images, like._asdict())))


def rows(run):
    """The rows of a run's metrics, without the clock's."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "speed"} for line in lines]


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


def test_without_labels_a_stage_of_a_set_of_classes_has_none(run_config, tmp_path):
    run_config.train.images, run_config.data.labels = 4, False
    stage = loop.train(run_config, tmp_path / "run")
    assert stage.classes == runs.open_run(tmp_path / "run").classes == () and "label_emb" not in stage.params
    runs.agree(tmp_path / "run", run_config, stage.classes)  # it may go on


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


def test_pictures_that_can_not_be_read_leave_no_run(run_config, tmp_path):
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    (tmp_path / "pictures" / "cats" / "0.png").write_bytes(b"no picture")
    run_config.data.source = str(tmp_path / "pictures")
    with pytest.raises(ValueError, match="`data.source` must hold pictures; none of its 1 files can be read; cats/0.png"):
        loop.train(run_config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.fixture(scope="module")
def stage(make_stage, run):
    return make_stage(runs.open_run(run).config)


@pytest.fixture(scope="module")
def begun(stage):
    """(step, state before the first image, its parameters lively), made as the loop makes them, so that the session has
    compiled them already."""
    partition = Partition(stage.config)
    state = jax.jit(functools.partial(states.create, stage), out_shardings=partition.everywhere)()
    params = jax.device_put(stage.params, partition.everywhere)
    step = loop._compile(stage, None, partition, state)[0]
    power = dict.fromkeys(state.power, params)
    return (lambda state, batch: step(jax.tree.map(jnp.copy, state), partition.batch(batch)),
            state._replace(params=params, ema=params, power=power))


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
    return {"image": image, "label": (index % 3).astype(np.int32), "index": index, "stop": np.zeros(4, bool)}


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
    assert metrics["streak"] == after.streak == 1
    for name in ("params", "ema", "power", "optimizer"):
        assert_equal(getattr(after, name), getattr(before, name))
    assert (after.images, after.skipped) == (8, 1) and good.skipped == 0


def test_the_loss_falls_on_a_handful_of_images(step, start):
    state, losses = start, []
    for i in range(300):  # a row is every batch
        state, _ = step(state, batch(0) | {"index": batch(4 * i)["index"]})
        losses.append(float(state.totals["loss"]))
    assert np.mean(losses[-50:]) < 0.8 * np.mean(losses[:50])


def test_an_export_is_the_average_at_its_checkpoint(run, tmp_path):
    runs.export([run], tmp_path / "last")
    runs.export([run], tmp_path / "early", at=16)
    for folder, images in (("last", 32), ("early", 16)):
        stage, state = load_stage(tmp_path / folder), saved(run, images)
        assert stage.facts["images"] == images and stage.classes == ("animals", "food", "symbols")
        assert_equal(stage.params, state.ema)
        assert not same(stage.params, state.params)


def test_a_cascade_is_exported_with_a_guide(run, tmp_path, capsys):
    runs.export([run], tmp_path / "early", at=8)
    command = ["export", str(run), "--out", str(tmp_path / "cascade"), "--guide"]
    assert cli.main([*command, f"base_8={tmp_path / 'early'}"]) == 0
    cascade, early, last = load_cascade(tmp_path / "cascade"), load_stage(tmp_path / "early"), saved(run, 32)
    assert_equal(cascade.guides["base_8"].params, early.params)
    assert_equal(cascade.stages[0].params, last.ema)
    assert cli.main([*command[:-2], str(tmp_path / "other"), "--guide", f"sr_9={run}"]) == 2
    assert "`guides` (=sr_9) must name a stage of base_8" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


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


def test_what_is_looked_at_of_a_run_is_degraded_as_in_training(sr_stage, class_folder):
    tree = sr_stage.config.to_dict()
    tree["degrade"]["kind"] = "photo"
    photo, source = Stage(configs.from_dict(tree), sr_stage.classes, sr_stage.params), open_source(str(class_folder))
    for seen in (lambda stage: loop.preview(stage, source)[0], lambda stage: doctor._pictures(stage, source, 8).lowres):
        assert np.abs(seen(sr_stage) - seen(photo)).mean() > 0.02


@pytest.mark.parametrize("parts", [2, 4])
def test_an_accumulated_gradient_is_that_of_the_batch(stage, parts):
    tree = stage.config.to_dict()
    tree["train"]["accumulate"] = parts
    split = Stage(configs.from_dict(tree), stage.classes)
    examples = {name: value for name, value in batch(0).items() if name != "stop"}
    whole, sums = (jax.jit(functools.partial(states.gradient, one))(stage.params, examples) for one in (stage, split))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(sums)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_rematerialised_level_keeps_less_and_gives_the_same_gradient(make_stage, tiny_sr, lively):
    image, label = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8), np.zeros(4, np.int32)
    kept, slopes = [], []
    for remat in ((), (16, 8)):
        tiny_sr.model.remat = remat
        one = make_stage(tiny_sr)

        def loss(params, one=one):
            return one.loss(params, image, label, np.arange(4, dtype=np.uint32), 0)[0]

        leaves = jax.tree.leaves(jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], one.params))
        kept.append(sum(leaf.size for leaf in leaves))
        slopes.append(jax.jit(jax.grad(loss))(one.params))
    assert kept[1] < 0.7 * kept[0]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *slopes)


def test_the_powers_are_their_formula(step, start):
    state, power = start, {name: flatten(jax.device_get(tree)) for name, tree in start.power.items()}
    for images in range(4, 45, 4):
        state, _ = step(state, batch(images - 4))
        for name, leaves in power.items():
            keep = (1 - 4 / images) ** (ema.gamma(float(name)) + 1)
            for leaf, value in flatten(state.params).items():
                leaves[leaf] = keep * np.float64(leaves[leaf]) + (1 - keep) * np.float64(value)
    assert power.keys() == {"0.05", "0.1"}
    for name, leaves in power.items():
        for leaf, value in flatten(state.power[name]).items():
            np.testing.assert_allclose(value, leaves[leaf], atol=2e-6, err_msg=leaf)


def test_an_export_of_another_sigma_is_rebuilt_and_of_a_stored_one_is_it(run, tmp_path):
    runs.export([run], tmp_path / "stored", ema_sigma=0.1)
    runs.export([run], tmp_path / "rebuilt", ema_sigma=0.08)
    state, stage = saved(run, 32), load_stage(tmp_path / "stored")
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), stage.params, state.power["0.1"])
    assert stage.facts == {"images": 32, "weights": "power-function ema", "ema_sigma": 0.1}
    # Between the two that were stored, as its length is.
    rebuilt, low, high = (flatten(tree) for tree in (load_stage(tmp_path / "rebuilt").params, state.power["0.05"],
                                                     state.power["0.1"]))
    far = sum(np.sum((high[name] - low[name]) ** 2) for name in low)
    for end in (low, high):
        assert 0 < sum(np.sum((rebuilt[name] - end[name]) ** 2) for name in low) < far
    for sigma, at, rule in ((0.3, None, "`ema_sigma` \\(=0.3\\) must lie between"), (0.1, 17, "there are: 16, 32")):
        with pytest.raises(ValueError, match=rule):
            runs.export([run], tmp_path / "none", at=at, ema_sigma=sigma)


@pytest.mark.parametrize("every, keep_every, kept", [(8, 16, [16, 32]), (10, 10, [12, 20, 32]), (8, 12, [16, 24, 32])])
def test_checkpoints_at_a_multiple_are_kept(run_config, tmp_path, every, keep_every, kept):
    """The first at or past one: neither batches nor checkpoints need end there."""
    run_config.checkpoint.every, run_config.checkpoint.keep, run_config.checkpoint.keep_every = every, 1, keep_every
    loop.train(run_config, tmp_path / "run")
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.all() == kept


def test_a_snapshot_that_a_kill_took_is_made_again(run, run_config, tmp_path):
    """The checkpoint of the same images was whole when the process was killed, the snapshot was not."""
    shutil.copytree(run, tmp_path / "run")
    for images in (16, 32):
        shutil.rmtree(tmp_path / "run" / "snapshots" / str(images))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "32"), shutil.rmtree(tmp_path / "run" / "checkpoints" / "24")
    loop.train(run_config, tmp_path / "run")
    like = jax.eval_shape(functools.partial(states.create, runs.open_run(run))).power
    for images in (16, 32):
        old, new = [], []
        for folder, found in ((run, old), (tmp_path / "run", new)):
            with Checkpoints(folder, "snapshots") as snapshots:
                found.append(jax.device_get(snapshots.restore(images, like)))
        assert_equal(old, new)


def test_a_run_that_diverges_stops_and_says_where(run_config, tmp_path):
    run_config.train.learning_rate, run_config.train.clip, run_config.train.max_skipped = 1e30, 0.0, 2
    run_config.train.images = 64
    with pytest.raises(FloatingPointError, match="`train.max_skipped` .*examples [0-9]+ to [0-9]+ .* at [0-9]+ images"):
        loop.train(run_config, tmp_path / "run")


def test_a_checkpoint_of_another_network_is_refused_and_left_alone(run, run_config, tmp_path):
    run_config.model.channels = 16
    loop.train(run_config, tmp_path / "run")
    shutil.copytree(run / "checkpoints" / "32", tmp_path / "run" / "checkpoints" / "40")
    run_config.train.images = 64
    with pytest.raises(ValueError, match="`workdir` .* a checkpoint of another network: \\S+ is .* at 40 images"):
        loop.train(run_config, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "40").exists()


def test_a_run_tells_its_speed(run):
    for line in (run / "metrics.jsonl").read_text().splitlines():
        clock = json.loads(line)["speed"]
        assert clock["images_per_second"] > 0 and 0 <= clock["data_wait"] <= 1 and clock["peak_memory_bytes"] > 1e7
        assert clock["flops_per_second"] / clock["images_per_second"] == pytest.approx(
            speed.flops_per_image(runs.open_run(run)))
        assert clock["mfu"] is None  # nobody states the peak of this CPU
    lines = [json.loads(line)["speed"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["compile_seconds"] > 0 and not any(line["compile_seconds"] for line in lines[1:])


def test_model_flops_are_three_forward_passes_of_what_is_trained_on(tiny_sr):
    stage = Stage(tiny_sr, ("a",))
    whole = speed.flops_per_image(stage)
    tiny_sr.data.crop = 8
    assert speed.flops_per_image(Stage(tiny_sr, ("a",))) == pytest.approx(whole / 4, rel=0.1)
    assert whole == pytest.approx(3 * describe(tiny_sr, ("a",))["flops_per_image"]["denoise"], rel=0.02)
