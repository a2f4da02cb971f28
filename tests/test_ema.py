"""Averages of power-function profile: their definition, and any of them from snapshots of two."""

import jax
import numpy as np
import pytest

from cdm.training import ema

SIGMAS = (0.05, 0.10)


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.1, 0.15, 0.25])
def test_the_profile_has_the_deviation_it_is_named_by(sigma):
    g, s = ema.gamma(sigma), (np.arange(1_000_000) + 0.5) / 1_000_000
    p = (g + 1) * s**g / len(s)
    mean = np.sum(p * s)
    assert np.sum(p) == pytest.approx(1, abs=1e-6)
    assert np.sqrt(np.sum(p * (s - mean) ** 2)) == pytest.approx(sigma, rel=1e-5)


@pytest.mark.parametrize("snapshots", [1, 2, 10])
def test_a_parameter_that_does_not_change_is_kept(snapshots):
    stored = [(400 * k, sigma) for k in range(1, snapshots + 1) for sigma in SIGMAS]
    for sigma in (0.03, 0.07, 0.2):
        assert ema.coefficients(stored, (400 * snapshots, sigma)).sum() == pytest.approx(1, abs=1e-9)


def test_the_papers_values_of_gamma():
    """Karras et al. 2024, sec. 3.1."""
    np.testing.assert_allclose([ema.gamma(sigma) for sigma in SIGMAS], [16.97, 6.94], atol=0.005)


def test_inner_products_are_integrals():
    ours = ema.inner_products([(300, 0.05), (1000, 0.1)], [(500, 0.1), (1000, 0.2)])
    s = np.arange(0.5, 1000, 0.01)

    def profile(t, sigma):
        g = ema.gamma(sigma)
        return np.where(s < t, (g + 1) * (s / t) ** g / t, 0)

    theirs = [[np.sum(profile(*a) * profile(*b)) * 0.01 for b in ((500, 0.1), (1000, 0.2))]
              for a in ((300, 0.05), (1000, 0.1))]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def tracked(sigma, path, batch):
    """Eq. 2 in float64 along a path of parameters, [steps]."""
    average, out = 0.0, []
    for k, params in enumerate(path, 1):
        b = (1 - batch / (k * batch)) ** (ema.gamma(sigma) + 1)
        average = b * average + (1 - b) * params
        out.append(average)
    return np.array(out)


def test_a_traced_share_is_that_of_float64_where_b_is_nearly_one():
    for images in (16.0, 1e5, 1e9):
        exact = -np.expm1((ema.gamma(0.05) + 1) * np.log1p(-16 / images)) if images > 16 else 1.0
        traced = jax.jit(lambda images: ema.share(0.05, np.uint32(16), images))(np.float32(images))
        assert float(traced) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("sigma", [0.05, 0.06, 0.08, 0.1, 0.12, 0.15])
def test_any_length_is_rebuilt_from_snapshots_as_if_it_had_been_tracked(sigma):
    batch, steps, every = 16, 4000, 400
    random = np.random.default_rng(0)
    path = np.cumsum(random.normal(size=(steps, 8)), axis=0) / np.sqrt(steps)  # a walk: its end is not its average
    stored = {s: tracked(s, path, batch) for s in SIGMAS}
    times = range(every, steps + 1, every)
    snapshots = {k * batch: {str(s): {"w": stored[s][k - 1].astype(np.float32)} for s in SIGMAS} for k in times}
    have = [(images, s) for images in snapshots for s in SIGMAS]
    rebuilt = ema.combine(have, (steps * batch, sigma), snapshots.__getitem__)["w"]
    wanted = tracked(sigma, path, batch)[-1]
    scale = np.abs(path[-1] - wanted).max()
    assert np.abs(rebuilt - wanted).max() < 0.02 * scale
    if sigma in SIGMAS:
        np.testing.assert_allclose(rebuilt, wanted, atol=1e-5)
