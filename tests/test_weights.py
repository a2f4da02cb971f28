"""Weights by noise level: each against its paper's own formula, whatever the network predicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm.diffusion import process, schedules, weights

LOGSNR = np.linspace(-12, 12, 49)
SNR = np.exp(LOGSNR)


def factor(kind, target, **options):
    return np.asarray(weights.weight(kind, target, jnp.asarray(LOGSNR, jnp.float32), **options), np.float64)


@pytest.mark.parametrize("kind", weights.KINDS)
def test_a_weight_is_the_same_loss_for_every_target(kind):
    """Weighted, the losses of one x0 seen through eps, x0 or v are equal, but for "uniform", which is each one's own."""
    x0, guess, eps = jax.random.normal(jax.random.key(0), (3, 49, 2, 2, 3))
    logsnr = jnp.asarray(np.clip(LOGSNR, -6, 6), jnp.float32)
    x_t = process.q_sample(x0, logsnr, eps)
    found = []
    for target in process.TARGETS:
        answer = process.target(target, guess, (x_t - process.alpha_sigma(logsnr, x_t)[0] * guess)
                                / process.alpha_sigma(logsnr, x_t)[1], logsnr)
        found.append(weights.weight(kind, target, logsnr) * process.simple_loss(target, answer, x0, eps, logsnr))
    if kind == "uniform":
        np.testing.assert_allclose(weights.weight(kind, "v", logsnr), 1)
        assert not np.allclose(found[0], found[1])
    else:
        np.testing.assert_allclose(found[0], found[1], rtol=2e-2)
        np.testing.assert_allclose(found[2], found[1], rtol=2e-2)


def test_min_snr_is_the_published_one_in_each_space():
    np.testing.assert_allclose(factor("min_snr", "x0"), np.minimum(SNR, 5), rtol=1e-5)
    np.testing.assert_allclose(factor("min_snr", "eps"), np.minimum(5 / SNR, 1), rtol=1e-5)
    np.testing.assert_allclose(factor("min_snr", "v"), np.minimum(SNR, 5) / (SNR + 1), rtol=1e-5)


def test_truncated_snr_is_the_published_one():
    np.testing.assert_allclose(factor("truncated_snr", "x0"), np.maximum(SNR, 1), rtol=1e-5)


def test_edm_is_the_published_one_for_standardised_pictures():
    """(s^2 + d^2) / (s d)^2 on the error of x0 = d y0, with SNR of y0 = d^2 / s^2: what preconditioning makes uniform."""
    d, sigma = 0.5, 0.5 / np.sqrt(SNR)
    np.testing.assert_allclose(factor("edm", "x0"), (sigma**2 + d**2) / (sigma * d) ** 2 * d**2, rtol=1e-5)
    np.testing.assert_allclose(factor("edm", "v"), 1, rtol=1e-6)


def test_the_sigmoid_weight_does_not_depend_on_the_schedule():
    """Per unit of logSNR it is sigmoid(b - logSNR) on the error of eps: integrated over the time of any schedule, the same
    number."""
    found = []
    for schedule in (schedules.Cosine(-10.0, 10.0), schedules.Flow(-10.0, 10.0), schedules.Edm(-10.0, 10.0, deviation=3.0)):
        t = jnp.asarray((np.arange(50_000) + 0.5) / 50_000, jnp.float32)
        logsnr = schedule.logsnr(t)
        loss = 1 / (1 + jnp.exp(0.3 * logsnr))  # some error of eps by level
        found.append(float(jnp.mean(loss * weights.weight("sigmoid", "eps", logsnr, schedules.rate(schedule, t)))))
    levels = np.linspace(-10, 10, 100_001)
    wanted = np.trapezoid(1 / (1 + np.exp(0.3 * levels)) / (1 + np.exp(levels + 3)), levels)
    np.testing.assert_allclose(found, wanted, rtol=2e-3)


def test_weights_are_finite_at_every_level():
    logsnr = jnp.linspace(-20, 20, 401)
    for kind in weights.KINDS:
        for target in process.TARGETS:
            assert np.all(np.isfinite(weights.weight(kind, target, logsnr)))


def test_an_unknown_weight_is_one_line():
    with pytest.raises(ValueError, match=r"`weight` \(='p2'\) must be one of"):
        weights.weight("p2", "v", jnp.zeros(1))
