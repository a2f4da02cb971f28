"""Guidance: a linear combination of two denoisers, and the bond of x0 and eps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm.diffusion import guidance, process

LOGSNR = jnp.asarray([-3.0, 0.0, 4.0])


def x_t():
    return jax.random.normal(jax.random.key(0), (3, 2, 2, 3))


def gaussian(mean, variance):
    """The exact denoiser of images whose pixels are N(mean, variance) each; both broadcast against [B, 1, 1, 1]."""
    def denoise(x, logsnr):
        alpha, sigma = process.alpha_sigma(logsnr, x)
        x0 = mean + alpha * variance * (x - alpha * mean) / (alpha**2 * variance + sigma**2)
        return process.prediction("x0", x0, x, logsnr)

    return denoise


CONDITIONAL, UNCONDITIONAL = gaussian(0.5, 0.2), gaussian(-0.2, 0.8)


def pair(x, logsnr):
    """Both of them on a doubled batch, as a network with a null class answers."""
    which = jnp.repeat(jnp.asarray([True, False]), len(x) // 2).reshape(-1, 1, 1, 1)
    return gaussian(jnp.where(which, 0.5, -0.2), jnp.where(which, 0.2, 0.8))(x, logsnr)


def test_weight_zero_is_the_conditional_prediction():
    ours, wanted = guidance.class_guidance(pair, 0.0)(x_t(), LOGSNR), CONDITIONAL(x_t(), LOGSNR)
    np.testing.assert_allclose(ours.x0, wanted.x0, atol=1e-6)
    np.testing.assert_allclose(ours.eps, wanted.eps, atol=1e-5)


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_guidance_in_eps_is_the_published_formula(weight):
    ours = guidance.class_guidance(pair, weight)(x_t(), LOGSNR)
    eps, null = CONDITIONAL(x_t(), LOGSNR).eps, UNCONDITIONAL(x_t(), LOGSNR).eps
    np.testing.assert_allclose(ours.eps, (1 + weight) * eps - weight * null, rtol=1e-4, atol=1e-4)


def test_guidance_is_the_same_combination_of_scores():
    """The score is -eps / sigma: guided, the gradient of log p(x|c)^(1+w) / p(x)^w, here in closed form."""
    w, x = 1.5, x_t()
    alpha, sigma = process.alpha_sigma(LOGSNR, x)

    def score(mean, variance):
        return -(x - alpha * mean) / (alpha**2 * variance + sigma**2)

    ours = guidance.class_guidance(pair, w)(x, LOGSNR)
    wanted = (1 + w) * score(0.5, 0.2) - w * score(-0.2, 0.8)
    np.testing.assert_allclose(-ours.eps / sigma, wanted, rtol=1e-3, atol=1e-3)


def test_the_weight_may_differ_from_example_to_example():
    weights = jnp.asarray([0.0, 1.0, 2.0])
    ours = guidance.class_guidance(pair, weights)(x_t(), LOGSNR).x0
    each = [guidance.class_guidance(pair, float(w))(x_t(), LOGSNR).x0[i] for i, w in enumerate(weights)]
    np.testing.assert_allclose(ours, jnp.stack(each), atol=1e-6)


@pytest.mark.parametrize("adapted", [guidance.class_guidance(pair, 2.0),
                                     guidance.static_threshold(CONDITIONAL, 0.3),
                                     guidance.static_threshold(guidance.class_guidance(pair, 2.0)),
                                     guidance.autoguidance(CONDITIONAL, UNCONDITIONAL, 2.0),
                                     guidance.dynamic_threshold(guidance.class_guidance(pair, 2.0), 90.0)])
def test_every_adapter_keeps_x_t(adapted):
    x0, eps, _ = adapted(x_t(), LOGSNR)
    np.testing.assert_allclose(process.q_sample(x0, LOGSNR, eps), x_t(), atol=1e-6)


def test_the_threshold_clips_what_lies_outside_and_nothing_else():
    free, clipped = CONDITIONAL(x_t(), LOGSNR).x0, guidance.static_threshold(CONDITIONAL, 0.4)(x_t(), LOGSNR).x0
    assert np.any(np.abs(free) > 0.4) and np.any(np.abs(free) < 0.4)
    np.testing.assert_array_equal(clipped, np.clip(free, -0.4, 0.4))


def test_autoguidance_by_the_null_class_is_class_guidance():
    ours = guidance.autoguidance(CONDITIONAL, UNCONDITIONAL, 1.5)(x_t(), LOGSNR)
    np.testing.assert_allclose(ours.x0, guidance.class_guidance(pair, 1.5)(x_t(), LOGSNR).x0, atol=1e-5)


@pytest.mark.parametrize("logsnr, inside", [(-3.0, False), (0.5, True), (4.0, False)])
def test_guidance_is_limited_to_its_interval_and_not_computed_outside(logsnr, inside):
    calls = []

    def counted(x, logsnr):
        jax.debug.callback(lambda: calls.append(1))
        return guidance.class_guidance(pair, 2.0)(x, logsnr)

    levels = jnp.full(3, logsnr)
    ours = jax.jit(guidance.limited(counted, CONDITIONAL, (-1.0, 2.0)))(x_t(), levels)
    wanted = guidance.class_guidance(pair, 2.0) if inside else CONDITIONAL
    np.testing.assert_allclose(ours.x0, wanted(x_t(), levels).x0, atol=1e-6)
    jax.effects_barrier()
    assert len(calls) == inside


def test_the_dynamic_threshold_is_that_of_each_image():
    """Image 0 lies within [-1, 1] and stays; image 1 is brought back by its own percentile."""
    x0 = jnp.stack([jnp.linspace(-0.9, 0.9, 12), jnp.linspace(-4, 4, 12)]).reshape(2, 2, 2, 3)
    ours = guidance.dynamic_threshold(lambda x, logsnr: process.Prediction(x0, x), 80.0)(x0, jnp.zeros(2)).x0
    np.testing.assert_allclose(ours[0], x0[0], atol=1e-6)
    s = np.percentile(np.abs(x0[1]), 80.0)
    np.testing.assert_allclose(ours[1], np.clip(x0[1], -s, s) / s, rtol=1e-5)
    assert s > 1 and np.abs(ours).max() == pytest.approx(1)


def test_the_variance_fraction_is_that_of_the_better_prediction():
    def with_fraction(denoise, value):
        return lambda x, logsnr: denoise(x, logsnr)._replace(fraction=jnp.full(x.shape, value))

    def both(x, logsnr):
        which = jnp.repeat(jnp.asarray([0.3, 0.6]), len(x) // 2).reshape(-1, 1, 1, 1)
        return pair(x, logsnr)._replace(fraction=jnp.broadcast_to(which, x.shape))

    for guided in (guidance.class_guidance(both, 2.0), guidance.static_threshold(with_fraction(CONDITIONAL, 0.3)),
                   guidance.dynamic_threshold(with_fraction(CONDITIONAL, 0.3)),
                   guidance.autoguidance(with_fraction(CONDITIONAL, 0.3), UNCONDITIONAL, 2.0)):
        np.testing.assert_allclose(guided(x_t(), LOGSNR).fraction, 0.3, rtol=1e-6)
