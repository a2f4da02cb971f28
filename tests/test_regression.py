"""A regression, SR3's own baseline: a denoiser that does not look at x_t, so every sampler gives its one answer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdm import config as configs
from cdm.cascade import sample_stage
from cdm.diffusion import samplers
from cdm.images.resize import resize, to_float
from cdm.stage import Stage


@pytest.fixture
def regression(tiny_sr):
    """A config that a test may change: the regression that goes with `tiny_sr`."""
    tiny_sr.diffusion.loss, tiny_sr.diffusion.target = "regression", "x0"
    tiny_sr.augment.max_level, tiny_sr.sample.aug_level, tiny_sr.sample.steps = 0.0, 0.0, 1
    return tiny_sr


@pytest.fixture
def lowres():
    return np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("residual", [False, True])
def test_its_sample_is_what_the_network_answers_whatever_is_asked(regression, make_stage, lowres, residual):
    regression.diffusion.residual, regression.diffusion.data_std = residual, 0.1 if residual else 1.0
    stage, labels = make_stage(regression), np.array([0, 1, 2])
    zeros, levels = np.zeros((3, 16, 16, 3), np.float32), np.full((2, 3), [[-20], [20]], np.float32)
    answer = jax.jit(stage.network.apply)(stage.params, zeros, levels[0], labels, lowres, levels[1])
    if residual:
        answer = resize(jnp.asarray(lowres), 16) + 0.1 * answer
    assert np.std(answer) > 0.1
    for changes in ({}, {"seed": 1}, *({"sampler": name, "steps": 3} for name in samplers.SAMPLERS)):
        sample = sample_stage(stage, labels, lowres=lowres, **changes)
        np.testing.assert_allclose(sample, np.clip(answer, -1, 1), atol=1e-4, err_msg=str(changes))
    np.testing.assert_array_equal(sample_stage(stage, labels, 0, lowres), sample_stage(stage, labels, 1, lowres))


def test_it_says_of_x_t_the_noise_that_its_x0_leaves(regression, make_stage, lowres):
    stage, random = make_stage(regression), np.random.default_rng(1)
    x_t, logsnr = random.normal(size=(3, 16, 16, 3)).astype(np.float32), np.float32([-3, 0, 3])
    x0, eps, _ = jax.jit(stage.predict)(stage.params, x_t, logsnr, np.array([0, 1, 2]), lowres,
                                        np.full(3, np.float32(20)))
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(sign * logsnr))).reshape(-1, 1, 1, 1) for sign in (-1, 1))
    np.testing.assert_allclose(alpha * x0 + sigma * eps, x_t, atol=1e-4)


def test_its_loss_does_not_depend_on_the_noise(regression, make_stage):
    stage, random = make_stage(regression), np.random.default_rng(0)
    image = random.integers(0, 256, (4, 16, 16, 3), np.uint8)
    x0, lowres = stage.pair(image)
    eps = random.normal(size=(2, 4, 16, 16, 3)).astype(np.float32)
    rest = np.zeros(4, np.int32), lowres, np.full(4, np.float32(20))
    loss = jax.jit(stage.regress)
    losses = [loss(stage.params, x0, np.float32([level] * 4), e, *rest) for level, e in zip((-9, 9), eps)]
    np.testing.assert_array_equal(*losses)
    answer = jax.jit(stage.network.apply)(stage.params, 0 * x0, np.full(4, np.float32(-20)), *rest)
    np.testing.assert_allclose(losses[0], np.mean((answer - to_float(image)) ** 2, axis=(1, 2, 3)), rtol=1e-4)


@pytest.mark.slow
def test_trained_it_comes_to_the_conditional_mean(regression):
    """Pictures of one grey level each, shown by a low-res picture, and a checkerboard of random sign that is not: the
    mean given the low-res picture is the grey level alone, at an error of the checkerboard's power."""
    stage, random, adam = Stage(regression, ()), np.random.default_rng(0), optax.adam(1e-2)
    checks = 60.0 * (1 - 2 * (np.indices((16, 16)).sum(0) % 2))[None, :, :, None]

    def pictures(count):
        grey = random.uniform(64, 192, (count, 1, 1, 1)).round()
        return np.uint8(np.broadcast_to(grey + random.choice([-1, 1], grey.shape) * checks, (count, 16, 16, 3))), grey

    @jax.jit
    def step(params, moments, image, index):
        slope = jax.grad(lambda p: stage.loss(p, image, jnp.zeros(16, int), index, 0)[0])(params)
        updates, moments = adam.update(slope, moments)
        return optax.apply_updates(params, updates), moments

    stage.params = jax.jit(stage.init)()
    moments = adam.init(stage.params)
    for i in range(150):
        index = np.arange(16 * i, 16 * i + 16, dtype=np.uint32)
        stage.params, moments = step(stage.params, moments, pictures(16)[0], index)
    image, grey = pictures(32)
    lowres = np.asarray(resize(to_float(image), 8))
    made = sample_stage(stage, np.zeros(32, int), lowres=lowres)
    error = np.sqrt(np.mean((made - to_float(grey)) ** 2)) * 127.5
    assert error < 8  # of 8 bits; the checkerboard's is 60


@pytest.mark.parametrize("name, value", [("diffusion.target", "v"), ("augment.max_level", 0.1), ("sample.steps", 2)])
def test_what_has_no_meaning_in_a_regression_is_refused(regression, name, value):
    configs.validate(regression)
    part, option = name.split(".")
    regression[part][option] = value
    with pytest.raises(ValueError, match=f"^`{name}` \\(={value}\\) must be .* in a regression"):
        configs.validate(regression)


def test_a_base_stage_has_nothing_to_regress_on(tiny_base):
    tiny_base.diffusion.loss = "regression"
    with pytest.raises(ValueError, match="^`diffusion.loss` .*regression.* base stage"):
        configs.validate(tiny_base)


def test_an_unknown_loss_is_refused(tiny_sr):
    tiny_sr.diffusion.loss = "gan"
    with pytest.raises(ValueError, match="^`diffusion.loss` \\(=gan\\) must be diffusion or regression"):
        configs.validate(tiny_sr)
