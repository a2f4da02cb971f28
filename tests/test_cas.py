"""The classification accuracy score: separable classes are learnt, chance is chance, and a stop changes nothing."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from PIL import Image

from cdm.data.sources import open_source
from cdm.evals import cas, classifier
from cdm.evals.cas import aligned, digest, score, summary
from cdm.evals.networks import resnet
from cdm.training.checkpoints import Checkpoints
from cdm.training.stop import Stopped

CLASSES = ("Rows", "columns", "check-board")
TINY = dict(network="tiny", batch_size=32, augment="none")


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """The small network, smaller and quicker to learn."""
    resnet.ARCHITECTURES["tiny"] = {**resnet.ARCHITECTURES["small"], "depths": (1,), "width": 8}
    cas.NETWORKS["tiny"] = {**cas.NETWORKS["small"], "learning_rate": 1.0}
    yield
    del resnet.ARCHITECTURES["tiny"], cas.NETWORKS["tiny"]


def separable(folder, counts, seed=0, classes=CLASSES):
    """Class folders of 8x8 noise with lines along the rows, along the columns, or both."""
    random, odd = np.random.default_rng(seed), np.arange(8) % 2
    patterns = np.stack(np.broadcast_arrays(odd[:, None], odd[None], odd[:, None] ^ odd))
    for pattern, name, count in zip(patterns, classes, counts):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = random.integers(0, 120, (8, 8, 3)) + 100 * pattern[..., None]
            Image.fromarray(image.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """(generated, real): folders of the same classes, spelt differently."""
    folder = tmp_path_factory.mktemp("sets")
    return (separable(folder / "generated", (20, 20, 20)),
            separable(folder / "real", (30, 20, 10), 1, ("rows", "Columns", "Check Board")))


@pytest.fixture(scope="module")
def scored(sets, tmp_path_factory):
    """(card, folder) of a straight run."""
    run = tmp_path_factory.mktemp("cas") / "run"
    return score(*sets, run, train_images=640, **TINY), run


def last(run):
    """(newest training state, about.json) of a score's training."""
    about = json.loads((run / "images" / "about.json").read_text())
    network = resnet.build(about["network"], 3)
    like = jax.eval_shape(lambda: classifier.create(network, config_of(about)))
    with Checkpoints(run / "images") as kept:
        return jax.device_get(kept.restore(kept.all()[-1], like)), about


def config_of(about):
    """The config of a training that about.json tells of, of an even set without augmentation."""
    data = {"square": "center", "flip": False, "balance": False, "cache": True}
    return FrozenConfigDict({**{name: about[name] for name in ("network", "size", "dtype", "augment", "train")},
                             "data": data})


def test_separable_classes_are_learnt(scored):
    card, _ = scored
    assert set(card["results"]) == {"top1", "mean_over_classes"}
    assert all(result["mean"] > 0.9 for result in card["results"].values())
    assert {name: about["images"] for name, about in card["about"]["images"]["classes"].items()} == {
        "rows": 30, "Columns": 20, "Check Board": 10}
    assert card["kind"] == "cas" and card["protocol"]["size"] == 8 and card["protocol"]["reference"]["images"] == 60


def test_shuffled_labels_give_chance(sets, scored):
    state, about = last(scored[1])
    real = aligned({"reference": sets[1]})["reference"]
    real.labels = np.random.default_rng(0).permutation(real.labels)
    found, _ = summary(*classifier.test(state, real, config_of(about)), real.labels, real.classes)
    assert abs(found["mean_over_classes"]["mean"] - 1 / 3) < 0.2


def test_a_generator_that_mistakes_its_classes_scores_nothing(sets, tmp_path):
    wrong = separable(tmp_path / "wrong", (20, 20, 20), classes=CLASSES[1:] + CLASSES[:1])
    assert score(wrong, sets[1], tmp_path / "run", train_images=640, **TINY)["results"]["top1"]["mean"] < 0.1


def test_a_training_stopped_or_killed_and_resumed_is_one_never_stopped(sets, scored, tmp_path):
    _, straight = scored
    source, config = aligned({"images": sets[0], "reference": sets[1]})["images"], config_of(last(straight)[1])
    steps = iter(range(1000))
    with pytest.raises(Stopped, match="saved at 192 of 640 images"):
        classifier.train(source, config, tmp_path, lambda: next(steps) >= 5)
    for images in (160, 192):
        shutil.copytree(tmp_path / "checkpoints" / str(images), tmp_path / "kept" / str(images))
    state = classifier.train(source, config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), last(straight)[0])
    shutil.rmtree(tmp_path / "checkpoints")
    shutil.copytree(tmp_path / "kept" / "160", tmp_path / "checkpoints" / "160")  # all that a kill had left
    state = classifier.train(source, config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), last(straight)[0])
    rows = [(tmp_path / "metrics.jsonl").read_text(), (straight / "images" / "metrics.jsonl").read_text()]
    assert rows[0] == rows[1] and len(rows[0].splitlines()) == 20


def test_a_finished_folder_reports_and_another_score_is_refused(sets, scored):
    card, run = scored
    assert score(*sets, run, train_images=640, **TINY) == card
    for changes, name in (({"seed": 1}, "train.seed"), ({"train_images": 672}, "train.images"),
                          ({"augment": "small"}, "augment.area, augment.flip"), ({"size": 16}, "size")):
        with pytest.raises(ValueError, match=f"`workdir` .* these differ: .*{name}"):
            score(*sets, run, **{"train_images": 640, **TINY, **changes})
    with pytest.raises(ValueError, match="`workdir` .* must be a folder"):
        score(*sets, sets[0] / "check-board" / "0.png")


def test_one_changed_pixel_is_another_set(sets, scored, tmp_path):
    changed = shutil.copytree(sets[0], tmp_path / "changed")
    with Image.open(changed / "check-board" / "0.png") as image:
        image.putpixel((0, 0), (255, 0, 0))
        image.save(changed / "check-board" / "0.png")
    with pytest.raises(ValueError, match="these differ: images.sha256$"):
        score(changed, sets[1], scored[1], train_images=640, **TINY)


def test_an_uneven_set_is_told_of_and_drawn_evenly(sets, tmp_path):
    told, uneven = [], separable(tmp_path / "uneven", (60, 4, 8), 2)
    card = score(uneven, sets[1], tmp_path / "run", baseline=sets[1], train_images=640, say=told.append, **TINY)
    assert len(told) == 2 and "`images`" in told[0] and "from 4 to 60 images of a class" in told[0]
    assert card["about"]["images"]["of_a_class"] == [4, 60] and card["protocol"]["images"] == 72
    assert all(card["results"][name]["mean"] > 0.9 for name in ("mean_over_classes", "baseline_mean_over_classes"))


def test_the_same_pictures_are_one_set_however_they_are_kept(sets, tmp_path):
    source = open_source(sets[0])
    images = np.stack([source.read(i) for i in range(len(source))])
    slugs = ["rows", "columns", "check-board"]
    names = [slugs.index(source.classes[label].lower().replace(" ", "-")) for label in source.labels]
    arrays = {"texts": [slugs[i] for i in names]}
    separable(tmp_path / "named", (1, 1, 1), classes=slugs)
    ordered = sorted(slugs)
    arrays["numbers"] = [ordered.index(text) for text in arrays["texts"]]
    reference = aligned({"images": sets[0], "reference": tmp_path / "named"})
    wanted = digest(reference["images"], 8, "set")
    for kind, labels in arrays.items():
        np.savez(tmp_path / f"{kind}.npz", arr_0=images, arr_1=np.array(labels))
        found = aligned({"images": tmp_path / f"{kind}.npz", "reference": tmp_path / "named"})
        assert found["images"].classes == reference["images"].classes
        assert digest(found["images"], 8, "set") == wanted


WRONG = {
    "another class": (lambda p: separable(p / "x", (2, 2, 2), classes=("rows", "columns", "zebra")),
                      "`images` .* must have the classes of `reference` .*; zebra is none of them"),
    "a class less": (lambda p: separable(p / "x", (2, 2), classes=CLASSES[:2]), "it has none of Check Board"),
    "no classes": (lambda p: separable(p / "x", (2,), classes=("a",)) / "a", "must have classes"),
    "another size": (lambda p: Image.new("RGB", (16, 16)).save(separable(p / "x", (2, 2, 2)) / "check-board" / "9.png")
                     or p / "x", "check-board/9.png is no image to evaluate: ValueError: its size is 16x16, another's 8x8"),
    "not square": (lambda p: np.savez(p / "x.npz", images=np.zeros([3, 4, 8, 3], np.uint8), labels=np.arange(3))
                   or p / "x.npz", "must be square images, not 8x4"),
    "half a picture": (lambda p: (separable(p / "x", (2, 2, 2)) / "check-board" / "1.png").write_bytes(b"PNG") and p / "x",
                       "check-board/1.png is no image to evaluate"),
    "too few to make a batch": (lambda p: separable(p / "x", (1, 1, 1)), "`train_images` .=3. must be at least a batch"),
}


@pytest.mark.parametrize("make, message", WRONG.values(), ids=WRONG)
def test_a_wrong_set_is_one_line(make, message, sets, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        score(make(tmp_path), sets[1], tmp_path / "run", epochs=1, **TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("argument", [{"network": "vgg"}, {"augment": "mixup"}, {"seed": -1}])
def test_a_wrong_argument_is_named(argument, sets, tmp_path):
    with pytest.raises(ValueError, match=f"`{next(iter(argument))}`"):
        score(*sets, tmp_path / "run", **argument)
    assert not (tmp_path / "run").exists()


def test_summary_of_predictions():
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    results, details = summary(predicted, np.array([0, 0, 1, 0]), labels, ("a", "b"))
    assert results["top1"]["mean"] == 0.75 and results["mean_over_classes"]["mean"] == pytest.approx((2 / 3 + 1) / 2)
    assert details["confusion"] == {"a": {"a": 2, "b": 1}, "b": {"b": 1}}
    six, _ = summary(np.zeros(6, int), np.arange(6), np.arange(6), "abcdef")
    assert six["top1"]["mean"] == pytest.approx(1 / 6) and six["top5"]["mean"] == pytest.approx(5 / 6)


def test_a_crop_is_of_its_key_and_a_part_of_the_image():
    crop = jax.jit(functools.partial(classifier.random_crops, area=0.25))
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 16)[:, None, None], (4, 16, 16, 1))
    keys = jax.random.split(jax.random.key(0), 4)
    crops = crop(ramp, keys)
    np.testing.assert_allclose(crops[::-1], crop(ramp, keys[::-1]), atol=1e-6)
    assert float(jnp.max(jnp.abs(crops[0] - crops[1]))) > 0.01
    rows = np.asarray(crops[..., 0])
    assert np.all(np.diff(rows, axis=1) > -1e-6) and np.ptp(rows, axis=2).max() < 1e-5  # no turn, no flip
    slope = rows[:, -3] - rows[:, 2]
    assert np.all(slope < 11 / 15 + 1e-5) and np.all(slope > 0.4 * 11 / 15)  # sides of sqrt(0.25 * 3/4) at the least


def test_the_rate_rises_and_falls_to_nothing():
    config = FrozenConfigDict({"train": {"images": 10_000, "batch_size": 512, "learning_rate": 0.1}})
    rates = jax.jit(functools.partial(classifier.learning_rate, config))(np.arange(0, 10_001, 100))
    assert rates[0] == 0 and np.argmax(rates) == 5 and rates[5] > 0.198 and rates[-1] == pytest.approx(0, abs=1e-6)


def test_a_step_of_the_papers_network_keeps_its_state_in_float32():
    config = FrozenConfigDict({**cas._config("resnet50", 64, "imagenet", False, 100, 1000, 8, 0).to_dict(),
                               "dtype": "bfloat16"})
    network = resnet.build("resnet50", 1000, config.dtype)
    before = jax.eval_shape(functools.partial(classifier.create, network, config))
    batch = {"image": jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.uint8), "label": jax.ShapeDtypeStruct((8,), jnp.int32),
             "index": jax.ShapeDtypeStruct((8,), jnp.uint32)}
    after, metrics = jax.eval_shape(functools.partial(classifier.step, network, config), before, batch)
    assert jax.tree.leaves(before) == jax.tree.leaves(after) and metrics["loss"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(before)} == {jnp.dtype("float32"), jnp.dtype("uint32")}
    assert sum(leaf.size for leaf in jax.tree.leaves(before["params"])) == 25_557_032  # torchvision's, too


def test_biases_and_norms_do_not_decay():
    params = {"kernel": jnp.ones([2, 2]), "bias": jnp.ones([2])}
    optimizer = classifier.optimizer(FrozenConfigDict({"train": {"weight_decay": 0.5}}))
    zero = jax.tree.map(jnp.zeros_like, params)
    update, _ = optimizer.update(zero, optimizer.init(params), params)
    assert float(update["kernel"][0, 0]) == pytest.approx(0.5 * 1.9) and not np.any(update["bias"])


@pytest.mark.slow
def test_killed_and_stopped_on_the_command_line_it_goes_on(sets, tmp_path):
    def start(name, devices=1):
        command = ["eval", "cas", "--images", sets[0], "--reference", sets[1], "--network", "small", "--augment", "none",
                   "--batch-size", 16, "--train-images", 640, "--workdir", tmp_path / name, "--out",
                   tmp_path / f"{name}.json"]
        env = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu",
               "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
        return subprocess.Popen([sys.executable, "-m", "cdm.cli", *map(str, command)], env=env)

    rows = tmp_path / "run" / "images" / "metrics.jsonl"
    for end, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 75)):
        before = len(rows.read_text().splitlines()) if rows.exists() else 0
        process = start("run")
        while process.poll() is None and (not rows.exists() or len(rows.read_text().splitlines()) < before + 8):
            time.sleep(0.05)
        process.send_signal(end)
        assert process.wait() == code and not (tmp_path / "run.json").exists()
    assert start("run").wait() == start("straight").wait() == 0
    assert json.loads((tmp_path / "run.json").read_text()) == json.loads((tmp_path / "straight.json").read_text())
    jax.tree.map(np.testing.assert_array_equal, last(tmp_path / "run")[0], last(tmp_path / "straight")[0])
    assert start("devices", 4).wait() == 0  # batch norm is over the whole batch, wherever its parts lie
    rows = [(tmp_path / name / "images" / "metrics.jsonl").read_text().splitlines()[:3] for name in ("straight", "devices")]
    losses = [[json.loads(row)["loss"] for row in part] for part in rows]
    np.testing.assert_allclose(*losses, rtol=1e-3)
