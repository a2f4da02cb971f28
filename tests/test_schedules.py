"""Schedules: inverses, closed forms, tables."""

import jax.numpy as jnp
import numpy as np
import pytest

from cdm.diffusion import schedules

SCHEDULES = {
    "cosine": schedules.Cosine(),
    "cosine_narrow": schedules.Cosine(-8.0, 8.77),
    "cosine_shifted": schedules.Cosine(-15.0, 15.0, 2 * float(np.log(32 / 256))),
    "flow": schedules.Flow(-15.0, 15.0),
    "edm": schedules.Edm(-9.0, 13.0),
    "linear_beta": schedules.LinearBeta(),
    "linear_beta_sr3": schedules.LinearBeta(2000, 1e-6, 1e-2),
    "discrete_cosine": schedules.DiscreteCosine(),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def first_time(schedule):
    """The least t that the schedule tells from its cleanest level."""
    return 1 / len(schedule.table) if isinstance(schedule, schedules.Discrete) else 0.0


def rounding(schedule, eps, logsnr):
    """What one rounding of t does to logSNR: eps * |dlogsnr/dt|, the slope taken from the schedule in float64."""
    t, h = schedule.time(logsnr), 1e-6
    slope = (schedule.logsnr(np.maximum(t - h, 0)) - schedule.logsnr(np.minimum(t + h, 1))) / h
    return eps * (np.abs(slope) + np.abs(logsnr))


@every_schedule
def test_time_inverts_logsnr_in_float64(schedule):
    t = np.linspace(first_time(schedule), 1, 4321)
    np.testing.assert_allclose(schedule.time(schedule.logsnr(t)), t, atol=1e-12)
    assert schedule.logsnr(t).dtype == schedule.time(t).dtype == np.float64


@every_schedule
def test_logsnr_inverts_time_in_float64(schedule):
    logsnr = np.linspace(schedule.logsnr_min, schedule.logsnr_max, 4321)
    np.testing.assert_allclose(schedule.logsnr(schedule.time(logsnr)), logsnr, atol=1e-9)


@every_schedule
def test_time_inverts_logsnr_in_float32(schedule):
    t = np.linspace(first_time(schedule), 1, 1001, dtype=np.float32)
    back = schedule.time(schedule.logsnr(jnp.asarray(t)))
    assert back.dtype == jnp.float32
    np.testing.assert_allclose(back, t, atol=8 * np.finfo(np.float32).eps)


@every_schedule
def test_logsnr_inverts_time_in_float32_up_to_the_rounding_of_t(schedule):
    logsnr = np.linspace(schedule.logsnr_min, schedule.logsnr_max, 1001)
    back = schedule.logsnr(schedule.time(jnp.asarray(logsnr, jnp.float32)))
    assert back.dtype == jnp.float32
    assert np.all(np.abs(back - logsnr) <= 8 * rounding(schedule, np.finfo(np.float32).eps, logsnr))


@every_schedule
def test_float32_equals_float64_up_to_the_rounding_of_t(schedule):
    t = np.linspace(0, 1, 1001, dtype=np.float32)
    exact = schedule.logsnr(t.astype(np.float64))
    error = np.abs(schedule.logsnr(jnp.asarray(t)) - exact)
    assert np.all(error <= 8 * rounding(schedule, np.finfo(np.float32).eps, exact))


@every_schedule
def test_logsnr_falls_with_time_between_its_bounds(schedule):
    logsnr = schedule.logsnr(np.linspace(first_time(schedule), 1, 4321))
    assert np.all(np.diff(logsnr) < 0)
    np.testing.assert_allclose(logsnr[[0, -1]], [schedule.logsnr_max, schedule.logsnr_min], atol=1e-9)


@pytest.mark.parametrize("array", [np.float64, jnp.float32])
def test_no_rounding_carries_a_cosine_past_its_bounds(array):
    for bound in np.linspace(1, 20, 300):
        schedule = schedules.Cosine(-float(bound), float(bound))
        assert array(-bound) <= schedule.logsnr(array(1)) < schedule.logsnr(array(0)) <= array(bound)


def test_cosine_is_minus_two_log_tan():
    t = np.linspace(0.001, 0.999, 999)
    # Without bounds a = 0 and b = pi / 2.
    np.testing.assert_allclose(schedules.Cosine(-60.0, 60.0).logsnr(t), -2 * np.log(np.tan(np.pi / 2 * t)), atol=1e-9)


def test_cosine_is_minus_two_log_tan_of_an_angle_linear_in_time():
    schedule = schedules.Cosine(-7.0, 9.0)
    a, z = np.arctan(np.exp(-9.0 / 2)), np.arctan(np.exp(7.0 / 2))
    t = np.linspace(0, 1, 101)
    np.testing.assert_allclose(schedule.logsnr(t), -2 * np.log(np.tan(a + (z - a) * t)), atol=1e-10)


def longdouble_table(betas):
    abar = np.cumprod(1 - betas)
    return np.log(abar / (1 - abar))


def test_linear_beta_table_is_cumprod_of_one_minus_beta():
    k = np.arange(1000, dtype=np.longdouble)
    betas = np.longdouble("1e-4") + (np.longdouble("0.02") - np.longdouble("1e-4")) * k / 999
    np.testing.assert_allclose(schedules.LinearBeta().table, longdouble_table(betas).astype(np.float64), rtol=1e-9)


def test_discrete_cosine_table_is_cumprod_of_one_minus_clipped_beta():
    abar = np.cos((np.arange(4001, dtype=np.longdouble) / 4000 + 0.008) / 1.008 * np.longdouble(np.pi) / 2) ** 2
    betas = np.minimum(1 - abar[1:] / abar[:-1], np.longdouble("0.999"))
    assert betas[-1] == np.longdouble("0.999")  # the clip matters
    np.testing.assert_allclose(schedules.DiscreteCosine().table, longdouble_table(betas).astype(np.float64), rtol=1e-8)


@pytest.mark.parametrize("name", ["linear_beta", "discrete_cosine"])
def test_entry_k_sits_at_k_plus_one_over_T(name):
    schedule = SCHEDULES[name]
    t = (np.arange(schedule.timesteps) + 1) / schedule.timesteps
    np.testing.assert_allclose(schedule.logsnr(t), schedule.table, atol=1e-9)


@pytest.mark.parametrize("name", ["linear_beta", "discrete_cosine"])
def test_an_entry_is_its_number(name):
    schedule = SCHEDULES[name]
    numbers = np.arange(schedule.timesteps)
    np.testing.assert_array_equal(schedule.entry(schedule.table), numbers)
    np.testing.assert_array_equal(schedule.entry(jnp.float32(schedule.table)), numbers)
    assert schedule.entry((schedule.table[3] + schedule.table[4]) / 2) == pytest.approx(3.5)
    assert schedule.entry(np.inf) == 0 and schedule.entry(-np.inf) == schedule.timesteps - 1


def test_a_shift_is_the_level_of_a_smaller_image():
    """Averaged over f x f pixels the noise falls by f: a picture of 256 under the shift is one of 32 without."""
    t, plain = np.linspace(0.05, 0.95, 19), schedules.Cosine(-60.0, 60.0)
    shifted = schedules.Cosine(-60.0, 60.0, 2 * np.log(32 / 256))
    alpha2, sigma2 = (1 / (1 + np.exp(sign * shifted.logsnr(t))) for sign in (-1, 1))
    np.testing.assert_allclose(np.log(alpha2 / (sigma2 / 8**2)), plain.logsnr(t), atol=1e-9)


def test_input_scaling_is_a_shift():
    """Chen 2023: x_t = alpha b x_0 + sigma eps of pictures of unit variance, divided by its deviation."""
    b, t, plain = 0.4, np.linspace(0.05, 0.95, 19), schedules.Cosine(-60.0, 60.0)
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(sign * plain.logsnr(t)))) for sign in (-1, 1))
    deviation = np.sqrt((alpha * b) ** 2 + sigma**2)
    shifted = schedules.Cosine(-60.0, 60.0, 2 * np.log(b)).logsnr(t)
    np.testing.assert_allclose(1 / (1 + np.exp(-shifted)), (alpha * b / deviation) ** 2, rtol=1e-9)
    np.testing.assert_allclose(1 / (1 + np.exp(shifted)), (sigma / deviation) ** 2, rtol=1e-9)


def test_the_flow_is_the_straight_path():
    """x_t = (1 - t) x_0 + t eps has SNR ((1 - t) / t)^2."""
    t = np.linspace(0.01, 0.99, 99)
    np.testing.assert_allclose(schedules.Flow(-80.0, 80.0).logsnr(t), 2 * np.log((1 - t) / t), rtol=1e-9, atol=1e-12)


def test_levels_of_edm_are_log_normal():
    sigma = np.exp(-schedules.Edm(-40.0, 40.0).logsnr((np.arange(100_000) + 0.5) / 100_000) / 2)
    assert np.log(sigma).mean() == pytest.approx(-1.2, abs=1e-6)
    assert np.log(sigma).std() == pytest.approx(1.2, abs=1e-3)


@every_schedule
def test_the_rate_integrates_to_the_fall_of_logsnr(schedule):
    edges = np.linspace(0.05, 0.95, 20_001)
    middle = jnp.asarray((edges[1:] + edges[:-1]) / 2, jnp.float32)
    fall = np.sum(np.asarray(schedules.rate(schedule, middle), np.float64)) * (edges[1] - edges[0])
    assert fall == pytest.approx(schedule.logsnr(0.05) - schedule.logsnr(0.95), rel=1e-3)


def test_make_builds_what_it_is_told():
    assert schedules.make("linear_beta", timesteps=10) == schedules.LinearBeta(10)


@pytest.mark.parametrize("call, message", [
    (lambda: schedules.Cosine(3.0, 2.0), r"`logsnr_min` \(=3.0\).*`logsnr_max` \(=2.0\)"),
    (lambda: schedules.LinearBeta(beta_start=0.0), r"`beta_start` \(=0.0\)"),
    (lambda: schedules.LinearBeta(beta_end=1.0), r"`beta_end` \(=1.0\)"),
    (lambda: schedules.make("quadratic"), r"`schedule` \(='quadratic'\)"),
    (lambda: schedules.make("cosine", timesteps=7), r"`schedule.timesteps` \(=7\)"),
    (lambda: schedules.Flow(3.0, 2.0), r"`logsnr_min` \(=3.0\)"),
    (lambda: schedules.Edm(deviation=0.0), r"`deviation` \(=0.0\)"),
])
def test_errors_name_the_argument_and_its_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
