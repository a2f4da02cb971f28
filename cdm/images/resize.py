"""The one resize of the project: separable, anti-aliased bicubic (Keys 1981, a = -0.5), bilinear or area.

    y = M_h x M_w^T                                                                               (1)

with a matrix per axis: row i holds the kernel centred on output pixel i, stretched by the factor when it shrinks, cut
at the border and normalised to sum 1. Equal to Pillow's and to jax.image.resize's anti-aliased result (area: but for
samples on the edge of two output pixels, whose side Pillow leaves to rounding). Low-res images are made by this
function in training, sampling, evaluation and upscaling alike, on the device or (NumPy) in a loader.
"""

import functools
import numbers

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

BAND = 256  # rows that the host has twice


def _cubic(x):
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))


def _triangle(x):
    return np.maximum(1 - np.abs(x), 0)


def _box(x):
    # Half-open, so that a sample on the edge of two output pixels counts once, on the same side as in Pillow.
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


METHODS = {"bicubic": _cubic, "bilinear": _triangle, "area": _box}


@functools.lru_cache(maxsize=64)
def kernels(size_in, size_out, method="bicubic"):
    """M of eq. 1 for one axis, [size_out, size_in], sparse float64: of a long axis it is all but zeros."""
    if method not in METHODS:
        raise ValueError(f"`method` (={method!r}) must be one of {', '.join(METHODS)}")
    if size_in < 1 or size_out < 1:
        raise ValueError(f"sizes ({size_in} to {size_out}) must be at least 1")
    # (centre of the input pixel - centre of the output pixel) / stretch, in integers up to the one division, so that
    # ties are exact; kernels reach 2 at most.
    most, centre = max(size_in, size_out), size_in * (2 * np.arange(size_out)[:, None] + 1)
    pixel = -((size_out + 4 * most - centre) // (2 * size_out)) + np.arange(4 * most // size_out + 2)
    weights = METHODS[method]((size_out * (2 * pixel + 1) - centre) / (2 * most))
    weights[(pixel < 0) | (pixel >= size_in)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    row, tap = np.nonzero(weights)
    return scipy.sparse.csr_array((weights[row, tap], (row, pixel[row, tap])), shape=(size_out, size_in))


@functools.lru_cache(maxsize=64)
def matrix(size_in, size_out, method="bicubic"):
    """`kernels`, dense."""
    return kernels(size_in, size_out, method).toarray()


def resize(image, size, method="bicubic"):
    """Resize [..., H, W, C] to [..., h, w, C], size = (h, w) or one number for both; float32, range kept but for the
    bicubic's overshoot. JAX arrays stay on their device, NumPy arrays stay on the host."""
    height, width = (size, size) if isinstance(size, numbers.Integral) else size
    if image.shape[-3:-1] == (height, width):
        return image.astype(np.float32)
    axes = (image.shape[-3], height, method), (image.shape[-2], width, method)
    image = image.astype(np.float32)
    if isinstance(image, jax.Array):
        rows, columns = (matrix(*axis).astype(np.float32) for axis in axes)
        dot = functools.partial(jnp.einsum, precision="highest")
        return dot("xw,...hwc->...hxc", columns, dot("yh,...hwc->...ywc", rows, image))
    rows, columns = (kernels(*axis).astype(np.float32) for axis in axes)
    result = np.empty((*image.shape[:-3], height, width, image.shape[-1]), np.float32)
    for index in np.ndindex(image.shape[:-3]):
        tall = (rows @ image[index].reshape(len(image[index]), -1)).reshape(height, *image.shape[-2:])
        for first in range(0, height, BAND):
            band = tall[first : first + BAND].swapaxes(0, 1)
            wide = (columns @ band.reshape(len(band), -1)).reshape(width, *band.shape[1:])
            result[index][first : first + BAND] = wide.swapaxes(0, 1)
    return result


def to_uint8(image):
    """[-1, 1] float to 0..255 uint8, rounded to nearest and clipped."""
    xp = jnp if isinstance(image, jax.Array) else np
    return xp.clip(xp.round((image + 1) * 127.5), 0, 255).astype(np.uint8)


def to_float(image):
    """0..255 uint8 to [-1, 1] float32."""
    return image.astype(np.float32) / 127.5 - 1
