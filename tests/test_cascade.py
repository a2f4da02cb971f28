"""The runner: an image is its seed, label and count, whatever it is sampled with, and stages hand on as they should."""

import json
import re

import jax
import numpy as np
import pytest

from cdm import cascade as runner
from cdm.cascade import Cascade, load_cascade, sample_stage
from cdm.diffusion import process, samplers
from cdm.images.resize import to_uint8
from cdm.samples import write_samples

LABELS = ["food", "food", "animals", 2]
GREYS = [0, 1, 2, 0] * 4


@pytest.fixture(scope="module")
def pair(cascade):
    """The first two stages: enough where three would say no more."""
    return Cascade(cascade.stages[:2])


@pytest.fixture(scope="module")
def images(cascade):
    return cascade.sample(LABELS, seed=7)


def assert_same_pictures(one, other):
    """Within 1/255 on 99.9 % of the values."""
    assert one.shape == other.shape and one.dtype == other.dtype == np.uint8
    assert np.mean(np.abs(one.astype(int) - other) <= 1) >= 0.999


def differ(one, other):
    return np.mean(np.abs(one.astype(int) - other) > 1) > 0.1


def outputs(cascade, labels, seed=0, **changes):
    """What every stage gives, {name: [N, size, size, 3] float}, of a run in one batch."""
    ((_, images, _),) = cascade.run(np.array(labels), runner.count_labels(labels), seed, cascade.settings(**changes),
                                 batch_size=len(labels))
    return images


def test_a_cascade_gives_pictures(images):
    assert images.shape == (4, 32, 32, 3) and images.dtype == np.uint8
    assert all(len(np.unique(image)) > 50 for image in images)


def test_the_same_seed_is_the_same_picture_and_another_is_another(cascade, images):
    np.testing.assert_array_equal(cascade.sample(LABELS, seed=7), images)
    for seed in (8, 7 + 2**31, 2**32 - 1):
        assert all(differ(one, other) for one, other in zip(cascade.sample(LABELS, seed=seed), images))


def test_images_of_a_class_differ_from_each_other_and_from_other_classes(images):
    assert all(differ(images[i], images[j]) for i in range(4) for j in range(i))


def test_a_label_goes_by_name_or_index(cascade, images):
    np.testing.assert_array_equal(cascade.sample([1, "Food", "0", "symbols"], seed=7), images)


@pytest.mark.parametrize("batch_size", [4, *(pytest.param(size, marks=pytest.mark.slow) for size in (3, 8))])
def test_neither_batch_size_nor_other_classes_change_a_picture(pair, batch_size):
    alone = pair.sample(["food"] * 3, seed=7, batch_size=1)
    labels = ["animals", "food", "symbols", "food", "food", "animals", "symbols"]
    images = pair.sample(labels, seed=7, batch_size=batch_size)
    assert_same_pictures(images[[label == "food" for label in labels]], alone)


def test_a_picture_is_its_count_whichever_others_are_asked_for(pair):
    settings, labels = pair.settings(), np.array([1, 1, 2, 0])
    ((_, few, _),) = pair.run(labels, np.array([5, 0, 0, 3]), 7, settings)
    ((_, many, _),) = pair.run(labels, np.array([0, 5, 3, 0]), 7, settings)
    for stage in ("base_8", "sr_16"):
        assert_same_pictures(to_uint8(few[stage][[0, 1]]), to_uint8(many[stage][[1, 0]]))
        assert differ(to_uint8(few[stage][2]), to_uint8(many[stage][2]))
        assert differ(to_uint8(few[stage][3]), to_uint8(many[stage][3]))


def test_counts_are_within_a_label():
    assert runner.count_labels([3, 3, 5, 3, 5]).tolist() == [0, 1, 0, 2, 1]


def test_starting_at_a_stage_goes_on_as_the_whole_run_would(cascade, images):
    lowres = cascade.sample(LABELS, seed=7, stop_at="base_8")
    assert lowres.shape == (4, 8, 8, 3)
    restarted = cascade.sample(LABELS, seed=7, start_at="sr_16", lowres=lowres)
    # The 8 bits of the low-res image are all that differs.
    assert np.mean(np.abs(restarted.astype(int) - images) <= 3) > 0.99
    assert differ(cascade.sample(LABELS, seed=7, start_at="sr_16", lowres=255 - lowres), images)


def test_starting_from_the_exact_low_res_image_is_the_whole_run(cascade):
    whole, settings = outputs(cascade, [0, 1, 2, 0]), cascade.settings()
    ((_, restarted, _),) = cascade.run(np.array([0, 1, 2, 0]), np.array([0, 0, 0, 1]), 0, settings, start_at="sr_16",
                                    lowres=lambda index: whole["base_8"][index])
    assert list(restarted) == ["sr_16", "sr_32"]
    for name, images in restarted.items():
        np.testing.assert_array_equal(images, whole[name])


def test_every_stage_seed_label_and_count_has_a_key_of_its_own():
    label, count = (values.ravel() for values in np.mgrid[:4, :4].astype(np.uint32))
    keys = [jax.random.key_data(runner.image_keys(seed, name, label, count))
            for seed in (0, 1, 2**32 - 1) for name in ("base_8", "sr_16", "sr_32")]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 3 * 3 * 16


def test_start_steps_and_augmentation_draw_apart(cascade):
    keys = runner.image_keys(0, "sr_16", np.uint32([0]), np.uint32([0]))
    folds = [runner.START, runner.AUGMENT, *[(runner.STEPS, i) for i in range(3)]]
    draws = [np.ravel(jax.random.key_data(fold(keys, which))) for which in folds]
    assert len(np.unique(draws, axis=0)) == 5


def fold(keys, which):
    for data in which if isinstance(which, tuple) else (which,):
        keys = jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)
    return keys


def test_nothing_is_compiled_again_for_a_number(pair):
    compiled = []
    pair.sample(LABELS, seed=0, guidance=1.0)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None)
    pair.sample(LABELS, seed=0, guidance=1.0)
    pair.sample([0, 0, 1, 1], seed=1, guidance=(0.5, 3.0), steps=(2, 7), aug_level=0.4)
    pair.sample(LABELS, seed=1, guidance=1.0, sampler=("ddim", "dpmpp_2m"), aug_level=0.0)
    assert not compiled
    jax.jit(lambda x: x + 0.125)(1.0)
    assert compiled  # the listener does hear


@pytest.mark.parametrize("change", [
    {"steps": 3}, {"steps": (4, 5)}, {"guidance": 2.0}, {"guidance": (0.5, 0.0)}, {"sampler": "ddim"},
    {"aug_level": 0.1}, {"hand_over": "truncated"}, {"sampler": "heun"}, {"sampler": "dpmpp_2m_sde"},
    {"sampler": "ddim", "eta": 0.5}, {"sampler": "heun", "churn": 9.0}, {"variance": "large"}, {"grid": "rho"},
    {"grid": (-6.0, -1.0, 2.0)}, {"guidance": 2.0, "interval": (-3.0, 3.0)},
], ids=str)
def test_every_setting_has_a_say(pair, change):
    plain = pair.sample(LABELS, seed=7)
    assert np.mean(pair.sample(LABELS, seed=7, **change) != plain) > 0.1


def test_guidance_acts_within_its_interval(pair):
    """An interval that holds every level is no interval, one that holds none is no guidance."""
    guided, plain = (pair.sample(LABELS, seed=7, guidance=w) for w in (2.0, 0.0))
    everywhere, nowhere = (pair.sample(LABELS, seed=7, guidance=2.0, interval=i) for i in ((-99.0, 99.0), (50.0, 99.0)))
    assert not differ(everywhere, guided) and not differ(nowhere, plain)
    part = pair.sample(LABELS, seed=7, guidance=2.0, interval=[(-99.0, 0.0), (0.0, 99.0)])  # one a stage
    assert differ(part, guided) and differ(part, plain)


def test_the_dynamic_threshold_has_a_say_where_x0_leaves_the_range(pair):
    clipped = pair.sample(LABELS, seed=7, guidance=6.0)
    assert differ(pair.sample(LABELS, seed=7, guidance=6.0, threshold="dynamic"), clipped)


def test_the_option_of_another_sampler_is_left_behind_or_refused(cascade):
    own = Cascade(cascade.stages[:1], {"base_8": {"sampler": "ddim", "eta": 0.5}})
    assert own.settings()[0].eta == 0.5 and own.settings()[0].variance is None
    assert own.settings(sampler="heun")[0].eta is None and own.settings(sampler="heun")[0].churn == 0.0
    assert error(own.settings, sampler="heun", eta=0.5).startswith("`eta` (=0.5) must come with the sampler ddim")
    assert own.settings(sampler="heun", grid=[-5.0, 0.0, 4.0])[0].steps == 5


@pytest.fixture
def guided(cascade, make_stage):
    """The cascade's base stage, guided by another of its size."""
    with cascade.stages[0].config.unlocked():
        weaker = make_stage(cascade.stages[0].config, seed=9)
    return Cascade(cascade.stages[:1], guides={"base_8": weaker})


def test_a_guide_is_led_away_from(guided, cascade, tmp_path):
    """Weight 0 is the stage alone; the more weight, the farther; and the folder keeps the guide."""
    alone = Cascade(cascade.stages[:1])
    plain, class_guided = alone.sample(LABELS, seed=7), alone.sample(LABELS, seed=7, guidance=2.0)
    assert not differ(guided.sample(LABELS, seed=7), plain)
    ours = guided.sample(LABELS, seed=7, guidance=2.0)
    assert differ(ours, plain) and differ(ours, class_guided)
    guided.save(tmp_path / "cascade")
    assert not differ(load_cascade(tmp_path / "cascade").sample(LABELS, seed=7, guidance=2.0), ours)
    itself = Cascade(cascade.stages[:1], guides={"base_8": cascade.stages[0]})
    assert not differ(itself.sample(LABELS, seed=7, guidance=2.0), plain)  # nothing to lead away from


def test_a_guide_must_be_of_the_stages_task(cascade):
    assert error(Cascade, cascade.stages[:2], guides={"base_8": cascade.stages[1]}).startswith("`guides` (=sr_16)")
    assert error(Cascade, cascade.stages[:2], guides={"sr_9": cascade.stages[1]}).startswith("`guides` (=sr_9)")


def test_guidance_of_weight_zero_in_one_stage_is_that_stage_unguided(pair):
    plain, guided = outputs(pair, [0, 1, 2, 0]), outputs(pair, [0, 1, 2, 0], guidance=(0.0, 2.0))
    np.testing.assert_array_equal(guided["base_8"], plain["base_8"])
    assert differ(to_uint8(guided["sr_16"]), to_uint8(plain["sr_16"]))


def test_sampling_of_the_cascade_goes_before_the_configs_and_arguments_before_both(cascade):
    stages = cascade.stages[:2]
    own = Cascade(stages, {"sr_16": {"steps": 2, "aug_level": 0.3}})
    base, sr = own.settings()
    assert (base.steps, sr.steps, sr.aug_level) == (4, 2, 0.3)
    base, sr = own.settings(steps=(3, 5))
    assert (base.steps, sr.steps, sr.aug_level) == (3, 5, 0.3)


@pytest.fixture(scope="module")
def grey(cascade, make_stage):
    """A cascade whose base stage says that every image is of one grey, whatever it sees."""
    with cascade.stages[0].config.unlocked():
        config = cascade.stages[0].config.copy_and_resolve_references()
    config.diffusion.target = "x0"
    stage = make_stage(config)
    stage.params = jax.tree.map(np.zeros_like, stage.params)
    stage.params["out_2"]["bias"] += np.float32(0.4)
    return Cascade([stage, cascade.stages[1]])


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_truncated_stage_stops_at_exactly_the_level_it_hands_on(grey, sampler):
    for level in (0.2, 0.5):
        handed = outputs(grey, GREYS, hand_over="truncated", aug_level=level, sampler=sampler, steps=5)["base_8"]
        alpha, sigma = process.alpha_sigma(grey.stages[1].augment_schedule.logsnr(level))
        # x_s = alpha_s 0.4 + sigma_s z over 3072 values: five standard errors.
        assert abs(handed.mean() - alpha * 0.4) < 5 * sigma / 3072**0.5
        assert abs(handed.std() / sigma - 1) < 5 / (2 * 3072) ** 0.5


def test_a_finished_stage_hands_on_a_clean_image(grey):
    np.testing.assert_allclose(outputs(grey, GREYS)["base_8"], 0.4, atol=1e-5)


def test_a_truncated_state_is_handed_on_as_it_is(grey):
    images = outputs(grey, GREYS, hand_over="truncated", aug_level=0.5)
    state = images["base_8"]
    assert np.abs(state).max() > 1.2

    def sr(lowres):
        return sample_stage(grey.stages[1], GREYS, 0, lowres, hand_over="truncated", aug_level=0.5)

    np.testing.assert_allclose(sr(state), images["sr_16"], atol=1e-5)
    assert np.abs(sr(np.clip(state, -1, 1)) - images["sr_16"]).max() > 0.01


def test_a_stage_folder_is_a_cascade_of_the_one(cascade, tmp_path):
    for stage in cascade.stages[:2]:
        stage.save(tmp_path / stage.name)
    images = load_cascade(tmp_path / "base_8").sample(LABELS, seed=7)
    np.testing.assert_array_equal(images, cascade.sample(LABELS, seed=7, stop_at="base_8"))
    with pytest.raises(ValueError, match="the first, sr_16, must be a base stage"):
        load_cascade(tmp_path / "sr_16")


def test_a_folder_gives_back_the_cascade(cascade, images, tmp_path):
    Cascade(cascade.stages, {"sr_16": {"steps": 3}}).save(tmp_path / "cascade")
    again = load_cascade(tmp_path / "cascade")
    assert again.sampling == {"sr_16": {"steps": 3}} and again.classes == cascade.classes
    np.testing.assert_array_equal(again.sample(LABELS, seed=7, steps=4), images)
    assert {path.name for path in tmp_path.iterdir()} == {"cascade"}


DAMAGES = {
    "no json": lambda f: (f / "cascade.json").unlink(),
    "half a json": lambda f: (f / "cascade.json").write_text('{"schema_version": 1, "sta'),
    "another version": lambda f: edit(f, schema_version=99),
    "a stage that is not there": lambda f: edit(f, stages=["base_8", "sr_64"]),
    "stages in the wrong order": lambda f: edit(f, stages=["sr_16", "base_8"]),
    "no stages": lambda f: edit(f, stages=[]),
    "settings of a stage that is not there": lambda f: edit(f, sampling={"sr_64": {}}),
    "a setting that is not there": lambda f: edit(f, sampling={"base_8": {"step": 3}}),
    "a setting out of range": lambda f: edit(f, sampling={"base_8": {"steps": 0}}),
    "a damaged stage": lambda f: (f / "sr_16" / "params.safetensors").write_bytes(b""),
}


def edit(folder, **changes):
    path = folder / "cascade.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_one_line(pair, tmp_path, damage):
    pair.save(tmp_path / "cascade")
    damage(tmp_path / "cascade")
    with pytest.raises(ValueError, match="^`[a-z]+`[^\n]*$"):
        load_cascade(tmp_path / "cascade")


def error(function, *arguments, **named):
    """The one line that a call is refused with."""
    with pytest.raises(ValueError) as caught:
        function(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("change, start", [
    (dict(labels=[]), "`labels` (=[]) must"), (dict(labels=["sports"]), "`class` (=sports) must"),
    (dict(labels=[3]), "`class` (=3) must"),
    (dict(seed=-1), "`seed` (=-1) must"), (dict(seed=2**32), f"`seed` (={2**32}) must"),
    (dict(batch_size=0), "`batch_size` (=0) must"), (dict(batch_size=-4), "`batch_size` (=-4) must"),
    (dict(start_at="sr_64"), "`start_at` (=sr_64) must"), (dict(stop_at="sr_64"), "`stop_at` (=sr_64) must"),
    (dict(start_at="sr_32", stop_at="sr_16", lowres=np.zeros((4, 16, 16, 3), np.uint8)),
     "`start_at` (=sr_32) must not come after"),
    (dict(start_at="sr_16"), "`lowres` (=None) must"),
    (dict(start_at="sr_16", lowres=np.zeros((4, 16, 16, 3), np.uint8)), "`lowres` (=uint8 (4, 16, 16, 3)) must"),
    (dict(start_at="sr_16", lowres=np.zeros((3, 8, 8, 3), np.uint8)), "`lowres` (=uint8 (3, 8, 8, 3)) must"),
    (dict(start_at="sr_16", lowres=np.zeros((5, 8, 8, 3), np.uint8)), "`lowres` (=uint8 (5, 8, 8, 3)) must"),
    (dict(start_at="sr_16", lowres=np.zeros((4, 8, 8, 3))), "`lowres` (=float64 (4, 8, 8, 3)) must"),
    (dict(lowres=np.zeros((4, 8, 8, 3), np.uint8)), "`lowres` must come with `start_at`"),
    (dict(start_at="sr_16", lowres=np.zeros((4, 8, 8, 3), np.uint8), hand_over="truncated"),
     "`hand_over` (=truncated) of sr_16 must"),
    (dict(steps=0), "`steps` (=0) must"), (dict(steps=5000), "`steps` (=5000) must"),
    (dict(steps=2.5), "`steps` (=2.5) must"), (dict(steps=(1, 2)), "`steps` (=1,2) must"),
    (dict(guidance=(1.0,) * 4), "`guidance` (=1.0,1.0,1.0,1.0) must"),
    (dict(guidance=-0.1), "`guidance` (=-0.1) must"), (dict(guidance=float("nan")), "`guidance` (=nan) must"),
    (dict(guidance=float("inf")), "`guidance` (=inf) must"), (dict(sampler="euler"), "`sampler` (=euler) must"),
    (dict(aug_level=-0.1), "`aug_level` (=-0.1) must"), (dict(aug_level=0.6), "`aug_level` (=0.6) must"),
    (dict(aug_level=(0.1, 0.2, 0.3)), "`aug_level` (=0.1,0.2,0.3) must"),
    (dict(hand_over="half"), "`hand_over` (=half) must"), (dict(grid="even"), "`grid` (=even) must"),
    (dict(grid=(2.0, 1.0)), "`grid` (=(2.0, 1.0)) must"), (dict(interval=(3.0, 1.0)), "`interval` (=(3.0, 1.0)) must"),
    (dict(guidance="much"), "`guidance` (=much) must be a number"), (dict(grid=5.0), "`grid` (=5.0) must be one"),
    (dict(interval=3.0), "`interval` (=3.0) must be two"), (dict(aug_level="a"), "`aug_level` (=a) must be a number"),
    (dict(threshold="hard"), "`threshold` (=hard) must"), (dict(eta=0.5), "`eta` (=0.5) must come with"),
    (dict(sampler="heun", churn=-1.0), "`churn` (=-1.0) must"), (dict(variance="learned"), "`variance` (=learned) must"),
], ids=lambda value: None if isinstance(value, str) else ",".join(value))
def test_what_can_not_be_sampled_is_refused_by_name_value_and_rule(cascade, change, start):
    assert error(cascade.sample, **{"labels": LABELS, **change}).startswith(start)


def test_guidance_needs_the_null_class(make_stage, tiny_base):
    tiny_base.train.class_dropout = 0.0
    assert "null class" in error(Cascade([make_stage(tiny_base)]).sample, [0], guidance=1.0)


def test_a_truncated_level_must_be_one_that_the_stage_before_passes(make_stage, tiny_base, tiny_sr):
    tiny_base.diffusion.schedule.logsnr_max = 5.0
    cascade = Cascade([make_stage(tiny_base), make_stage(tiny_sr)])
    for level, good in ((0.0, False), (0.05, False), (0.4, True)):
        cascade.settings(aug_level=level)
        if good:
            cascade.settings(aug_level=level, hand_over="truncated")
        else:
            message = error(cascade.settings, aug_level=level, hand_over="truncated")
            assert message.startswith(f"`aug_level` (={level}) of sr_16 must") and "base_8" in message


def test_stages_must_chain_share_their_classes_and_have_names_of_their_own(cascade, make_stage, tiny_sr, tiny_base):
    base, sr, sr2 = cascade.stages
    tiny_base.name = "sr_16"
    for stages, words in (([], "at least one"), ([sr], "sr_16, must be a base stage"),
                          ([base, sr2], "base_8 gives 8 px.*sr_32"), ([base, base], "chain"),
                          ([make_stage(tiny_base), sr], "names of their own"),
                          ([base, make_stage(tiny_sr, classes=("a", "b", "c"))], "classes")):
        assert re.search(words, error(Cascade, stages))
    assert "sr_64" in error(Cascade, [base, sr], {"sr_64": {}})


def test_stages_without_classes_sample_and_serve_below_and_above(cascade, make_stage, tmp_path):
    base, sr = cascade.stages[:2]
    bare = [make_stage(stage.config, classes=()) for stage in (base, sr)]
    images = Cascade(bare).sample(labels=[0, 0], seed=0)
    assert images.shape == (2, 16, 16, 3) and differ(images[:1], images[1:])
    # A conditional base with an SR stage that was trained on pictures without labels.
    assert Cascade([base, bare[1]]).sample(labels=["food"], seed=0).shape == (1, 16, 16, 3)
    assert "share their classes, or have none" in error(Cascade, [bare[0], sr])
    assert "`class` (=1) must be a name or an index of: 0" in error(Cascade(bare).sample, labels=[1])
    about = write_samples(Cascade(bare), tmp_path / "out", [0], n=2)
    assert [image["file"] for image in about["images"]] == ["sample_00000.png", "sample_00001.png"]
