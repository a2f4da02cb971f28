"""What an enlargement owes to its input: the exact pseudo-inverse of the resize, the box, and the slow changes."""

import numpy as np
import pytest

from cdm.images import consistent
from cdm.images.resize import matrix, resize, to_float, to_uint8

# (H, W), (h, w): whole factors, others, one axis alone, no change, single pixels
SIZES = [((32, 24), (8, 6)), ((31, 45), (8, 17)), ((20, 9), (19, 9)), ((7, 100), (1, 50)), ((5, 5), (5, 5)),
         ((6, 4), (1, 1)), ((600, 30), (150, 13))]
EVERY_SIZE = pytest.mark.parametrize("large, small", SIZES)


def picture(size, seed=0, low=-1.0, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, (*size, 3)).astype(np.float32)


def photograph(smooth, size, seed=0):
    """Smooth, with all of the range."""
    return resize(to_float(smooth(1, seed)[0]), size).clip(-1, 1)


@EVERY_SIZE
def test_the_projection_of_nothing_is_the_pseudo_inverse(large, small):
    y = picture(small).astype(np.float64)
    rows, columns = (np.linalg.pinv(matrix(*sides)) for sides in zip(large, small))
    exact = np.einsum("Hh,Ww,hwc->HWc", rows, columns, y)
    np.testing.assert_allclose(consistent.project(np.zeros((*large, 3)), y), exact, atol=1e-12)


@EVERY_SIZE
def test_a_projection_shrinks_to_the_input_and_is_one(large, small):
    x, y = picture(large, 1), picture(small)
    once = consistent.project(x.copy(), y)
    assert once.dtype == np.float32
    np.testing.assert_allclose(resize(once, small), y, atol=3e-6)
    np.testing.assert_allclose(consistent.project(once.copy(), y), once, atol=3e-6)


def test_a_projection_is_the_nearest():
    x, y = picture((30, 21), 1), picture((13, 8))
    near = consistent.project(x.copy(), y)
    other = consistent.project(picture((30, 21), 2), y)
    assert abs(np.sum((x - near) * (other - near), dtype=np.float64)) < 1e-2  # at a right angle to all that shrink to y


@pytest.mark.parametrize("scale", [1.3, 2, 2.7, 4])
def test_the_end_is_in_range_and_shrinks_to_the_input_after_rounding(smooth, scale):
    y = to_float(to_uint8(photograph(smooth, (40, 52))))
    size = round(40 * scale), round(52 * scale)
    x = resize(y, size) + 0.2 * np.random.default_rng(1).normal(size=(*size, 3)).astype(np.float32)
    x = consistent.finish(x, y)
    assert x.min() >= -1 and x.max() <= 1
    missing = (resize(to_float(to_uint8(x)), y.shape[:2]) - y) / 2  # on [0, 1]
    assert np.mean(missing**2) <= 1e-6
    assert np.mean(np.abs(missing[np.abs(y) < 1]) <= 1 / 255) >= 0.999


def test_input_that_no_picture_shrinks_to_is_neared():
    y = np.where(picture((20, 20)) > 0, 1, -1).astype(np.float32)
    start = picture((40, 40), 1)
    once = np.clip(consistent.project(start.copy(), y), -1, 1)
    end = consistent.finish(start.copy(), y)
    assert end.min() >= -1 and end.max() <= 1
    assert np.mean((resize(end, 20) - y) ** 2) < np.mean((resize(once, 20) - y) ** 2)


def test_the_lock_takes_a_drift_away_and_leaves_detail(smooth):
    y = photograph(smooth, (64, 48))
    x = resize(y, (128, 96))
    detail = np.random.default_rng(0).normal(size=x.shape).astype(np.float32) * 0.1
    drift = np.linspace([-0.2, 0.1, 0.3], [0.1, 0.2, -0.1], 96, dtype=np.float32)[None]
    locked = consistent.lock(x + drift + detail, y)
    left = resize(locked - x - detail, (8, 6), "area")
    assert np.abs(left).max() < 0.15 * np.abs(drift).max()
    assert np.corrcoef((locked - x).ravel(), detail.ravel())[0, 1] > 0.95
    np.testing.assert_allclose(consistent.lock(x, resize(x, (64, 48))), x, atol=1e-5)


def test_the_lock_of_a_single_pixel():
    locked = consistent.lock(picture((3, 4)), np.full((1, 1, 3), 0.5, np.float32))
    np.testing.assert_allclose(resize(locked, 1), 0.5, atol=1e-6)
