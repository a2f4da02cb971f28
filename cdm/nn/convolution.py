"""3x3 convolutions that keep the size, and those of a picture enlarged, in the forms that are fast where they run.

On a GPU or TPU, and in half precision, XLA's own. On a CPU that one multiplies as fast as the processor can where there
are many channels, and at half of that or less where there are few; so in float32

- many channels, a picture of moderate size, and pixels enough to transform the kernel for: Winograd's F(2x2, 3x3)
  (Lavin and Gray 2016, sec. 4.1), 16 products where the direct form has 36 for each 2x2 pixels;
- few channels: several pixels of a row at once, as if each were some channels more, with zeros in the kernel;
- nearest-neighbour enlargement and a convolution: 9 products in place of 36, as the pixels that an output sees are
  two by two the same.

All are the same function to float32's rounding, with gradients of any order, but no forward mode (`jax.jvp`), which is
there under `plain`. Which is faster where: `python -m experiments.speed.forms`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PLATFORMS = ("cpu", "gpu", "tpu")  # as JAX's devices name them
_NHWC = ("NHWC", "HWIO", "NHWC")
_FRAME = ((0, 0), (1, 1), (1, 1), (0, 0))
# Of the transformed inputs, bytes: beyond it they leave the cache between being written and being read.
_LIMIT = 2**24
# Multiplications in each of Winograd's products: below it they are too short to be shared by several cores.
_ENOUGH = 2**21
# Of a transformed kernel, bytes: a larger one leaves the cache between being written and being read.
_KERNEL_LIMIT = 2**23
# Tiles whose saved products pay for that.
_LEAST_TILES = 2**7
# Parts of the key of jit's cache: a program traced as other devices have it is not taken for the CPU's, nor one for a
# single core for that of all.
_platform = jax.make_user_context(None)
_one_core = jax.make_user_context(False)


def traced_for(platform):
    """A context in which networks are traced as a platform has them, whatever there is."""
    if platform not in PLATFORMS:
        raise ValueError(f"`platform` (={platform}) must be one of {', '.join(PLATFORMS)}")
    return _platform(platform)


def plain():
    """A context in which networks are traced in the forms that are made for no device: what FLOPs are counted of."""
    return _platform("plain")


def one_core():
    """A context in which programs are traced that a CPU gives a core each."""
    return _one_core(True)


def backend():
    """The platform that a program traced now is for: "cpu", "gpu" or "tpu"; or "plain"."""
    device = jax.config.jax_default_device  # None, a device, or the name of a platform
    return _platform.value or (
        device if isinstance(device, str) else device.platform if device else jax.default_backend())


def for_cpu():
    """Whether a program traced now is to have the forms that are fast on a CPU."""
    return backend() == "cpu"


def convolve(x, kernel):
    """x [B, H, W, C] by kernel [3, 3, C, D], zeros around it: [B, H, W, D]."""
    return _convolve(x, kernel) if _has_forms(x, kernel) else _direct(x, kernel)


def convolve_enlarged(x, kernel):
    """x [B, H, W, C] at twice the size by nearest neighbour, by kernel [3, 3, C, D]: [B, 2 H, 2 W, D]."""
    pixels, both = x.size // x.shape[-1], kernel.shape[2:]
    pays = _bytes(_ENLARGED, pixels, both) <= 2 * _LIMIT and _kernel_pays(_ENLARGED, pixels, both)
    return _convolve_enlarged(x, kernel) if _has_forms(x, kernel) and pays else _direct(enlarge(x), kernel)


def enlarge(x):
    """Nearest neighbour, twice the size; a broadcast, which is several times faster than a gather."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def _has_forms(x, kernel):
    return for_cpu() and x.dtype == kernel.dtype == jnp.float32


def _direct(x, kernel, stride=(1, 1), padding=((1, 1), (1, 1))):
    return jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=_NHWC)


def _abreast(x, kernel, count):
    """`count` pixels of a row as one of so many times the channels: a wider kernel, in steps of `count`."""
    kernels = [jnp.pad(kernel, ((0, 0), (i, count - 1 - i), (0, 0), (0, 0))) for i in range(count)]
    y = _direct(x, jnp.concatenate(kernels, axis=-1), (1, count))
    return y.reshape(*x.shape[:3], kernel.shape[-1])


def _winograd_pays(shape, channels):
    """For x of this shape and so many channels of output: each of the 16 products needs to be of some size where
    several cores share it, the transformed input, four times the input, has to stay in the cache, and what it takes
    to transform the kernel has to pay."""
    batch, height, width, inputs = shape
    pixels, both = batch * height * width, (inputs, channels)
    return (min(both) >= 48 and height % 2 == width % 2 == 0
            and (_one_core.value or pixels // 4 * inputs * channels >= _ENOUGH)
            and _bytes(_WINOGRAD, pixels, both) <= _LIMIT and _kernel_pays(_WINOGRAD, pixels, both))


def _kernel_pays(t, pixels, channels):
    """Whether to transform a kernel of (inputs, outputs) `channels` takes less time than it saves of so many pixels."""
    inputs, outputs = channels
    return pixels // t.stride**2 >= _LEAST_TILES or 4 * len(t.image) ** 2 * inputs * outputs <= _KERNEL_LIMIT


def _bytes(t, pixels, channels):
    """Of the larger of the transformed input and the products, in float32."""
    return 4 * len(t.image) ** 2 * (pixels // t.stride**2) * max(channels)


@jax.custom_vjp
def _convolve(x, kernel):
    inputs, channels = kernel.shape[2:]
    if _winograd_pays(x.shape, channels):
        return _transformed(_WINOGRAD, x, kernel)
    count = 4 if channels <= 4 else 2 if channels < 32 or inputs <= 8 else 1
    return _direct(x, kernel) if count == 1 or x.shape[2] % count else _abreast(x, kernel, count)


def _convolve_backward(kept, gradient):
    x, kernel = kept
    if _winograd_pays(x.shape, kernel.shape[-1]):
        return _transformed(_WINOGRAD, gradient, kernel, back=True), _kernel_gradient(_WINOGRAD, x, gradient)
    return _convolve(gradient, _turned(kernel)), *jax.linear_transpose(lambda k: _direct(x, k), kernel)(gradient)


_convolve.defvjp(lambda x, kernel: (_convolve(x, kernel), (x, kernel)), _convolve_backward)


@jax.custom_vjp
def _convolve_enlarged(x, kernel):
    return _transformed(_ENLARGED, x, kernel)


def _convolve_enlarged_backward(kept, gradient):
    x, kernel = kept
    # The four pixels that came of one, summed: a kernel of 4x4 in steps of two.
    turned = jnp.pad(_turned(kernel), ((1, 1), (1, 1), (0, 0), (0, 0)))
    summed = sum(turned[i : i + 4, j : j + 4] for i in range(2) for j in range(2))
    return _direct(gradient, summed, (2, 2)), _kernel_gradient(_ENLARGED, x, gradient)


_convolve_enlarged.defvjp(lambda x, kernel: (_convolve_enlarged(x, kernel), (x, kernel)), _convolve_enlarged_backward)


def _turned(kernel):
    """The kernel by which the output's gradient is convolved to the input's: rotated, channels exchanged."""
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


class _Transform(NamedTuple):
    """Two outputs along one axis from the inputs d that they see and a kernel g of three taps (Lavin and Gray 2016):

        y = A^T ((G g) * (B^T d)),   and of two axes   Y = A^T ((G g G^T) * (B^T d B)) A                        (1)
    """

    stride: int  # inputs from one pair of outputs to the next
    image: np.ndarray  # B^T [products, inputs seen]
    kernel: np.ndarray  # G [products, 3]
    output: np.ndarray  # A^T [2, products]


_WINOGRAD = _Transform(
    2, image=np.float32([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    kernel=np.float32([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    output=np.float32([[1, 1, 1, 0], [0, 1, -1, -1]]))
# Winograd's of four inputs a, b, b, c without the product of b - b.
_ENLARGED = _Transform(
    1, image=np.float32([[1, -1, 0], [0, 1, 0], [0, 1, -1]]),
    kernel=np.float32([[1, 0, 0], [1, 1, 1], [0, 0, 1]]),
    output=np.float32([[1, 1, 0], [0, 1, -1]]))


def _combined(matrix, parts, axis):
    """The sums of `parts`, arrays of one shape, by the rows of a matrix [rows, parts], along a new axis."""
    return jnp.stack([sum(float(c) * part for c, part in zip(row, parts) if c) for row in matrix], axis)


def _in_one_loop(matrix, parts, axis):
    """The same, written so that the compiler makes one loop of it and keeps nothing in between: faster of large arrays
    that need not be kept."""
    columns = matrix.T.reshape(len(parts), *(-1 if a == axis else 1 for a in range(parts[0].ndim + 1)))
    return sum(column * jnp.expand_dims(part, axis) for column, part in zip(columns, parts))


def _of_kernel(matrix, kernel):
    """The same along the first two axes of a kernel."""
    kernel = _combined(matrix, list(kernel), 0)
    return _combined(matrix, [kernel[:, j] for j in range(kernel.shape[1])], 1)


def _image(t, x):
    """B^T d B of every tile: [products, B * tiles, C]."""
    height, width = x.shape[1:3]
    products, taps = t.image.shape
    # The compiler keeps what is padded, instead of computing it anew for each of its uses.
    x = jnp.pad(x, _FRAME)
    x = _combined(t.image, [x[:, i : height + 3 - taps + i : t.stride] for i in range(taps)], 0)
    x = _in_one_loop(t.image, [x[:, :, :, j : width + 3 - taps + j : t.stride] for j in range(taps)], 1)
    return x.reshape(products**2, -1, x.shape[-1])


def _transformed(t, x, kernel, back=False):
    """Eq. 1 of x; `back`: of the output's gradient, which gives that of x."""
    batch, products = x.shape[0], len(t.image)
    height, width = (side // t.stride for side in x.shape[1:3])
    kernel = _of_kernel(t.kernel, kernel[::-1, ::-1] if back else kernel)
    kernel = kernel.reshape(products**2, *kernel.shape[2:])
    y = jax.lax.dot_general(_image(t, x), kernel, (((2,), (2 if back else 1,)), ((0,), (0,))))
    y = y.reshape(products, products, batch, height, width, -1)
    y = _combined(t.output, list(y), 3)
    return _combined(t.output, list(y), 4).reshape(batch, 2 * height, 2 * width, -1)


def _kernel_gradient(t, x, gradient):
    """The gradient of eq. 1 by the kernel."""
    height, width, channels = gradient.shape[1:]
    y = jnp.pad(gradient, _FRAME)
    y = _in_one_loop(t.output.T, [y[:, 1 + i : 1 + height + i : 2] for i in range(2)], 0)
    y = _in_one_loop(t.output.T, [y[:, :, :, 1 + j : 1 + width + j : 2] for j in range(2)], 1)
    kernel = jax.lax.dot_general(_image(t, x), y.reshape(len(t.image) ** 2, -1, channels), (((1,), (1,)), ((0,), (0,))))
    return _of_kernel(t.kernel.T, kernel.reshape(len(t.image), len(t.image), *kernel.shape[1:]))
