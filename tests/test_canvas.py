"""The canvas: windows that cover it, weights that are a partition of unity, noise that knows nothing of either."""

import jax
import numpy as np
import pytest

from cdm.images import canvas

KEY = jax.random.key(3, impl="threefry2x32")
# size, window, overlap: one window, one pixel more, evenly and unevenly spread, sharing nearly all
AXES = [(16, 16, 4), (17, 16, 4), (64, 16, 4), (61, 16, 5), (5000, 64, 16), (23, 8, 7), (9, 4, 1)]


@pytest.mark.parametrize("size, window, overlap", AXES)
def test_windows_cover_the_axis_and_share_enough(size, window, overlap):
    begins = canvas.starts(size, window, overlap)
    assert begins[0] == 0 and begins[-1] == size - window
    strides = np.diff(begins)
    assert np.all(strides > 0) and np.all(strides <= window - overlap)
    assert np.ptp(strides) <= 1 if len(strides) else size == window
    assert (len(begins) - 2) * (window - overlap) + window < size or len(begins) == 1, "one fewer would do"


@pytest.mark.parametrize("size, window, overlap", AXES)
def test_weights_are_a_partition_of_unity_exactly(size, window, overlap):
    begins = canvas.starts(size, window, overlap)
    weights = canvas.weights(begins, window, size, overlap)
    assert weights.dtype == np.float32 and np.all(weights >= 0)
    total = np.zeros(size, np.float32)
    for begin, row in zip(begins, weights):
        total[begin : begin + window] += row
    np.testing.assert_array_equal(total, 1)


def test_their_products_are_one_too():
    begins = canvas.starts(61, 16, 5)
    weights = canvas.weights(begins, 16, 61, 5)
    total = np.zeros((61, 61), np.float32)
    for top, row in zip(begins, weights):
        for left, column in zip(begins, weights):
            total[top : top + 16, left : left + 16] += row[:, None] * column
    np.testing.assert_array_equal(total, 1)


def test_weights_are_smooth_and_vanish_at_inner_borders_alone():
    first, *inner, last = canvas.weights(canvas.starts(640, 128, 32), 128, 640, 32)
    assert first[0] == last[-1] == 1
    for row in (first[::-1], last, *inner):
        np.testing.assert_array_equal(row[:4], 0)
        assert np.abs(np.diff(row)).max() < 0.08 and row.max() == 1
        assert np.all(np.diff(row[: row.argmax()]) >= 0)


def test_what_is_cut_is_what_is_pasted():
    image = np.random.default_rng(0).normal(size=(70, 130, 3)).astype(np.float32)
    copy, seen = np.zeros_like(image), 0
    for corners in canvas.cells(70, 130):
        assert corners.shape == (canvas.BATCH, 2)
        squares = canvas.cut(image, corners, canvas.CELL)
        assert squares.shape == (canvas.BATCH, canvas.CELL, canvas.CELL, 3)
        canvas.paste(copy, corners, squares)
        seen += len(np.unique(corners, axis=0))
    np.testing.assert_array_equal(copy, image)
    assert seen == 2 * 3


@pytest.mark.parametrize("height, width", [(64, 64), (65, 300), (1, 50), (130, 64)])
def test_noise_of_a_region_is_that_of_any_canvas_with_it(height, width):
    whole = canvas.noise(KEY, 200, 1200)  # more cells than go at a time
    np.testing.assert_array_equal(canvas.noise(KEY, height, width), whole[:height, :width])
    cells = canvas.cell_noise(KEY, np.array([[128, 1088], [64, 0]]))
    np.testing.assert_array_equal(cells[0, :, :64], whole[128:192, 1088:1152])
    np.testing.assert_array_equal(cells[1], whole[64:128, :64])


def test_noise_is_standard_normal_within_cells_and_across():
    z = canvas.noise(KEY, 512, 512)
    n = z.size
    assert abs(z.mean()) < 4 / np.sqrt(n) and abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / n)
    for shift in (1, 64):  # neighbours, and the same place of the next cell
        for axis in (0, 1):
            assert abs(np.mean(z * np.roll(z, shift, axis))) < 4 / np.sqrt(n)
    assert not np.array_equal(z, canvas.noise(jax.random.fold_in(KEY, 1), 512, 512))
