"""The variational bound: closed forms, numerical integration, and the learned variance's optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from cdm.diffusion import process, schedules, vlb

TABLE = schedules.DiscreteCosine(50).table


def test_variances_are_those_of_ddpm():
    """beta_k and beta~_k = (1 - abar_{k-1}) / (1 - abar_k) beta_k from the betas themselves; entry 0 takes entry 1's."""
    betas = schedules.DiscreteCosine(50)._betas()
    abar = np.cumprod(1 - betas)
    log_beta, log_posterior = vlb.variances(TABLE)
    np.testing.assert_allclose(np.exp(log_beta), betas, rtol=1e-9)
    np.testing.assert_allclose(np.exp(log_posterior[1:]), ((1 - abar[:-1]) / (1 - abar[1:]) * betas[1:]), rtol=1e-9)
    assert log_posterior[0] == log_posterior[1]


@pytest.mark.parametrize("mean, deviation", [(0.3, 0.7), (-2.0, 2.5)])
def test_the_kl_of_two_normals_is_its_integral(mean, deviation):
    q, p = scipy.stats.norm(0.1, 0.5), scipy.stats.norm(mean, deviation)
    integral = scipy.integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -6, 6)[0]
    ours = vlb.normal_kl(0.1, 2 * np.log(0.5), mean, 2 * np.log(deviation))
    np.testing.assert_allclose(ours, integral, rtol=1e-5)


@pytest.mark.parametrize("deviation", [0.002, 0.02, 0.5])
def test_grey_levels_are_a_distribution(deviation):
    """The probabilities of the 256 levels sum to 1, and each is the integral over its width."""
    levels = np.arange(256) / 127.5 - 1
    nll = vlb.grey_nll(jnp.asarray(levels, jnp.float32), 0.213, 2 * np.log(deviation))
    probability = np.exp(-np.asarray(nll, np.float64))
    assert probability.sum() == pytest.approx(1, abs=2e-3)
    normal = scipy.stats.norm(0.213, deviation)
    for k in (130, 150, 156, 160, 200):
        wanted = normal.cdf(levels[k] + 1 / 255) - normal.cdf(levels[k] - 1 / 255)
        if wanted > 1e-6:
            assert probability[k] == pytest.approx(wanted, rel=5e-3)


def gaussian(variance):
    """The exact denoiser of pixels N(0, variance)."""
    def denoise(x, logsnr):
        alpha, sigma = process.alpha_sigma(logsnr, x)
        return process.prediction("x0", alpha * variance * x / (alpha**2 * variance + sigma**2), x, logsnr)

    return denoise


def true_fraction(entry, variance, table=TABLE):
    """Where the variance of p(x_{k-1} | x_k) of such pixels lies between beta~ and beta, in the logarithm."""
    log_beta, log_posterior = vlb.variances(table)
    (a_t, s_t), (a_s, s_s) = ([np.sqrt(1 / (1 + np.exp(sign * table[k]))) for sign in (-1, 1)] for k in (entry, entry - 1))
    own_t, own_s = a_t**2 * variance + s_t**2, a_s**2 * variance + s_s**2
    covariance = a_t / a_s * own_s  # of x_t = (a_t / a_s) x_s + noise with x_s
    conditional = own_s - covariance**2 / own_t
    return (np.log(conditional) - log_posterior[entry]) / (log_beta[entry] - log_posterior[entry])


@pytest.mark.parametrize("entry", [3, 20, 40])
def test_the_learned_variance_has_its_optimum_at_the_true_one(entry):
    """Over many images of a Gaussian, the bound's slope in the fraction is zero where the variance is the true one."""
    variance, size = 0.25, (40_000, 1, 1, 1)
    x0 = 0.5 * jax.random.normal(jax.random.key(0), size)
    k = jnp.full(size[0], entry)
    x_t = process.q_sample(x0, jnp.asarray(TABLE, jnp.float32)[k], jax.random.normal(jax.random.key(1), size))
    prediction = gaussian(variance)(x_t, jnp.asarray(TABLE, jnp.float32)[k])

    def loss(fraction):
        return vlb.term(TABLE, k, x0, x_t, prediction._replace(fraction=jnp.full(size, fraction))).mean()

    best = true_fraction(entry, variance)
    assert 0 < best < 1
    fractions = jnp.linspace(best - 0.3, best + 0.3, 31)
    values = [float(loss(f)) for f in fractions]
    assert float(fractions[int(np.argmin(values))]) == pytest.approx(best, abs=0.05)


def test_the_whole_bound_of_a_gaussian_is_near_its_entropy():
    """Sum of all terms, with the exact denoiser and variances: an upper bound of -log p(x0) on grey levels, and near it
    for many fine steps."""
    steps, variance = 1000, 0.04
    table = schedules.DiscreteCosine(steps).table
    random = np.random.default_rng(0)
    levels = np.clip(np.round((random.normal(0, 0.2, 2000) + 1) * 127.5), 0, 255) / 127.5 - 1
    x0 = jnp.asarray(levels, jnp.float32).reshape(-1, 1, 1, 1)
    levels_of = jnp.asarray(table, jnp.float32)

    @jax.jit
    def term(k, key, fraction):
        entry = jnp.full(len(x0), k)
        x_t = process.q_sample(x0, levels_of[entry], jax.random.normal(key, x0.shape))
        prediction = gaussian(variance)(x_t, levels_of[entry])
        return vlb.term(table, entry, x0, x_t, prediction._replace(fraction=jnp.full(x0.shape, fraction))).mean()

    total = float(vlb.prior(table, x0).mean()) + sum(
        float(term(k, key, true_fraction(k, variance, table) if k else 0.0))
        for k, key in enumerate(jax.random.split(jax.random.key(0), steps)))
    print(total)
    entropy = float(np.mean(np.asarray(vlb.grey_nll(x0, 0.0, 2 * np.log(0.2))))) / np.log(2)
    assert entropy - 0.02 < total < entropy + 0.15


def test_the_prior_term_is_that_of_what_is_left_of_the_image():
    x0 = jnp.full((2, 1, 1, 1), 0.8)
    alpha2 = 1 / (1 + np.exp(-TABLE[-1]))
    np.testing.assert_allclose(vlb.prior(TABLE, x0), 0.5 * (alpha2 * 0.64 - alpha2 - np.log1p(-alpha2)) / np.log(2),
                               rtol=1e-2, atol=1e-7)
