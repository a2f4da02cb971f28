"""What a picture x [H, W, C] owes to the y [h, w, C] that it is an enlargement of, h <= H and w <= W.

    y = M_h x M_w^T                                     the resize (cdm.images.resize), bicubic       (1)
    P x = x + M_h^+ (y - M_h x M_w^T) M_w^+^T           the nearest x with (1), exactly               (2)
    M^+ = M^T (M M^T)^-1                                for M's rows are independent                  (3)

M M^T is banded, as kernels overlap with few others, so that (3) takes a banded Cholesky factor and never a dense
inverse. (2) is the range-null decomposition of Wang et al. 2023 (DDNM, eq. 7). What it gives may leave the range of a
picture; `finish` finds one that does not. Float32 pictures on the host, in any range.
"""

import functools

import numpy as np
import scipy.linalg

from cdm.images.resize import kernels, resize

BAND = 256  # rows at a time
LOCK = 8
ROUNDS = 100  # of alternation at most
ENOUGH = 1e-8  # mean square of what is missing, of the range: a twentieth of what rounding to 8 bits adds


@functools.lru_cache(maxsize=16)
def _axis(size, small):
    """(M [small, size] sparse, the banded Cholesky factor of M M^T) of an axis, float64."""
    down = kernels(size, small)
    gram = (down @ down.T).todia()  # M M^T
    band = np.zeros((gram.offsets.max() + 1, small))
    for offset, diagonal in zip(gram.offsets, gram.data):
        if offset >= 0:
            band[len(band) - 1 - offset, offset:] = diagonal[offset:small]
    return down, scipy.linalg.cholesky_banded(band)


def _along(function, values, axis):
    """What a function of the columns of a 2-D array makes of an array along one of its axes."""
    front = np.moveaxis(values, axis, 0)
    result = function(front.reshape(len(front), -1))
    return np.moveaxis(result.reshape(-1, *front.shape[1:]), 0, axis)


def project(x, y):
    """Bring x to P x of eq. 2, in place; returns x. Whatever x is, its digits are those of its dtype."""
    missing = y - resize(x, y.shape[:2]).astype(np.float64)
    (rows, *row_factor), (columns, *column_factor) = (_axis(*sides) for sides in zip(x.shape, y.shape[:2]))
    for axis, factor in enumerate((row_factor, column_factor)):
        missing = _along(lambda values: scipy.linalg.cho_solve_banded((*factor, False), values), missing, axis)
    wide = _along(lambda values: columns.T @ values, missing, 1)
    for first in range(0, len(x), BAND):  # the rest is as large as x
        band = rows[:, first : first + BAND].T
        x[first : first + BAND] += _along(lambda values: band @ values, wide, 0)
    return x


def finish(x, y, low=-1.0, high=1.0):
    """Bring x, in place, to a picture of the range [low, high] with eq. 1, by alternate projections onto the two;
    returns x, within the range. Where no such picture exists (black and white input may shrink from none) alternation
    stops when it comes no nearer. (Dykstra's, whose limit is the nearest picture, needs as many rounds, and a copy.)"""
    last = np.inf
    for _ in range(ROUNDS):
        np.clip(project(x, y), low, high, out=x)
        missing = np.mean((y - resize(x, y.shape[:2])) ** 2) / (high - low) ** 2
        if missing < ENOUGH or missing > 0.99 * last:
            break
        last = missing
    return x


def lock(x, y):
    """x with the slow changes of y: what x lacks of y, in means of LOCK x LOCK pixels of y, is added back smoothly."""
    height, width = y.shape[:2]
    missing = y - resize(x, (height, width))
    slow = resize(missing, (-(-height // LOCK), -(-width // LOCK)), "area")
    return x + resize(slow, x.shape[:2])
