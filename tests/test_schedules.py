"""Schedules: inverses, closed forms, tables, and the grids of sampling."""

import jax.numpy as jnp
import numpy as np
import pytest

from cdm.diffusion import schedules

SCHEDULES = {
    "cosine": schedules.Cosine(),
    "cosine_narrow": schedules.Cosine(-8.0, 8.77),
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
def test_a_grid_of_T_steps_visits_every_entry(name):
    schedule = SCHEDULES[name]
    knots = schedules.uniform_grid(schedule, schedule.timesteps)
    np.testing.assert_allclose(knots[:-1], schedule.table[::-1], atol=1e-9)


@every_schedule
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_a_grid_rises_from_the_noisiest_level_to_the_clean_image(schedule, steps):
    knots = schedules.uniform_grid(schedule, steps)
    assert knots.shape == (steps + 1,) and knots.dtype == np.float64
    assert knots[0] == pytest.approx(schedule.logsnr_min, abs=1e-9) and knots[-1] == np.inf
    assert np.all(np.diff(knots) > 0)


@every_schedule
@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("fraction", [1e-6, 0.3, 0.77, 1.0])
def test_a_stopped_grid_ends_in_exactly_that_level_in_no_more_steps(schedule, steps, fraction):
    stop = (1 - fraction) * schedule.logsnr_min + fraction * schedule.logsnr_max
    knots = schedules.uniform_grid(schedule, steps, stop_logsnr=stop)
    assert knots[-1] == stop and len(knots) - 1 <= steps
    assert knots[0] == pytest.approx(schedule.logsnr_min, abs=1e-9)
    assert np.all(np.diff(knots) > 0)


@pytest.mark.parametrize("name", ["cosine", "linear_beta"])
def test_a_stopped_grid_keeps_the_spacing_of_the_full_one(name):
    schedule = SCHEDULES[name]
    full = schedules.uniform_grid(schedule, 100)
    stopped = schedules.uniform_grid(schedule, 100, stop_logsnr=full[60])
    np.testing.assert_allclose(stopped, full[:61], atol=1e-8)


def test_make_builds_what_it_is_told():
    assert schedules.make("linear_beta", timesteps=10) == schedules.LinearBeta(10)


@pytest.mark.parametrize("call, message", [
    (lambda: schedules.Cosine(3.0, 2.0), r"`logsnr_min` \(=3.0\).*`logsnr_max` \(=2.0\)"),
    (lambda: schedules.LinearBeta(beta_start=0.0), r"`beta_start` \(=0.0\)"),
    (lambda: schedules.LinearBeta(beta_end=1.0), r"`beta_end` \(=1.0\)"),
    (lambda: schedules.make("quadratic"), r"`schedule` \(='quadratic'\)"),
    (lambda: schedules.make("cosine", timesteps=7), r"`schedule.timesteps` \(=7\)"),
    (lambda: schedules.uniform_grid(schedules.Cosine(), 0), r"`steps` \(=0\)"),
    (lambda: schedules.uniform_grid(schedules.LinearBeta(), 2000), r"`steps` \(=2000\).*1000"),
    (lambda: schedules.uniform_grid(schedules.LinearBeta(), 9, stop_logsnr=11.5), r"`stop_logsnr` \(=11.500\)"),
    (lambda: schedules.uniform_grid(schedules.Cosine(), 9, stop_logsnr=-20.0), r"`stop_logsnr` \(=-20.000\)"),
])
def test_errors_name_the_argument_and_its_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("std", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("stop", [None, 8.0])
def test_a_grid_for_standardised_images_has_the_levels_of_their_process(std, stop):
    """From pure noise on, the standardised images' logSNR is what a grid for unit images has."""
    schedule, shift = schedules.Cosine(-12, 12), 2 * np.log(std)
    knots = schedules.uniform_grid(schedule, 10, stop, std)
    assert knots[0] == -12 and knots[-1] == (np.inf if stop is None else stop) and np.all(np.diff(knots) > 0)
    inner = knots[1:-1]
    if stop is None:
        wanted = schedules.uniform_grid(schedule, 10)[1:-1]
        np.testing.assert_allclose(inner[inner < 12] + shift, wanted[inner < 12], atol=1e-9)
    else:
        times = [1, *schedule.time(inner + shift), schedule.time(stop + shift)]  # evenly spaced
        np.testing.assert_allclose(np.diff(times), np.diff(times)[0], rtol=1e-6)
