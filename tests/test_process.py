"""The forward process: conversions, the posterior and the losses against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm.diffusion import process

EPS32 = np.finfo(np.float32).eps
LEVELS = np.linspace(-20, 20, 41)
every_target = pytest.mark.parametrize("target", process.TARGETS)


def images(seed, batch=len(LEVELS)):
    return jax.random.normal(jax.random.key(seed), (batch, 4, 4, 3))


def test_the_process_preserves_variance_and_has_the_snr_it_says():
    alpha, sigma = process.alpha_sigma(jnp.asarray(LEVELS))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=4 * EPS32)
    np.testing.assert_allclose(alpha**2 / sigma**2, np.exp(LEVELS), rtol=1e-5)


def test_the_ends_are_exact():
    np.testing.assert_array_equal(process.alpha_sigma(jnp.asarray([-np.inf, np.inf])), [[0, 1], [1, 0]])


def test_q_sample_has_the_mean_and_variance_of_its_definition():
    logsnr = np.array([-3.0, 0.0, 2.5])
    x0 = jnp.broadcast_to(jnp.asarray([-0.8, 0.1, 0.9]).reshape(3, 1, 1, 1), (3, 100, 100, 1))
    x = np.asarray(process.q_sample(x0, jnp.asarray(logsnr), jax.random.normal(jax.random.key(0), x0.shape)))
    alpha2 = 1 / (1 + np.exp(-logsnr))
    np.testing.assert_allclose(x.mean((1, 2, 3)), np.sqrt(alpha2) * [-0.8, 0.1, 0.9], atol=0.05)
    np.testing.assert_allclose(x.var((1, 2, 3)), 1 - alpha2, rtol=0.07)


@every_target
def test_prediction_inverts_target_at_every_level(target):
    """The division by alpha or sigma is as ill-conditioned as exp(|logsnr| / 2) and no worse."""
    x0, eps, logsnr = images(1), images(2), jnp.asarray(LEVELS, jnp.float32)
    answer = process.target(target, x0, eps, logsnr)
    ours = process.prediction(target, answer, process.q_sample(x0, logsnr, eps), logsnr)
    bound = 8 * EPS32 * np.exp(np.abs(LEVELS) / 2)
    for got, wanted in ((ours.x0, x0), (ours.eps, eps)):
        worst = np.abs(got - wanted).max((1, 2, 3))
        assert np.all(worst <= bound * np.abs(wanted).max((1, 2, 3)))  # false for a NaN


@every_target
def test_a_prediction_puts_x_t_together_again(target):
    x, output, logsnr = images(1), images(2), jnp.asarray(LEVELS, jnp.float32)
    x0, eps, _ = process.prediction(target, output, x, logsnr)
    again = process.q_sample(x0, logsnr, eps)
    np.testing.assert_allclose(again, x, atol=32 * EPS32)


@pytest.mark.parametrize("t, s", [(-20.0, -5.0), (-2.0, -1.9), (-1.0, 1.0), (3.0, 9.0), (0.5, np.inf)])
def test_posterior_is_the_gaussian_conditioned_on_x_t(t, s):
    """x_s given x_t of the joint Gaussian of both (given x0), in float64."""
    def alpha_sigma(logsnr):
        return np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))

    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    x0, x_t = np.asarray(images(1, 2), np.float64), np.asarray(images(2, 2), np.float64)
    covariance = alpha_t / alpha_s * sigma_s**2  # x_t = alpha_t / alpha_s x_s + independent noise
    mean = alpha_s * x0 + covariance / sigma_t**2 * (x_t - alpha_t * x0)
    variance = sigma_s**2 - covariance**2 / sigma_t**2

    ours = process.posterior(jnp.asarray(x_t, jnp.float32), jnp.asarray(x0, jnp.float32), np.full(2, t), np.full(2, s))
    np.testing.assert_allclose(ours[0], mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.ravel(ours[1]), variance, rtol=1e-5)


@every_target
def test_x0_mse_is_the_mean_squared_error_of_x0(target):
    x0, eps, output = images(1), images(2), images(3)
    logsnr = jnp.linspace(-4, 4, len(LEVELS))
    loss = process.simple_loss(target, output, x0, eps, logsnr)
    guess = process.prediction(target, output, process.q_sample(x0, logsnr, eps), logsnr).x0
    wanted = jnp.mean((guess - x0) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(process.x0_mse(target, loss, logsnr), wanted, rtol=1e-4)


def test_losses_differ_by_snr_and_snr_plus_one():
    logsnr, error = jnp.linspace(-4, 4, 9), jnp.ones(9)
    snr = np.exp(logsnr)
    np.testing.assert_allclose(snr * process.x0_mse("eps", error, logsnr), error, rtol=1e-6)
    np.testing.assert_allclose((snr + 1) * process.x0_mse("v", error, logsnr), error, rtol=1e-6)


@every_target
def test_the_loss_is_per_example_and_zero_for_the_right_answer(target):
    x0, eps, logsnr = images(1, 3), images(2, 3), jnp.asarray([-1.0, 0.0, 1.0])
    right = process.target(target, x0, eps, logsnr)
    off = right.at[1].add(2.0)
    np.testing.assert_allclose(process.simple_loss(target, off, x0, eps, logsnr), [0, 4, 0], rtol=1e-6)


@pytest.mark.parametrize("call", [process.target, process.prediction])
def test_an_unknown_target_is_named(call):
    with pytest.raises(ValueError, match=r"`target` \(='score'\)"):
        call("score", images(1, 1), images(1, 1), jnp.zeros(1))


@pytest.mark.parametrize("std", [0.05, 0.5, 3.0])
def test_a_standardised_process_is_the_process_of_the_standardised_image(std):
    x0, eps, mean = images(0), images(1), images(2)
    logsnr = jnp.asarray(LEVELS, jnp.float32)
    y_t, logsnr_y = process.standardise(process.q_sample(x0, logsnr, eps), logsnr, mean, std)
    wanted = process.q_sample((x0 - mean) / std, logsnr_y, eps)
    np.testing.assert_allclose(logsnr_y, LEVELS + 2 * np.log(std), rtol=1e-6, atol=1e-5)
    # x_t - alpha mean cancels down to std x0 where there is no noise left: a relative error of 1 / std.
    np.testing.assert_allclose(y_t, wanted, atol=40 * EPS32 * max(1, 1 / std))


@pytest.mark.parametrize("std", [0.25, 0.5, 1.0])
def test_v_of_the_standardised_image_is_edms_preconditioning(std):
    """Karras et al. 2022, eq. 7 and table 1: D = c_skip x + c_out F(c_in x) of x = x0 + s n, s = sigma / alpha."""
    x0, eps = np.float64(images(0)), np.float64(images(1))
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(sign * LEVELS))).reshape(-1, 1, 1, 1) for sign in (-1, 1))
    x_t, s = alpha * x0 + sigma * eps, sigma / alpha
    output = np.float64(images(3))
    edm = std**2 / (s**2 + std**2) * x_t / alpha - s * std / np.sqrt(s**2 + std**2) * output
    logsnr = jnp.asarray(LEVELS, jnp.float32)
    y_t, logsnr_y = process.standardise(jnp.asarray(x_t, jnp.float32), logsnr, 0.0, std)
    np.testing.assert_allclose(y_t, x_t / alpha / np.sqrt(s**2 + std**2), rtol=1e-4, atol=1e-5)  # c_in x
    ours = std * process.prediction("v", jnp.asarray(output, jnp.float32), y_t, logsnr_y).x0
    np.testing.assert_allclose(ours, edm, atol=1e-5)
