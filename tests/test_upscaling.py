"""Pictures of any size: what a window can do alone is done alike, and no picture depends on how windows lie."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm import upscaling
from cdm.diffusion import process, samplers
from cdm.images import canvas
from cdm.images.resize import resize, to_float, to_uint8
from cdm.settings import plan, settings_of
from cdm.stage import Stage
from cdm.upscaling import Batches, canvas_key, enlarge, estimate

PLAIN = dict(colour_lock=False, aug_level=0.0)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (height, width, 3)).astype(np.float32)


def blurred(height, width, seed=0):
    """Of a photograph's kind: slow changes, most of the range."""
    return resize(picture(-(-height // 6), -(-width // 6), seed), (height, width)).clip(-1, 1)


def _silent(stage):
    """A stage whose network says nothing: x0 is alpha x_t at every pixel, whatever a window shows."""
    result = Stage(stage.config, stage.classes)
    result.params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), stage.params)
    return result


@pytest.fixture(scope="module")
def silent(sr_stage):
    return _silent(sr_stage)


@pytest.fixture
def regression(tiny_sr, make_stage):
    tiny_sr.diffusion.loss, tiny_sr.diffusion.target = "regression", "x0"
    tiny_sr.augment.max_level, tiny_sr.sample.aug_level, tiny_sr.sample.steps = 0.0, 0.0, 1
    return make_stage(tiny_sr, seed=3)


@functools.cache
def _sample(stage):
    """The jitted samplers.sample of a stage without a class."""

    def sample(table, lowres, aug_logsnr, x, z):
        denoise = stage.denoiser(stage.params, jnp.array([stage.null_label]), lowres, aug_logsnr)
        return samplers.sample(table, denoise, lambda i: z[i], x)

    return jax.jit(sample)


def alone(stage, image, seed=0, **changes):
    """What samplers.sample makes of an image [8, 8, 3] that is one window, with the noise of its canvas."""
    settings, key = settings_of(stage, **changes), canvas_key(seed, stage, 0, 0)
    start, steps, augment = (jax.random.fold_in(key, use) for use in range(3))
    level = np.float32([stage.augment_schedule.logsnr(settings.aug_level)])
    if settings.aug_level:
        image = np.asarray(process.q_sample(image[None], level, canvas.noise(augment, 8, 8)[None]))[0]
    z = np.stack([canvas.noise(jax.random.fold_in(steps, i), 16, 16)[None] for i in range(5)])
    x = _sample(stage)(plan(stage, settings), image[None], level, canvas.noise(start, 16, 16)[None], z)
    return np.clip(x[0], -1, 1)


@pytest.mark.parametrize("changes", [
    dict(sampler="ancestral"), dict(sampler="dpmpp_2m"), dict(sampler="heun", steps=5),
    dict(sampler="ancestral", aug_level=0.3)], ids=str)
def test_one_window_is_the_sampler_itself(sr_stage, changes):
    image = picture(8, 8)
    whole = enlarge(image, [sr_stage], (16, 16), seed=5, **PLAIN | changes).image
    # Two programs round differently, and a network that was not trained magnifies it by what the processor is.
    np.testing.assert_allclose(whole, alone(sr_stage, image, 5, **dict(aug_level=0.0) | changes), atol=1 / 255)
    assert whole.std() > 0.1


def test_many_windows_are_one_step_of_the_canvas(silent):
    """Where windows agree, the picture is that of one sampler over the whole canvas."""
    settings = settings_of(silent, sampler="ancestral", steps=6, aug_level=0.0)
    whole = enlarge(picture(23, 41), [silent], (46, 82), sampler="ancestral", steps=6, **PLAIN).image
    table, key = plan(silent, settings), canvas_key(0, silent, 0, 0)
    x, previous = canvas.noise(jax.random.fold_in(key, 0), 46, 82)[None], np.zeros((1, 46, 82, 3), np.float32)
    steps = jax.random.fold_in(key, 1)

    def denoise(x, logsnr):
        x0 = np.clip(process.alpha_sigma(logsnr[0])[0] * x, -1, 1)
        return process.Prediction(x0, x0)

    for i in range(6):
        z = canvas.noise(jax.random.fold_in(steps, i), 46, 82)
        x, previous = samplers.step(table, denoise, lambda _: z, i, (x, previous))
    np.testing.assert_allclose(whole, np.clip(x[0], -1, 1), atol=1e-4)


def test_no_picture_depends_on_how_windows_lie_where_they_agree(silent):
    one, other = (enlarge(picture(23, 41), [silent], (46, 82), overlap=overlap).image for overlap in (0.1, 0.6))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_no_picture_depends_on_the_batch_of_windows(sr_stage, monkeypatch):
    image, told = picture(20, 13), []
    pictures = []
    for in_turn in (True, False):  # as on a CPU, and as on other devices
        monkeypatch.setattr(upscaling, "_in_turn", lambda: in_turn)
        upscaling._denoiser.cache_clear()
        for batch in (1, 2, 16):
            counts = []
            pictures.append(enlarge(image, [sr_stage], (40, 26), window_batch=batch, progress=counts.append).image)
            told.append(sum(counts))
    upscaling._denoiser.cache_clear()
    for other in pictures[1:]:
        np.testing.assert_allclose(other, pictures[0], atol=2e-4)
    assert set(told) == {estimate(20, 13, [sr_stage], (40, 26))["evaluations"]}


def test_a_seed_is_a_picture(sr_stage):
    image = blurred(12, 12)
    one, again, other = (enlarge(image, [sr_stage], (24, 24), seed=seed).image for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.mean(np.abs(one - other)) > 0.02


@pytest.mark.parametrize("small, large", [((1, 1), (2, 2)), ((1, 50), (2, 100)), ((50, 1), (77, 3)),
                                          ((9, 11), (30, 37)), ((5, 8), (5, 8)), ((5, 8), (5, 9))], ids=str)
@pytest.mark.parametrize("consistent", [False, True])
def test_any_size(silent, small, large, consistent):
    result = enlarge(picture(*small), [silent], large, steps=1, consistent=consistent)
    assert result.image.shape == (*large, 3) and result.image.dtype == np.float32
    assert np.all(np.isfinite(result.image)) and np.abs(result.image).max() <= 1
    assert result.versions is result.mean is result.std is None
    if small == large:
        np.testing.assert_array_equal(result.image, picture(*small))


def test_stages_follow_each_other_and_the_last_goes_on(sr_stage, cascade):
    chain = [sr_stage, cascade.stages[2]]
    facts = estimate(10, 10, chain, (75, 60))
    assert [(one["stage"], one["size"]) for one in facts["passes"]] == [
        ("sr_16", [20, 20]), ("sr_32", [40, 40]), ("sr_32", [80, 80])]
    image = blurred(10, 10)
    whole = enlarge(image, chain, (75, 60), colour_lock=False, steps=(2, 3)).image
    first = enlarge(image, chain[:1], (20, 20), colour_lock=False, steps=2).image
    assert whole.shape == (75, 60, 3)
    # The first stage of a chain is that stage alone.
    both = enlarge(image, chain, (20, 20), colour_lock=False, steps=(2, 3)).image
    np.testing.assert_array_equal(both, first)


def test_a_small_picture_is_mirrored_until_every_window_fits(cascade):
    image = blurred(5, 3)
    facts = estimate(5, 3, cascade.stages[1:], (20, 12))
    assert [one["size"] for one in facts["passes"]] == [[16, 16], [32, 32]]
    mirrored = np.pad(image, ((1, 2), (2, 3), (0, 0)), "symmetric")
    whole = enlarge(mirrored, cascade.stages[1:], (32, 32), colour_lock=False).image
    np.testing.assert_allclose(enlarge(image, cascade.stages[1:], (20, 12), colour_lock=False).image,
                               whole[4:24, 8:20], atol=1e-5)


def test_a_regression_answers_at_once(regression):
    image = picture(8, 8)
    facts = estimate(8, 8, [regression], (16, 16), fidelity=0.5)
    assert facts["evaluations"] == 1
    answer = alone(regression, image, steps=3)
    for changes in (dict(steps=3), dict(fidelity=1.0), dict(seed=1)):
        np.testing.assert_allclose(enlarge(image, [regression], (16, 16), **PLAIN | changes).image, answer, atol=2e-4)


def test_versions_their_mean_and_what_fidelity_makes_of_them(sr_stage):
    image, options = blurred(8, 12), dict(steps=2)
    result = enlarge(image, [sr_stage], (16, 24), samples=4, fidelity=0.25, **options)
    versions = result.versions
    assert versions.shape == (4, 16, 24, 3) and result.std.shape == (16, 24)
    np.testing.assert_allclose(result.mean, versions.mean(0), atol=1e-6)
    np.testing.assert_allclose(result.std, np.sqrt(versions.var(0, ddof=1).mean(-1)), atol=1e-5)
    np.testing.assert_allclose(result.image, 0.25 * result.mean + 0.75 * versions[0], atol=1e-6)
    np.testing.assert_array_equal(versions[0], enlarge(image, [sr_stage], (16, 24), **options).image)
    assert min(np.std(one - other) for i, one in enumerate(versions) for other in versions[:i]) > 0.02
    leaning = enlarge(image, [sr_stage], (16, 24), fidelity=0.25, **options)
    np.testing.assert_allclose(leaning.image, result.image, atol=1e-6)
    assert leaning.versions is None
    facts = [estimate(8, 12, [sr_stage], (16, 24), samples=k, fidelity=f) for k, f in ((1, 0), (4, 0), (1, 0.1))]
    assert facts[0]["evaluations"] * 4 == facts[1]["evaluations"] == facts[2]["evaluations"]
    assert facts[0]["bytes"] == facts[2]["bytes"] < facts[1]["bytes"]


@pytest.mark.parametrize("large", [(40, 52), (53, 61), (80, 104)], ids=str)
def test_consistent_shrinks_to_the_input_in_8_bits(sr_stage, large):
    image = to_float(to_uint8(blurred(20, 26)))
    free, bound = (enlarge(image, [sr_stage], large, steps=2, consistent=consistent, samples=2, fidelity=0.5)
                   for consistent in (False, True))
    for x in (bound.image, bound.mean, *bound.versions):
        missing = (resize(to_float(to_uint8(x)), (20, 26)) - image) / 2
        assert np.mean(missing**2) <= 1e-6
        assert np.mean(np.abs(missing[np.abs(image) < 1]) <= 1 / 255) >= 0.999
    assert np.mean((resize(free.image, (20, 26)) - image) ** 2) > 1e-4


def test_slow_changes_are_the_inputs_where_colours_are_locked(sr_stage):
    image = 0.5 * blurred(32, 32)
    drifts = []
    for colour_lock in (False, True):
        x = enlarge(image, [sr_stage], (64, 64), steps=2, colour_lock=colour_lock).image
        drifts.append(np.abs(resize(x, (4, 4), "area") - resize(image, (4, 4), "area")).mean())
    assert drifts[1] < 0.4 * drifts[0]


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_a_grey_card_is_one_window_blended(regression, overlap):
    """All windows of it answer alike, so that what they add to a window's own steps are the weights' slopes alone."""
    card = np.full((29, 22, 3), 0.2, np.float32)
    window = enlarge(card[:8, :8], [regression], (16, 16), **PLAIN).image
    whole, wanted = enlarge(card, [regression], (58, 44), overlap=overlap, **PLAIN).image, np.zeros((58, 44, 3))
    shared = round(8 * overlap)
    (tops, down), (lefts, across) = ((2 * begins, canvas.weights(2 * begins, 16, 2 * side, 2 * shared))
                                     for side in (29, 22) for begins in [canvas.starts(side, 8, shared)])
    for top, rows in zip(tops, down):
        for left, columns in zip(lefts, across):
            wanted[top : top + 16, left : left + 16] += rows[:, None, None] * columns[:, None] * window
    np.testing.assert_allclose(whole, wanted, atol=5e-4)
    assert window.std() > 0.1


def test_batches_are_halved_where_memory_does_not_hold_them():
    sizes = []

    def run(part):
        sizes.append(len(part))
        if len(part) > 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return part * 10

    batches = Batches(8)
    found = np.concatenate([result[: len(part)] for part, result in batches(run, np.arange(7))])
    np.testing.assert_array_equal(found, np.arange(7) * 10)
    assert sizes == [8, 4, 2, 2, 2, 2] and batches.size == 2

    def fail(part):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    with pytest.raises(jax.errors.JaxRuntimeError):
        list(Batches(4)(fail, np.arange(3)))
    batches, sizes = Batches(12, 3), []  # of three devices
    list(batches(run, np.arange(4)))
    assert sizes == [12, 6, 3, 3] and batches.size == 3

    def later(part):  # two batches at a time are too much
        if len(part) > 2 and part[0]:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return part * 10

    found = np.concatenate([result[: len(part)] for part, result in Batches(4)(later, np.arange(7))])
    np.testing.assert_array_equal(found, np.arange(7) * 10)


def test_the_next_batch_is_begun_before_one_is_given():
    events = []
    for part, _ in Batches(2)(lambda part: events.append(f"begin {part[0]}"), np.arange(6)):
        events.append(f"have {part[0]}")
    assert events == ["begin 0", "begin 2", "have 0", "begin 4", "have 2", "have 4"]


def test_an_estimate_knows_the_time_once_a_window_has_been_timed(sr_stage):
    stage = _silent(sr_stage)
    assert estimate(20, 20, [stage], (40, 40))["seconds"] is None
    enlarge(picture(8, 8), [stage], (16, 16), steps=2)  # the first one compiles
    assert 0 < estimate(20, 20, [stage], (40, 40))["seconds"] < 60


def test_an_estimate_is_of_whole_steps_not_of_the_window_that_was_waited_for_least(sr_stage):
    """While the host does something else, here sleep, devices get ahead."""
    stage = _silent(sr_stage)
    enlarge(picture(12, 12), [stage], (24, 24), steps=2, window_batch=1, progress=lambda n: time.sleep(0.3 * n))
    told = estimate(12, 12, [stage], (24, 24), steps=2)
    assert told["seconds"] > 0.2 * told["evaluations"]


def test_classes(sr_stage, tiny_sr):
    image = picture(8, 8)
    labelled = enlarge(image, [sr_stage], (16, 16), label="food").image
    np.testing.assert_array_equal(labelled, enlarge(image, [sr_stage], (16, 16), label=1).image)
    assert np.abs(labelled - enlarge(image, [sr_stage], (16, 16)).image).mean() > 0.01
    guided = enlarge(image, [sr_stage], (16, 16), label="food", guidance=2.0).image
    assert np.abs(labelled - guided).mean() > 0.01
    tiny_sr.train.class_dropout = 0.0
    with pytest.raises(ValueError, match=r"`label` \(=None\) .*sr_16.*: one, other"):
        enlarge(image, [Stage(tiny_sr, ("one", "other"))], (16, 16))


@pytest.mark.parametrize("changes, message", [
    (dict(size=(7, 16)), r"`size` \(=7x16\) must be at least the picture's, 8x8"),
    (dict(stages=[]), r"`stages` \(=\[\]\)"),
    (dict(samples=0), r"`samples` \(=0\)"),
    (dict(fidelity=1.5), r"`fidelity` \(=1.5\)"),
    (dict(overlap=1.0), r"`overlap` \(=1.0\)"),
    (dict(seed=-1), r"`seed` \(=-1\)"),
    (dict(steps=(1, 2)), r"`steps` \(=1,2\) must have 1 or 1 values"),
    (dict(guidance=1.0), r"`guidance` \(=1.0\) must come with a `label`"),
    (dict(label="fool"), r"`class` \(=fool\)"),
    (dict(window_batch=0), r"`window_batch` \(=0\)"),
    (dict(image=np.zeros((8, 8))), r"`image` \(shape \(8, 8\)\)"),
    (dict(image=np.full((8, 8, 3), np.nan)), r"`image` \(shape \(8, 8, 3\)\)"),
], ids=str)
def test_mistakes_are_named(sr_stage, changes, message):
    with pytest.raises(ValueError, match=message):
        enlarge(**dict(image=picture(8, 8), stages=[sr_stage], size=(16, 16)) | changes)


def test_a_base_stage_is_none_of_them(base_stage):
    with pytest.raises(ValueError, match=r"`stages` \(=base_8\)"):
        enlarge(picture(8, 8), [base_stage], (16, 16))


def test_a_photo_stage_is_not_held_to_the_noise_of_its_input(tiny_sr):
    tiny_sr.degrade.kind = "photo"
    with pytest.raises(ValueError, match=r"`consistent` \(=True\) must be False for sr_16: .*noise"):
        estimate(8, 8, [Stage(tiny_sr, ())], (16, 16), consistent=True)
