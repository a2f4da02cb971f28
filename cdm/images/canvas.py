"""The canvas: a picture of any size, seen by a network through windows of one size.

What the windows w say of the picture is blended by a partition of unity, with 2-D weights the products of the axes':

    picture = sum_w p_w picture_w,    p_w = taper_w / sum_v taper_v,    sum_w p_w = 1 at every pixel     (1)

Its noise is made of CELL x CELL cells, each from a key of its own that folds the cell's row and column, so that the
noise of a region depends neither on how the windows lie nor on how much is drawn at a time.

Canvases are NumPy arrays in the host's memory; of the device's they ask for windows and cells.
"""

import jax
import numpy as np

from cdm.images import augment

CELL = 64
BATCH = 16  # cells at a time
UNIT = 2.0**-12  # of an axis' weights: their products are exact in float32, and so are sums of them


def starts(size, window, overlap):
    """Where windows begin on an axis of `size` >= `window` pixels: the first and the last flush with its ends, the
    others spread evenly, neighbours sharing at least `overlap` pixels."""
    count = 1 + -(-(size - window) // (window - overlap))
    return np.rint(np.linspace(0, size - window, count)).astype(int)


def weights(begins, window, size, overlap):
    """p of eq. 1 on an axis for windows that begin there: [n, window] float32, whole multiples of UNIT that sum to
    exactly 1 at each of the `size` pixels.

    Away from the picture's ends a window rises smoothly over `overlap` pixels, but for the outer eighth of them, where
    it counts nothing: there a network pads, and sees less of the picture than its neighbour.
    """
    distance = (np.arange(window) + 0.5) / overlap
    rise = np.clip((distance - 0.125) / 0.75, 0, 1)
    rise = rise**2 * (3 - 2 * rise)
    tapers = [np.where(begin > 0, rise, 1) * np.where(begin + window < size, rise[::-1], 1) for begin in begins]
    parts = [slice(begin, begin + window) for begin in begins]
    total, passed, given = np.zeros(size), np.zeros(size), np.zeros(size)
    for part, taper in zip(parts, tapers):
        total[part] += taper
    result = np.empty((len(parts), window), np.float32)
    for row, part, taper in zip(result, parts, tapers):  # running sums are rounded, so that the differences add up
        passed[part] += taper
        upto = np.rint(passed[part] / total[part] / UNIT)
        row[:] = (upto - given[part]) * UNIT
        given[part] = upto
    return result


def cut(canvas, corners, side):
    """The squares [n, side, side, C] of the canvas [H, W, C] at these corners [n, 2]; zero beyond its borders."""
    squares = np.zeros((len(corners), side, side, canvas.shape[-1]), np.float32)
    for square, (top, left) in zip(squares, corners):
        piece = canvas[top : top + side, left : left + side]
        square[: piece.shape[0], : piece.shape[1]] = piece
    return squares


def paste(canvas, corners, squares):
    """The inverse of `cut`: write the squares into the canvas."""
    for square, (top, left) in zip(squares, corners):
        piece = canvas[top : top + len(square), left : left + len(square)]
        piece[:] = square[: piece.shape[0], : piece.shape[1]]


def cells(height, width):
    """Iterate the cells that cover a canvas: corners [BATCH, 2] at a time, the last repeated where they run out, so
    that one program does for canvases of every size."""
    down, across = -(-height // CELL), -(-width // CELL)
    for first in range(0, down * across, BATCH):
        which = np.minimum(np.arange(first, first + BATCH), down * across - 1)
        yield CELL * np.stack([which // across, which % across], axis=1)


def cell_noise(key, corners):
    """Standard normal [n, CELL, CELL, 3] of the cells at these corners [n, 2]; traceable."""
    rows, columns = corners.T // CELL
    keys = jax.vmap(lambda row, column: jax.random.fold_in(jax.random.fold_in(key, row), column))(rows, columns)
    return augment.normal(keys, (CELL, CELL, 3))


_cell_noise = jax.jit(cell_noise)


def noise(key, height, width):
    """The noise of a whole canvas, [H, W, 3] float32."""
    canvas = np.empty((height, width, 3), np.float32)
    for corners in cells(height, width):
        paste(canvas, corners, np.asarray(_cell_noise(key, corners)))
    return canvas
