"""A stage: what its loss is made of, example by example, and a folder that gives back what was put in."""

import json

import jax
import numpy as np
import pytest

from cdm.config import sr_stage as sr_config
from cdm.diffusion import process
from cdm.images.resize import resize, to_float
from cdm.stage import BINS, Stage, flatten, load_stage

CLASSES = ("Animals", "Food & Drink", "7")


def batch(count, size, seed=0):
    """Images, labels and places in the order of training."""
    random = np.random.default_rng(seed)
    return (random.integers(0, 256, (count, size, size, 3), np.uint8),
            random.integers(0, len(CLASSES), count).astype(np.int32), np.arange(count, dtype=np.uint32))


def shown(config, image, label, index, seed=0):
    """What the network of a stage is given in training, by name."""
    stage = Stage(config, CLASSES)

    def record(image, label, index):
        given = {}

        def apply(params, x, logsnr, labels, lowres, aug_logsnr, dropout_key):
            given.update(x=x, logsnr=logsnr, labels=labels, lowres=lowres, aug_logsnr=aug_logsnr)
            return x

        stage.network = stage.network._replace(apply=apply)
        stage.loss({}, image, label, index, seed)
        return given

    return jax.jit(record)(image, label, index)


@pytest.fixture(scope="module")
def loss(base_stage):
    """loss(image, label, index, seed) of the tiny base stage."""
    return jax.jit(lambda *arguments: base_stage.loss(base_stage.params, *arguments))


def test_the_bins_of_the_loss_sum_to_the_batch(loss):
    mean, sums = loss(*batch(8, 8), 0)
    assert len(sums["bin_sums"]) == len(sums["bin_counts"]) == BINS and sums["bin_counts"].sum() == 8
    np.testing.assert_allclose(sums["bin_sums"].sum() / 8, mean, rtol=1e-5)


def test_an_example_draws_by_its_place_in_training_not_in_the_batch(loss):
    examples = batch(8, 8)
    order = np.random.default_rng(0).permutation(8)
    here, there = loss(*examples, 0), loss(*(part[order] for part in examples), 0)
    for one, other in zip(jax.tree.leaves(here), jax.tree.leaves(there)):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_halves_of_a_batch_average_to_the_whole(loss):
    examples = batch(8, 8)
    # The empty half repeats the full one, so that the program is the same.
    halves = [loss(*(np.concatenate([part[s], part[s]]) for part in examples), 0)[0] for s in (slice(4), slice(4, 8))]
    np.testing.assert_allclose(np.mean(halves), loss(*examples, 0)[0], rtol=1e-5)


def test_another_seed_or_place_is_another_loss(loss):
    image, label, index = batch(8, 8)
    losses = {float(loss(image, label, index + np.uint32(shift), seed)[0]) for shift in (0, 8) for seed in (0, 1)}
    assert len(losses) == 4


def test_everything_is_drawn_for_each_example_on_its_own(tiny_sr):
    image, label, index = batch(64, 16)
    same = np.broadcast_to(image[:1], image.shape)
    given = shown(tiny_sr, same, label, index)
    for name in ("logsnr", "aug_logsnr"):
        assert len(np.unique(given[name])) == 64
    for name in ("x", "lowres"):
        assert len(np.unique(np.asarray(given[name]).reshape(64, -1), axis=0)) == 64


def test_the_network_is_told_the_level_of_its_low_res_image(tiny_sr):
    image, label, index = batch(64, 16)
    given = shown(tiny_sr, image, label, index)
    alpha, sigma = process.alpha_sigma(given["aug_logsnr"], given["lowres"])
    noise = np.asarray((given["lowres"] - alpha * resize(to_float(image), 8)) / sigma)
    assert abs(noise.mean()) < 0.05
    np.testing.assert_allclose(noise.std(axis=(1, 2, 3)), 1, atol=0.25)  # 192 draws each: five standard errors
    levels = Stage(tiny_sr, CLASSES).augment_schedule.time(given["aug_logsnr"])
    assert 0 <= levels.min() and 0.4 < levels.max() <= tiny_sr.augment.max_level


def test_blur_is_a_coin_of_each_example_that_the_network_is_not_told(tiny_sr):
    tiny_sr.augment.max_level, tiny_sr.sample.aug_level, tiny_sr.augment.blur_probability = 0.0, 0.0, 0.5
    image, label, index = batch(400, 16)
    given = shown(tiny_sr, image, label, index)
    blurred = np.abs(given["lowres"] - resize(to_float(image), 8)).reshape(400, -1).max(1) > 1e-3
    assert abs(blurred.mean() - 0.5) < 4 * 0.5 / 20
    assert len(np.unique(given["aug_logsnr"])) == 1


def test_blur_and_noise_go_together_the_blur_first(tiny_sr):
    """What the noise is taken off of is the blurred picture: at level 0 of the same examples it is seen."""
    tiny_sr.augment.blur_probability = 0.5
    examples = batch(64, 16)
    both = shown(tiny_sr, *examples)
    tiny_sr.augment.max_level, tiny_sr.sample.aug_level = 0.0, 0.0
    blurred = np.asarray(shown(tiny_sr, *examples)["lowres"])
    plain = np.abs(blurred - resize(to_float(examples[0]), 8)).reshape(64, -1).max(1) < 1e-3
    assert 16 < plain.sum() < 48
    alpha, sigma = process.alpha_sigma(both["aug_logsnr"], blurred)
    noise = np.asarray((both["lowres"] - alpha * blurred) / sigma)
    np.testing.assert_allclose(noise.std(axis=(1, 2, 3)), 1, atol=0.25)  # as without blur, above
    assert abs(noise.mean()) < 0.05


def test_classes_are_dropped_at_their_rate(tiny_base):
    tiny_base.train.class_dropout = 0.25
    image, label, index = batch(2000, 8)
    labels = shown(tiny_base, image, label, index)["labels"]
    dropped = labels == len(CLASSES)
    np.testing.assert_array_equal(labels[~dropped], label[~dropped])
    assert abs(dropped.mean() - 0.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5


def test_times_are_spread_evenly_over_every_run_of_examples(tiny_base):
    image, label, index = batch(300, 8)
    places = index % 100 + np.repeat(np.uint32([0, 12345, 2**32 - 50]), 100)  # three runs, the last past the wrap
    times = Stage(tiny_base, CLASSES).schedule.time(shown(tiny_base, image, label, places)["logsnr"])
    for run in np.split(np.asarray(times), 3):
        assert np.diff(np.sort(run), prepend=0, append=1).max() < 3 / 100


@pytest.mark.parametrize("target", process.TARGETS)
def test_the_exact_answer_has_no_loss(tiny_base, target):
    tiny_base.diffusion.target = target
    tiny_base.diffusion.schedule.update({"logsnr_min": -5.0, "logsnr_max": 5.0})
    stage, colour = Stage(tiny_base, CLASSES), 51
    x0 = to_float(np.uint8([colour]))[0]

    def apply(params, x, logsnr, *rest):
        alpha, sigma = process.alpha_sigma(logsnr, x)
        return process.target(target, x0 * np.ones_like(x), (x - alpha * x0) / sigma, logsnr)

    stage.network = stage.network._replace(apply=apply)
    _, label, index = batch(32, 8)
    assert stage.loss({}, np.full((32, 8, 8, 3), colour, np.uint8), label, index, 0)[0] < 1e-6


@pytest.mark.parametrize("target", process.TARGETS)
@pytest.mark.parametrize("residual, std", [(False, 0.5), (True, 1.0), (True, 0.1)])
def test_a_standardised_stage_changes_what_the_network_says_and_not_the_process(tiny_sr, target, residual, std):
    """A network that is right about the standardised picture has no loss, and its stage's x0 is the picture."""
    tiny_sr.diffusion.target, tiny_sr.diffusion.residual, tiny_sr.diffusion.data_std = target, residual, std
    tiny_sr.diffusion.schedule.update({"logsnr_min": -5.0, "logsnr_max": 5.0})
    stage, colour = Stage(tiny_sr, CLASSES), 51
    x0 = to_float(np.uint8([colour]))[0]

    def apply(params, y, logsnr_y, labels, lowres, aug_logsnr, *rest):
        a, s = process.alpha_sigma(aug_logsnr, lowres)
        low = resize(a * lowres, 16) if residual else 0.0
        y0 = (x0 - low) / (std**2 + (0.65 * s**2 if residual else 0)) ** 0.5
        alpha, sigma = process.alpha_sigma(logsnr_y, y)
        return process.target(target, y0 + 0 * y, (y - alpha * y0) / sigma, logsnr_y)

    stage.network = stage.network._replace(apply=apply)
    _, label, index = batch(16, 16)
    image = np.full((16, 16, 16, 3), colour, np.uint8)
    assert jax.jit(lambda: stage.loss({}, image, label, index, 0)[0])() < 1e-6
    random = np.random.default_rng(0)
    lowres, noise = (random.normal(size=(16, side, side, 3)).astype(np.float32) for side in (8, 16))
    logsnr = np.linspace(-5, 5, 16, dtype=np.float32)
    x_t = process.q_sample(np.full_like(noise, x0), logsnr, noise)
    seen = jax.jit(lambda: stage.denoiser({}, label, lowres, 0.5 * logsnr)(x_t, logsnr))()
    np.testing.assert_allclose(seen.x0, x0, atol=2e-5)
    np.testing.assert_allclose(seen.eps, noise, atol=1e-3)


@pytest.mark.parametrize("lowres_size", [8, 16, 64])
def test_what_the_residual_leaves_has_the_deviation_it_is_divided_by(lowres_size):
    """Of low-res images of unit variance, x0 = up(z0) + detail: exact up to the cut of the kernel at the border."""
    config = sr_config("sr_128", lowres_size, 128)
    config.diffusion.residual, config.diffusion.data_std = True, 0.2
    stage, random = Stage(config, CLASSES), np.random.default_rng(0)
    z0, noise = random.normal(size=(2, 64, lowres_size, lowres_size, 3)).astype(np.float32)
    x0 = resize(z0, 128) + 0.2 * random.normal(size=(64, 128, 128, 3)).astype(np.float32)
    for level in (-2.0, 0.0, 3.0, 20.0):
        aug_logsnr = np.full(64, level, np.float32)
        mean, std = stage.standardise(x0, aug_logsnr, process.q_sample(z0, aug_logsnr, noise), aug_logsnr)[2:]
        assert np.std((x0 - mean) / std) == pytest.approx(1, abs=0.05)


def test_a_fresh_network_has_the_loss_of_the_mean_answer(tiny_base):
    stage = Stage(tiny_base, CLASSES)
    stage.network = stage.network._replace(apply=lambda params, x, *rest: 0 * x)  # what a fresh network answers
    _, label, index = batch(512, 8)
    black = np.zeros((512, 8, 8, 3), np.uint8)
    # v = alpha eps + sigma for black images, x0 = -1: E v^2 = E alpha^2 + E sigma^2 = 1.
    assert abs(stage.loss({}, black, label, index, 0)[0] - 1) < 0.02


def windows(picture, side, stride):
    return {(i, j): picture[i : i + side, j : j + side] for i in range(0, len(picture) - side + 1, stride)
            for j in range(0, len(picture) - side + 1, stride)}


def test_crops_are_windows_of_the_whole_and_the_low_res_ones_lie_under_them(tiny_sr):
    tiny_sr.data.crop = 8
    stage, image = Stage(tiny_sr, CLASSES), batch(16, 16)[0]
    x0, lowres = jax.jit(stage.pair)(image, jax.random.split(jax.random.key(0), 16))
    whole, whole_lowres = to_float(image), np.asarray(resize(to_float(jax.numpy.asarray(image)), 8))
    corners = set()
    for i in range(16):
        (corner,) = [at for at, window in windows(whole[i], 8, 2).items() if np.allclose(window, x0[i], atol=1e-6)]
        low = whole_lowres[i, corner[0] // 2 :, corner[1] // 2 :][:4, :4]
        np.testing.assert_allclose(lowres[i], low, atol=1e-5)
        corners.add(corner)
    assert len(corners) > 5 and {0, 8} <= {c for corner in corners for c in corner}


def test_without_keys_a_picture_is_whole(tiny_sr):
    tiny_sr.data.crop = 8
    x0, lowres = Stage(tiny_sr, CLASSES).pair(batch(2, 16)[0])
    assert x0.shape == (2, 16, 16, 3) and lowres.shape == (2, 8, 8, 3)


def test_a_class_goes_by_name_in_any_case_or_by_index(tiny_base):
    stage = Stage(tiny_base, CLASSES)
    for label, name in enumerate(CLASSES):
        for which in (name, name.upper(), f" {name.lower()} ", label, str(label), np.int64(label)):
            assert stage.label(which) == label
    assert stage.label("7") == 2  # a name goes before an index
    assert stage.null_label == len(CLASSES)


@pytest.mark.parametrize("classes", [("Food & Drink", "food drink"), ("a", "A"), ("a", "?!")])
def test_classes_that_spelling_does_not_tell_apart_are_refused(tiny_base, classes):
    with pytest.raises(ValueError, match="^`classes` .* must differ"):
        Stage(tiny_base, classes)


@pytest.mark.parametrize("which", ["Sports", "", 3, -1, "-1", "1.0", "²", None])
def test_an_unknown_class_is_an_error_that_lists_the_known(tiny_base, which):
    with pytest.raises(ValueError, match=f"^`class` \\(={which}\\) must be .*Food & Drink"):
        Stage(tiny_base, CLASSES).label(which)


@pytest.fixture
def folder(sr_stage, tmp_path):
    sr_stage.save(tmp_path / "stage")
    return tmp_path / "stage"


def test_a_folder_gives_back_the_stage_bit_for_bit(sr_stage, folder):
    again = load_stage(folder)
    assert again.config.to_dict() == sr_stage.config.to_dict()
    assert (again.classes, again.facts, again.lowres_size) == (sr_stage.classes, sr_stage.facts, sr_stage.lowres_size)
    jax.tree.map(np.testing.assert_array_equal, again.params, sr_stage.params)


def test_half_precision_in_the_folder_is_single_in_memory(sr_stage, tmp_path):
    sr_stage.save(tmp_path / "half", np.float16)
    for name, value in flatten(load_stage(tmp_path / "half").params).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, flatten(sr_stage.params)[name].astype(np.float16))


def test_an_existing_folder_is_not_overwritten(sr_stage, folder):
    before = (folder / "stage.json").read_bytes()
    with pytest.raises(ValueError, match="must not exist yet"):
        sr_stage.save(folder)
    assert (folder / "stage.json").read_bytes() == before


def test_a_save_that_fails_leaves_nothing(base_stage, make_stage, tmp_path, tiny_base):
    stage = make_stage(tiny_base)
    stage.facts = {"not": {"json"}}
    with pytest.raises(TypeError):
        stage.save(tmp_path / "stage")
    assert not list(tmp_path.iterdir())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit(path, change):
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


DAMAGES = {
    "no json": lambda f: (f / "stage.json").unlink(),
    "no parameters": lambda f: (f / "params.safetensors").unlink(),
    "truncated json": lambda f: truncate(f / "stage.json"),
    "truncated parameters": lambda f: truncate(f / "params.safetensors"),
    "empty parameters": lambda f: (f / "params.safetensors").write_bytes(b""),
    "edited parameters": lambda f: flip(f / "params.safetensors"),
    "json of another kind": lambda f: (f / "stage.json").write_text("[1, 2]"),
    "another version": lambda f: edit(f / "stage.json", lambda a: a.update(schema_version=99)),
    "no config": lambda f: edit(f / "stage.json", lambda a: a.pop("config")),
    "a config without a value": lambda f: edit(f / "stage.json", lambda a: a["config"]["model"].pop("blocks")),
    "a config with a wrong type": lambda f: edit(f / "stage.json", lambda a: a["config"]["model"].update(heads="x")),
    "no schedule": lambda f: edit(f / "stage.json", lambda a: a["config"]["diffusion"].update(schedule={"name": "?"})),
    "wrong shapes": lambda f: edit(f / "stage.json", lambda a: a["config"]["model"].update(channels=16)),
    "more classes": lambda f: edit(f / "stage.json", lambda a: a["classes"].append("more")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_one_line_that_names_it(folder, damage):
    damage(folder)
    with pytest.raises(ValueError) as caught:
        load_stage(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_what_is_no_folder_is_one_line_that_names_it(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError) as caught:
        load_stage(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_number_is_an_index_and_a_text_a_name_first(tiny_base):
    stage = Stage(tiny_base, ("0", "1", "10", "2"))
    assert stage.label(2) == 2 and stage.label(np.int64(3)) == 3 and stage.label("2") == 3 and stage.label("3") == 3


def test_a_stage_inherits_its_parents_parameters_and_its_classes_by_name(make_stage, tiny_base):
    parent, child = make_stage(tiny_base, classes=("cats", "Dogs")), Stage(tiny_base, ("birds", "dogs", "cats"))
    params, fresh = child.inherit(parent, seed=3), child.init(3)
    old, new = flatten(parent.params), flatten(params)
    table = "label_emb/embedding"
    np.testing.assert_array_equal(new[table], [flatten(fresh)[table][0], old[table][1], old[table][0], old[table][2]])
    for name in old.keys() - {table}:
        np.testing.assert_array_equal(new[name], old[name])
    assert new.keys() == old.keys()


def test_a_parent_of_another_network_is_refused_by_what_differs(make_stage, tiny_base):
    parent = make_stage(tiny_base)
    tiny_base.model.channels, tiny_base.train.init_from = 16, "parent"
    with pytest.raises(ValueError, match=r"`train.init_from` \(=parent\) must be a stage of the same network: \S+ is "):
        Stage(tiny_base, CLASSES).inherit(parent)
