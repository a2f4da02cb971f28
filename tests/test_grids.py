"""Grids of sampling: where they begin and end, and their spacing."""

import itertools

import numpy as np
import pytest
from test_schedules import SCHEDULES, every_schedule

from cdm.diffusion import grids, schedules


@pytest.mark.parametrize("name", ["linear_beta", "discrete_cosine"])
def test_a_grid_of_T_steps_visits_every_entry(name):
    schedule = SCHEDULES[name]
    knots = grids.grid(schedule, schedule.timesteps)
    np.testing.assert_allclose(knots[:-1], schedule.table[::-1], atol=1e-9)


@every_schedule
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_a_grid_rises_from_the_noisiest_level_to_the_clean_image(schedule, steps):
    knots = grids.grid(schedule, steps)
    assert knots.shape == (steps + 1,) and knots.dtype == np.float64
    assert knots[0] == pytest.approx(schedule.logsnr_min, abs=1e-9) and knots[-1] == np.inf
    assert np.all(np.diff(knots) > 0)


@every_schedule
@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("fraction", [1e-6, 0.3, 0.77, 1.0])
def test_a_stopped_grid_ends_in_exactly_that_level_in_no_more_steps(schedule, steps, fraction):
    stop = (1 - fraction) * schedule.logsnr_min + fraction * schedule.logsnr_max
    knots = grids.grid(schedule, steps, stop_logsnr=stop)
    assert knots[-1] == stop and len(knots) - 1 <= steps
    assert knots[0] == pytest.approx(schedule.logsnr_min, abs=1e-9)
    assert np.all(np.diff(knots) > 0)


@pytest.mark.parametrize("name", ["cosine", "linear_beta"])
def test_a_stopped_grid_keeps_the_spacing_of_the_full_one(name):
    schedule = SCHEDULES[name]
    full = grids.grid(schedule, 100)
    stopped = grids.grid(schedule, 100, stop_logsnr=full[60])
    np.testing.assert_allclose(stopped, full[:61], atol=1e-8)


@pytest.mark.parametrize("std", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("stop", [None, 8.0])
def test_a_grid_for_standardised_images_has_the_levels_of_their_process(std, stop):
    """From pure noise on, the standardised images' logSNR is what a grid for unit images has."""
    schedule, shift = schedules.Cosine(-12, 12), 2 * np.log(std)
    knots = grids.grid(schedule, 10, stop_logsnr=stop, std=std)
    assert knots[0] == -12 and knots[-1] == (np.inf if stop is None else stop) and np.all(np.diff(knots) > 0)
    inner = knots[1:-1]
    if stop is None:
        wanted = grids.grid(schedule, 10)[1:-1]
        np.testing.assert_allclose(inner[inner < 12] + shift, wanted[inner < 12], atol=1e-9)
    else:
        times = [1, *schedule.time(inner + shift), schedule.time(stop + shift)]  # evenly spaced
        np.testing.assert_allclose(np.diff(times), np.diff(times)[0], rtol=1e-6)


def test_the_rho_grid_is_that_of_edm():
    """Karras et al. 2022, eq. 5 with the constants of table 1, written out."""
    i, n = np.arange(18), 18
    sigma = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    knots = grids.grid(schedules.Cosine(), n, "rho")
    np.testing.assert_allclose(np.exp(-knots[:-1] / 2), sigma, rtol=1e-9)
    assert knots[-1] == np.inf


def test_the_logsnr_grid_is_evenly_spaced_between_its_levels():
    knots = grids.grid(schedules.Cosine(), 11, "logsnr", sigmas=(0.01, 50.0))
    np.testing.assert_allclose(knots[[0, -2]], -2 * np.log([50.0, 0.01]), rtol=1e-9)
    np.testing.assert_allclose(np.diff(knots[:-1]), np.diff(knots)[0], rtol=1e-9)


@pytest.mark.parametrize("kind", ["logsnr", "rho"])
@pytest.mark.parametrize("std", [1.0, 0.1])
@pytest.mark.parametrize("stop", [-8.0, 0.3, 12.0])
def test_every_kind_stops_where_it_is_told(kind, std, stop):
    knots = grids.grid(schedules.Cosine(-10.0, 14.0), 20, kind, stop_logsnr=stop, std=std)
    assert knots[-1] == stop and len(knots) - 1 <= 20 and np.all(np.diff(knots) > 0)


def test_searched_knots_stop_at_a_level():
    searched = [-9.0, -2.0, 0.0, 3.0, np.inf]
    np.testing.assert_array_equal(grids.stopped(searched, 1.0), [-9.0, -2.0, 0.0, 1.0])
    np.testing.assert_array_equal(grids.stopped(searched, 0.0), [-9.0, -2.0, 0.0])
    np.testing.assert_array_equal(grids.stopped(searched, -5.0), [-9.0, -5.0])


@pytest.mark.parametrize("call, message", [
    (lambda: grids.grid(schedules.Cosine(), 0), r"`steps` \(=0\)"),
    (lambda: grids.grid(schedules.Cosine(), 5, "quadratic"), r"`grid` \(='quadratic'\)"),
    (lambda: grids.grid(schedules.Cosine(), 5, "rho", sigmas=(3.0, 1.0)), r"`sigmas` \(=\(3.0, 1.0\)\)"),
    (lambda: grids.grid(schedules.LinearBeta(), 2000), r"`steps` \(=2000\) must be fewer"),
    (lambda: grids.grid(schedules.LinearBeta(), 9, stop_logsnr=11.5), r"`stop_logsnr` \(=11.500\)"),
    (lambda: grids.grid(schedules.Cosine(), 9, stop_logsnr=-20.0), r"`stop_logsnr` \(=-20.000\)"),
])
def test_errors_name_the_argument_and_its_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_searched_grid_is_the_best_of_all():
    random = np.random.default_rng(0)
    for steps in (1, 2, 3, 6):
        levels, error = np.sort(random.uniform(-5, 5, 7)), random.uniform(0.1, 1, 7)

        def bound(inner):
            path = [0, *inner, 6]
            return sum((np.exp(levels[s]) - np.exp(levels[t])) * error[t] / 2 for t, s in zip(path, path[1:]))

        wanted = min(itertools.combinations(range(1, 6), steps - 1), key=bound)
        np.testing.assert_array_equal(grids.searched(levels, error, steps), [*levels[[0, *wanted]], np.inf])
    with pytest.raises(ValueError, match=r"`steps` \(=7\) must lie between 1 and the 6 steps"):
        grids.searched(levels, error, 7)


def test_a_searched_grid_of_an_exact_denoiser_nears_its_bound():
    """Of white pictures of unit variance x0's error is sigma^2 = 1 / (1 + SNR): the bound is then, with ever more steps,
    half the integral of dSNR / (1 + SNR), and a searched grid is nearer to it than one even in logSNR."""
    levels = np.linspace(-8, 8, 129)
    error = 1 / (1 + np.exp(levels))

    def bound(knots):
        knots = np.append(knots[:-1], levels[-1])
        return np.sum(np.diff(np.exp(knots)) / (1 + np.exp(knots[:-1]))) / 2

    limit = (np.log1p(np.exp(8)) - np.log1p(np.exp(-8))) / 2
    over = [bound(grids.searched(levels, error, steps)) - limit for steps in (4, 8, 16, 32)]
    even = [bound(np.append(levels[::128 // steps][:-1], np.inf)) - limit for steps in (4, 8, 16, 32)]
    assert np.all(np.diff(over) < 0) and np.all(np.array(over) > 0) and np.all(np.array(over) <= np.array(even))
