"""Group normalisation, with the SiLU that follows it, in the forms that are fast where they run.

All are two passes over the pixels: sums of each channel, then one multiplication and one addition a pixel, into which
all else is folded. Their gradient is left to JAX but on a GPU, where XLA writes the gradient before the SiLU to memory
and reads it again in the pass that sums it and in the one that uses the sums: 16 bytes a number of bfloat16. `_fused`
computes it in both, 10 bytes; it has no forward mode (`jax.jvp`). By the estimates of a TPU's compiler that would be
slower there (docs/speed.md).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cdm.nn import convolution

EPSILON = 1e-5


def groups_of(channels):
    """The number of groups: 32 as in DDPM, fewer in narrow layers so that a group has at least 4 channels."""
    return max(g for g in range(1, max(1, min(32, channels // 4)) + 1) if channels % g == 0)


def over_groups(channels, groups):
    """Arrays [B, C] averaged over each group of channels, the answer at each of its channels."""
    batch, count = channels[0].shape
    size = count // groups
    if convolution.for_cpu():
        # A matrix product, which is computed once: a broadcast the CPU's compiler would look up at every pixel.
        group = jnp.arange(count) // size
        same = (group[:, None] == group) / jnp.float32(size)
        return [jnp.dot(x, same, precision="highest") for x in channels]
    # All in one sum: a GPU takes as long to start it as to do it. Not along the batch, which devices share.
    means = jnp.stack(channels).reshape(-1, batch, groups, size).mean(-1, keepdims=True)
    return list(jnp.broadcast_to(means, (len(channels), batch, groups, size)).reshape(-1, batch, count))


class GroupNorm(nn.Module):
    """Group normalisation of x [B, H, W, C] with float32 statistics, then, as adaptive normalisation has it, times
    1 + `scale` plus `shift`, and with `silu` the SiLU of that; as if `added` had been added to x before. All three
    are [B, C]."""

    silu: bool = False

    @nn.compact
    def __call__(self, x, scale=None, shift=None, added=None):
        channels = x.shape[-1]
        gamma = self.param("scale", nn.initializers.ones_init(), (channels,))
        beta = self.param("bias", nn.initializers.zeros_init(), (channels,))
        if scale is not None:
            gamma, beta = gamma * (1 + scale), beta * (1 + scale) + shift
        if added is not None:
            added = added.astype(jnp.float32)
        if not self.silu:
            return _normalised(x, gamma, beta, added)
        return (_fused if convolution.backend() == "gpu" else _with_silu)(x, gamma, beta, added)


def _means(x):
    """Of x and of its square, [B, C]. Over the pixels first, channel by channel: that runs along memory, twice as fast
    on a CPU as over a group's few channels at once."""
    y = x.astype(jnp.float32)
    return jnp.mean(y, axis=(1, 2)), jnp.mean(y**2, axis=(1, 2))


def _folded(mean, square, gamma, beta, added):
    """(factor, offset) [B, C] of normalisation, of a channel's means."""
    if added is not None:
        mean, square = mean + added, square + 2 * mean * added + added**2
    mean, square = over_groups([mean, square], groups_of(mean.shape[-1]))
    deviation = jnp.sqrt(jnp.maximum(square - mean**2, 0) + EPSILON)
    if added is not None:
        mean = mean - added
    # A CPU's compiler computes what ends in a division once for each channel, and anything else again for every pixel.
    return gamma / deviation, (beta * deviation - gamma * mean) / deviation


def _scaled(x, factor, offset):
    """One multiplication and one addition a pixel, whose gradient is two sums over the pixels; in float32."""
    return x.astype(jnp.float32) * factor[:, None, None, :] + offset[:, None, None, :]


def _normalised(x, gamma, beta, added):
    return _scaled(x, *_folded(*_means(x), gamma, beta, added)).astype(x.dtype)


def _with_silu(x, gamma, beta, added):
    return nn.silu(_normalised(x, gamma, beta, added))


_fused = jax.custom_vjp(_with_silu)


def _fused_forward(x, *given):
    (factor, offset), back = jax.vjp(_folded, *_means(x), *given)
    return nn.silu(_scaled(x, factor, offset).astype(x.dtype)), (x, factor, offset, back)


def _fused_backward(kept, gradient):
    x, factor, offset, back = kept

    def before(x):
        """The gradient before the SiLU, in float32."""
        y = _scaled(x, factor, offset)
        sigmoid = jax.nn.sigmoid(y)
        return gradient.astype(jnp.float32) * (sigmoid * (1 + y * (1 - sigmoid)))

    slope = before(x)
    sums = slope * x.astype(jnp.float32), slope
    # Along rows first: of a sum over all pixels at once XLA would write the summands to memory.
    rows = jax.lax.optimization_barrier([jnp.sum(v, axis=2) for v in sums])
    mean, square, *of_given = back(tuple(jnp.sum(v, axis=1) for v in rows))
    # The barrier makes another array of x to the compiler, which otherwise kept the gradient from above.
    x, mean, square = jax.lax.optimization_barrier((x, mean, square))
    pixels = math.prod(x.shape[1:3])
    of_x = before(x) * factor[:, None, None, :] + _scaled(x, 2 * square / pixels, mean / pixels)
    return of_x.astype(x.dtype), *of_given


_fused.defvjp(_fused_forward, _fused_backward)
