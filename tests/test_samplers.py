"""Samplers on Gaussian data, whose denoiser is exact: moments, orders of convergence, and the one traced loop.

For x_0 ~ N(mu, S) the denoiser is E[x_0 | x_t] = mu + alpha S (alpha^2 S + sigma^2)^-1 (x_t - alpha mu), and the
probability flow keeps (alpha^2 S + sigma^2)^-1/2 (x_t - alpha mu) constant.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm.diffusion import grids, process, samplers, schedules
from cdm.images import augment

SAMPLERS = {
    "ancestral_small": ("ancestral", dict(variance="small")),
    "ancestral_large": ("ancestral", dict(variance="large")),
    "ddim_0": ("ddim", dict(eta=0.0)),
    "ddim_half": ("ddim", dict(eta=0.5)),
    "ddim_1": ("ddim", dict(eta=1.0)),
    "dpmpp_2m": ("dpmpp_2m", {}),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", {}),
    "heun": ("heun", {}),
    "heun_churn": ("heun", dict(churn=40.0)),
}
every_sampler = pytest.mark.parametrize("name", SAMPLERS)

BATCH = 16384
MEAN = np.array([0.3, -0.2])
COVARIANCE = np.array([[0.09, 0.05], [0.05, 0.04]])
# A mixture of three Gaussians.
SHARES, CENTRES, SPREAD = np.array([0.5, 0.3, 0.2]), np.array([[-0.6, -0.2], [0.5, -0.5], [0.3, 0.7]]), 0.1


def coefficients(name, knots):
    """a, b, c, d of eq. 1, [n, 4]."""
    sampler, options = SAMPLERS[name]
    return samplers.SAMPLERS[sampler](knots, **options)[1][:, :4]


def levels(name, knots):
    """Where the denoiser is asked, [n]."""
    sampler, options = SAMPLERS[name]
    return samplers.SAMPLERS[sampler](knots, **options)[0]


def alpha_sigma(logsnr):
    return np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))


def denoiser(mean, covariance):
    """The exact denoiser of two-pixel images [B, 1, 2, 1] drawn from this Gaussian."""
    values, vectors = (jnp.asarray(a, jnp.float32) for a in np.linalg.eigh(covariance))
    mean = jnp.asarray(mean, jnp.float32)

    def denoise(x, logsnr):
        alpha, sigma = process.alpha_sigma(logsnr[:, None])
        centred = (x.reshape(-1, 2) - alpha * mean) @ vectors
        x0 = mean + (alpha * values / (alpha**2 * values + sigma**2) * centred) @ vectors.T
        return process.prediction("x0", x0.reshape(x.shape), x, logsnr)

    return denoise


def mixture(x, logsnr):
    """The exact denoiser of two-pixel images drawn from the Gaussians of SHARES, CENTRES and SPREAD."""
    alpha, sigma = process.alpha_sigma(logsnr[:, None, None])
    centred = x.reshape(-1, 1, 2) - alpha * jnp.asarray(CENTRES, jnp.float32)
    variance = alpha**2 * SPREAD**2 + sigma**2
    share = jax.nn.softmax(np.log(SHARES) - (centred**2).sum(-1) / (2 * variance[..., 0]))
    each = CENTRES + alpha * SPREAD**2 / variance * centred
    return process.prediction("x0", (share[..., None] * each).sum(1).reshape(x.shape), x, logsnr)


@functools.partial(jax.jit, static_argnums=2)
def draw(plan, seed, denoise=denoiser(MEAN, COVARIANCE)):
    """BATCH images by an exact denoiser, [BATCH, 1, 2, 1]: one program for every sampler and number of steps."""
    def noise(i):
        return jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), (BATCH, 1, 2, 1))

    return samplers.sample(plan, denoise, noise, noise(samplers.CAPACITY))


def assert_moments(x, mean, covariance):
    """Mean and covariance of [B, 1, 2, 1] within five standard errors and 1 % for the size of the steps."""
    x = np.asarray(x, np.float64).reshape(-1, 2)
    variance = np.diag(covariance)
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / len(x))
    assert np.all(np.abs(x.mean(0) - mean) <= 5 * np.sqrt(variance / len(x)) + 0.01 * np.sqrt(variance))
    assert np.all(np.abs(np.cov(x.T) - covariance) <= 5 * error + 0.01 * np.sqrt(np.outer(variance, variance)))


# Moments


@every_sampler
def test_a_sampler_draws_from_the_gaussian(name):
    sampler, options = SAMPLERS[name]
    plan = samplers.plan(sampler, grids.grid(schedules.Cosine(-12.0, 12.0), 500), **options)
    assert_moments(draw(plan, 0), MEAN, COVARIANCE)


@every_sampler
def test_a_sampler_draws_from_the_mixture(name):
    """Each mode by its share, and the moments of the whole."""
    sampler, options = SAMPLERS[name]
    x = draw(samplers.plan(sampler, grids.grid(schedules.Cosine(-12.0, 12.0), 500), **options), 5, mixture)
    mean = SHARES @ CENTRES
    assert_moments(x, mean, (CENTRES - mean).T * SHARES @ (CENTRES - mean) + SPREAD**2 * np.eye(2))
    distance = np.linalg.norm(np.asarray(x).reshape(-1, 1, 2) - CENTRES, axis=2)
    found = np.bincount(distance.argmin(1), minlength=3) / BATCH
    assert np.all(np.abs(found - SHARES) <= 5 * np.sqrt(SHARES * (1 - SHARES) / BATCH) + 0.005)
    # The "small" variance is one of a known x0, and so too small, by the size of the steps.
    assert np.mean(distance.min(1) ** 2) == pytest.approx(2 * SPREAD**2, rel=0.08)


@pytest.mark.parametrize("name", ["ancestral_small", "ddim_0", "dpmpp_2m", "dpmpp_2m_sde", "heun", "heun_churn"])
def test_a_stopped_run_has_the_moments_of_its_level(name):
    sampler, options = SAMPLERS[name]
    stop = 1.2345
    knots = grids.grid(schedules.Cosine(-12.0, 12.0), 500, stop_logsnr=stop)
    alpha, sigma = alpha_sigma(stop)
    assert_moments(draw(samplers.plan(sampler, knots, **options), 1),
                   alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * np.eye(2))


def test_both_hand_overs_have_the_same_moments():
    """Truncated: stop at the level. Non-truncated: finish, clip (here next to nothing lies outside) and noise."""
    schedule, level = schedules.Cosine(-12.0, 12.0), 0.3
    stop = float(schedule.logsnr(level))
    truncated = draw(samplers.plan("ancestral", grids.grid(schedule, 500, stop_logsnr=stop)), 2)
    finished = draw(samplers.plan("ancestral", grids.grid(schedule, 500)), 3)
    assert np.mean(np.abs(finished) > 1) < 0.01
    keys = jax.random.split(jax.random.key(4), BATCH)
    renoised, aug_logsnr = augment.hand_over(finished, jnp.full(BATCH, level), schedule, keys)
    np.testing.assert_allclose(aug_logsnr, stop, rtol=1e-5)

    alpha, sigma = alpha_sigma(stop)
    covariance = alpha**2 * COVARIANCE + sigma**2 * np.eye(2)
    for state in (truncated, renoised):
        assert_moments(state, alpha * MEAN, covariance)


@pytest.mark.parametrize("name", ["ancestral_small", "ddim_0", "ddim_half", "ddim_1", "dpmpp_2m", "dpmpp_2m_sde"])
@pytest.mark.parametrize("stop", [None, 0.7])
def test_every_step_is_exact_for_a_known_image(name, stop):
    """With x0 known, x_t ~ N(alpha_t x0, sigma_t^2) becomes N(alpha_s x0, sigma_s^2), however large the step."""
    knots = grids.grid(schedules.Cosine(), 7, stop_logsnr=stop)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(knots[:-1]), alpha_sigma(knots[1:])
    a, b, c, d = coefficients(name, knots).T
    np.testing.assert_allclose(a * alpha_t + b + c, alpha_s, rtol=1e-12)
    np.testing.assert_allclose((a * sigma_t) ** 2 + d**2, sigma_s**2, rtol=1e-12)


def test_the_large_variance_is_exact_for_white_noise_data():
    """For x_0 ~ N(0, 1), so that x_t is too and the denoiser is alpha_t x_t (Ho et al. 2020, sec. 3.2)."""
    knots = grids.grid(schedules.Cosine(), 7, stop_logsnr=2.0)
    a, b, c, d = coefficients("ancestral_large", knots).T
    np.testing.assert_allclose((a + b * alpha_sigma(knots[:-1])[0]) ** 2 + d**2, 1, rtol=1e-12)
    assert not c.any()


def test_ancestral_small_is_the_posterior():
    knots = np.array([-6.0, -1.0, -0.9, 2.0, 5.0])
    x0, x_t = np.full((4, 1, 1, 1), 0.4, np.float32), np.full((4, 1, 1, 1), -1.3, np.float32)
    mean, variance = process.posterior(jnp.asarray(x_t), jnp.asarray(x0), knots[:-1], knots[1:])
    a, b, _, d = coefficients("ancestral_small", knots).T
    np.testing.assert_allclose(np.ravel(mean), a * -1.3 + b * 0.4, rtol=1e-5)
    np.testing.assert_allclose(np.ravel(variance), d**2, rtol=1e-5)


def test_ddim_with_eta_one_is_ancestral_small():
    knots = grids.grid(schedules.LinearBeta(), 37)
    np.testing.assert_allclose(coefficients("ddim_1", knots), coefficients("ancestral_small", knots), atol=1e-14)


@every_sampler
def test_the_step_to_the_clean_image_is_x0_without_noise(name):
    knots = grids.grid(schedules.Cosine(), 5)
    np.testing.assert_allclose(coefficients(name, knots)[-1], [0, 1, 0, 0], atol=1e-12)


@pytest.mark.parametrize("name", ["ancestral_small", "ancestral_large", "ddim_1"])
def test_the_last_step_to_a_stop_adds_its_noise(name):
    knots = grids.grid(schedules.Cosine(), 5, stop_logsnr=1.0)
    assert coefficients(name, knots)[-1, 3] > 0.1


def test_the_levels_of_a_churned_run_are_kept():
    """With x0 known, whatever is asked at a level has that level's mean and deviation, before and after the noise."""
    knots = grids.grid(schedules.Cosine(), 9, "rho", stop_logsnr=0.7)
    rows = samplers.heun(knots, churn=6.0, churn_range=(0.1, 50.0), churn_noise=1.0)
    signal, deviation = alpha_sigma(knots[0])
    for logsnr, (a, b, c, d, _) in zip(*rows):
        np.testing.assert_allclose([signal, deviation], alpha_sigma(logsnr), rtol=1e-9)
        signal, deviation = a * signal + b + c, np.hypot(a * deviation, d)
    np.testing.assert_allclose([signal, deviation], alpha_sigma(0.7), rtol=1e-9)
    up = rows[0][2::2] < knots[1:-1]
    assert up.sum() > 3 and np.all(np.isclose(rows[0][2::2], knots[1:-1]) | up)


@pytest.mark.parametrize("fraction, variance", [(0.0, "small"), (1.0, "large")])
def test_the_learned_variance_lies_between_the_fixed_ones(fraction, variance):
    """At its ends it is one of them; in the middle their geometric mean."""
    knots = grids.grid(schedules.DiscreteCosine(100), 7)
    *_, d, e = samplers.ancestral(knots, "learned")[1].T
    fixed = samplers.ancestral(knots, variance)[1][:, 3]
    np.testing.assert_allclose(d * np.exp(e * fraction), fixed, rtol=1e-12)
    x, plan = jnp.full((1, 1, 2, 1), 0.3), samplers.plan("ancestral", knots, variance="learned")

    def denoise(x, logsnr):
        return process.prediction("x0", x, x, logsnr)._replace(fraction=jnp.full(x.shape, fraction))

    ends = [samplers.step(plan, denoise, lambda i: jnp.full(x.shape, z), 2, (x, x))[0] for z in (0.0, 1.0)]
    np.testing.assert_allclose(ends[1] - ends[0], fixed[2], rtol=1e-4)


# Convergence


def flow_error(name, steps):
    """Error against the exact probability flow of N(0.3, 0.5), -6 to 6, in float64."""
    mean, variance = 0.3, 0.5
    knots = grids.grid(schedules.Cosine(-6.0, 6.5), steps, stop_logsnr=6.0)
    start, end = alpha_sigma(knots[0]), alpha_sigma(knots[-1])
    z = np.linspace(-2, 2, 5)
    x, previous = start[0] * mean + np.sqrt(start[0] ** 2 * variance + start[1] ** 2) * z, 0
    for (a, b, c, _), logsnr in zip(coefficients(name, knots), levels(name, knots)):
        alpha, sigma = alpha_sigma(logsnr)
        x0 = mean + alpha * variance * (x - alpha * mean) / (alpha**2 * variance + sigma**2)
        x, previous = a * x + b * x0 + c * previous, x0
    return np.max(np.abs(x - end[0] * mean - np.sqrt(end[0] ** 2 * variance + end[1] ** 2) * z))


@pytest.mark.parametrize("name, order", [("ddim_0", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_the_order_of_convergence(name, order):
    errors = np.array([flow_error(name, steps) for steps in (64, 128, 256, 512)])
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), order, atol=0.2)


def variance_error(sampler, options, steps):
    """Error of the variance of N(0.3, 0.5), -6 to 6, in float64: the exact denoiser is linear, and so a row is a matrix
    on the mean and the covariance of (x, x0 of the row before)."""
    mean, variance = 0.3, 0.5
    knots = grids.grid(schedules.Cosine(-6.0, 6.5), steps, stop_logsnr=6.0)
    start, end = alpha_sigma(knots[0]), alpha_sigma(knots[-1])
    expected, covariance = np.array([start[0] * mean, 0]), np.diag([start[0] ** 2 * variance + start[1] ** 2, 0])
    for logsnr, (a, b, c, d, _) in zip(*samplers.SAMPLERS[sampler](knots, **options)):
        alpha, sigma = alpha_sigma(logsnr)
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        offset = mean - gain * alpha * mean
        row = np.array([[a + b * gain, c], [gain, 0]])
        expected = row @ expected + offset * np.array([b, 1])
        covariance = row @ covariance @ row.T + np.diag([d**2, 0])
    np.testing.assert_allclose(expected[0], end[0] * mean, rtol=1e-9)  # whatever the steps
    return np.abs(covariance[0, 0] - end[0] ** 2 * variance - end[1] ** 2)


@pytest.mark.parametrize("sampler, options, order", [
    ("ancestral", dict(variance="small"), 1), ("ancestral", dict(variance="large"), 1), ("ddim", dict(eta=0.5), 1),
    ("dpmpp_2m_sde", {}, 2), ("heun", dict(churn=4.0, churn_noise=1.0), 2)])
def test_the_order_of_convergence_of_what_draws_noise(sampler, options, order):
    """In distribution: EDM's own noise of 1.003 would leave an error that no number of steps removes."""
    errors = np.array([variance_error(sampler, options, steps) for steps in (64, 128, 256, 512)])
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), order, atol=0.2)


@pytest.mark.parametrize("stop", [None, 1.5])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_learned_variance_is_exact_in_any_number_of_steps(steps, stop):
    """Of x_0 ~ N(0, 0.5) the reverse of a step is a Gaussian too, however large the step; its variance lies between
    beta~ and beta. With that fraction any subsequence of steps ends in the exact variance; with a fixed one none
    does."""
    variance, found = 0.5, {}
    knots = grids.grid(schedules.Cosine(-6.0, 6.5), steps, stop_logsnr=stop)
    alpha, sigma = alpha_sigma(knots)
    own = alpha**2 * variance + sigma**2  # of x at the knots
    for kind in ("small", "large", "learned"):
        now = own[0]
        for i, (a, b, _, d, e) in enumerate(samplers.ancestral(knots, kind)[1]):
            fraction = 0.0
            if kind == "learned" and d > 0:
                covariance = alpha[i] / alpha[i + 1] * own[i + 1]  # of x_t = (alpha_t / alpha_s) x_s + noise with x_s
                fraction = np.log((own[i + 1] - covariance**2 / own[i]) / d**2) / (2 * e)
                assert 0 < fraction < 1
            now = (a + b * alpha[i] * variance / own[i]) ** 2 * now + (d * np.exp(e * fraction)) ** 2
        # The step to the clean image is its mean, without what is left to draw of it.
        left = 0 if stop else variance * sigma[-2] ** 2 / own[-2]
        found[kind] = abs(now - (own[-1] - left))
    assert found["learned"] < 1e-12 and (min(found["small"], found["large"]) > 1e-3 or (steps == 1 and not stop))


def test_2m_takes_x0_at_the_middle_of_the_step_by_extrapolation():
    """An x0 linear in logSNR is taken where it is at the middle of the step, whatever the step before was."""
    knots = np.array([-4.0, -3.0, -1.0, -0.5, 2.5])
    _, b, c, _ = coefficients("dpmpp_2m", knots).T
    x0, middle = knots[:-1], (knots[:-1] + knots[1:]) / 2
    previous = np.append(0, x0[:-1])
    np.testing.assert_allclose(((b * x0 + c * previous) / (b + c))[1:], middle[1:], rtol=1e-12)


# The loop


def test_the_number_of_steps_is_traced():
    traces = []

    @jax.jit
    def run(plan, x):
        traces.append(1)
        return samplers.sample(plan, denoiser(MEAN, COVARIANCE), lambda i: jnp.zeros_like(x), x)

    x = jnp.ones((3, 1, 2, 1))
    ends = [run(samplers.plan("ddim", grids.grid(schedules.Cosine(), n)), x) for n in (2, 9)]
    assert len(traces) == 1
    assert np.any(np.abs(ends[0] - ends[1]) > 1e-3)


@pytest.mark.parametrize("name", ["ancestral_small", "dpmpp_2m"])
def test_the_host_may_drive_the_steps(name):
    sampler, options = SAMPLERS[name]
    plan = samplers.plan(sampler, grids.grid(schedules.Cosine(), 6), **options)
    denoise = denoiser(MEAN, COVARIANCE)
    x = jax.random.normal(jax.random.key(0), (3, 1, 2, 1))

    def noise(i):
        return jax.random.normal(jax.random.fold_in(jax.random.key(1), i), x.shape)

    step = jax.jit(lambda i, state: samplers.step(plan, denoise, noise, i, state))
    state, way = (x, jnp.zeros_like(x)), []
    for i in range(6):
        state = step(i, state)
        way.append(state[1])
    np.testing.assert_allclose(samplers.sample(plan, denoise, noise, x), state[0], atol=1e-6)
    for previews, steps in ((4, (2, 3, 5, 6)), (6, range(1, 7)), (9, (1, 2, 2, 3, 4, 4, 5, 6, 6))):
        x0, shown = samplers.sample(plan, denoise, noise, x, previews)
        np.testing.assert_allclose(x0, state[0], atol=1e-6)
        np.testing.assert_allclose(shown, np.stack([way[n - 1] for n in steps]), atol=1e-6)


def test_the_denoiser_is_asked_at_the_knots():
    knots, asked = grids.grid(schedules.Cosine(), 4), []

    def denoise(x, logsnr):
        asked.append(logsnr)
        return process.prediction("x0", x, x, logsnr)

    plan, x = samplers.plan("ddim", knots), jnp.ones((3, 1, 1, 1))
    for i in range(4):
        samplers.step(plan, denoise, lambda i: x, i, (x, x))
    np.testing.assert_allclose(np.stack(asked), np.repeat(knots[:-1, None], 3, axis=1), rtol=1e-6)


def test_heun_takes_two_evaluations_a_step_but_the_last():
    for evaluations in (1, 2, 9, 20):
        knots = grids.grid(schedules.Cosine(), samplers.intervals("heun", evaluations))
        assert samplers.plan("heun", knots).steps == evaluations - (evaluations % 2 == 0)


def test_four_thousand_steps_fit():
    plan = samplers.plan("ancestral", grids.grid(schedules.DiscreteCosine(), 4000))
    assert plan.steps == 4000 and np.all(np.isfinite(plan.coefficients))


@pytest.mark.parametrize("call, message", [
    (lambda knots: samplers.plan("euler", knots), r"`sampler` \(='euler'\)"),
    (lambda knots: samplers.plan("ddim", knots, eta=1.5), r"`eta` \(=1.5\)"),
    (lambda knots: samplers.plan("ancestral", knots, variance="medium"), r"`variance` \(='medium'\)"),
    (lambda knots: samplers.plan("heun", knots, churn=-1.0), r"`churn` \(=-1.0\)"),
    (lambda knots: samplers.plan("ddim", knots[::-1]), r"`knots` \(shape \(4,\)\)"),
    (lambda knots: samplers.plan("ddim", np.linspace(-9, 9, 5000)), r"`steps` \(=4999\)"),
])
def test_errors_name_the_argument_and_its_value(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.array([-1.0, 0.0, 1.0, np.inf]))
