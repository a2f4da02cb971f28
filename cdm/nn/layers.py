"""The layers of the U-Net, in the forms that are fast under XLA. Activations are [B, H, W, C].

Precision: parameters float32; convolutions and matmuls in `dtype`; statistics and softmax in float32.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

ZEROS = nn.initializers.zeros_init()


def kernel_init(key, shape, dtype=jnp.float32):
    """PyTorch's start of Conv and Linear, uniform(+-1/sqrt(fan_in)): what ADM was tuned with (its biases apart).

    Drawn flat: the CPU compiler takes seconds for each draw of four axes, and the numbers are the same.
    """
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)


def groups_of(channels):
    """The number of groups: 32 as in DDPM, fewer in narrow layers so that a group has at least 4 channels."""
    return max(g for g in range(1, max(1, min(32, channels // 4)) + 1) if channels % g == 0)


class GroupNorm(nn.Module):
    """Group normalisation of x [B, H, W, C] with float32 statistics, then, as adaptive normalisation has it, times
    1 + `scale` plus `shift`, both [B, C]."""

    @nn.compact
    def __call__(self, x, scale=None, shift=None):
        batch, height, width, channels = x.shape
        gamma = self.param("scale", nn.initializers.ones_init(), (channels,))
        beta = self.param("bias", ZEROS, (channels,))
        groups = groups_of(channels)
        y = x.astype(jnp.float32)
        # Over the pixels first, channel by channel: that runs along memory, twice as fast on a CPU as over a group's
        # few channels at once.
        mean, square = (jnp.mean(v, axis=(1, 2)).reshape(batch, groups, -1).mean(-1, keepdims=True) for v in (y, y**2))
        # Folded into one multiply and one add per pixel, whose gradient is two sums over the pixels.
        factor = gamma.reshape(groups, -1) * jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + 1e-5)
        offset = beta.reshape(groups, -1) - mean * factor
        factor, offset = (v.reshape(batch, channels) for v in (factor, offset))
        if scale is not None:
            factor, offset = factor * (1 + scale), offset * (1 + scale) + shift
        return (y * factor[:, None, None, :] + offset[:, None, None, :]).astype(x.dtype)


def conv(channels, kernel, dtype, name, init=kernel_init):
    """A convolution of kernel x kernel pixels that keeps the size: [B, H, W, any] to [B, H, W, channels]."""
    return nn.Conv(channels, (kernel, kernel), dtype=dtype, kernel_init=init, name=name)


def upsample(x):
    """Nearest neighbour, twice the size; a broadcast, which is several times faster than a gather."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def downsample(x):
    """2x2 mean, half the size."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4)).astype(x.dtype)


def level_embedding(logsnr, width):
    """Sinusoidal features [B, width] of a noise level [B].

    logSNR in [-20, 20] is laid on the axis 0..1000 that DDPM's embedding of timesteps was made for, rising with noise.
    Beyond +-8, where signal or noise is under 2 % of the amplitude, all levels are one to the network: a cosine
    schedule spends a hundredth of its examples there, so thinly spread that the level at which sampling starts would
    be new to it.
    """
    return timestep_embedding(25.0 * (20.0 - jnp.clip(logsnr, -8.0, 8.0)), width)


def timestep_embedding(position, width):
    """Sinusoidal features [B, width] of a position [B] on DDPM's axis of timesteps, 0..1000."""
    half = width // 2
    frequency = jnp.exp(-jnp.log(10000.0) * jnp.arange(half) / half)
    angle = position[:, None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class ResBlock(nn.Module):
    """DDPM's residual block with BigGAN's options; the names of its parts are ADM's."""

    channels: int
    dropout: float = 0.0
    embedding: str = "adaptive"  # or "additive"
    resample: str = "none"  # "up" or "down": the change of size inside the block
    rescale: bool = False  # skips scaled by 1 / sqrt(2) (SR3)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, emb, train):
        change = {"none": lambda y: y, "up": upsample, "down": downsample}[self.resample]
        h = nn.silu(GroupNorm(name="in_layers_0")(x))
        h = conv(self.channels, 3, self.dtype, "in_layers_2")(change(h))
        x = change(x)
        width = 2 * self.channels if self.embedding == "adaptive" else self.channels
        shift = nn.Dense(width, dtype=self.dtype, kernel_init=kernel_init, name="emb_layers_1")(nn.silu(emb))
        norm = GroupNorm(name="out_layers_0")
        if self.embedding == "adaptive":
            h = norm(h, *jnp.split(shift, 2, axis=-1))
        else:
            h = norm(h + shift[:, None, None, :])
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(h))
        h = conv(self.channels, 3, self.dtype, "out_layers_3", ZEROS)(h)
        if x.shape[-1] != self.channels:
            x = conv(self.channels, 1, self.dtype, "skip_connection")(x)
        return (x + h) * (2**-0.5 if self.rescale else 1)


class Attention(nn.Module):
    """Self-attention over the pixels, multi-head, residual."""

    heads: int
    rescale: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        batch, height, width, channels = x.shape
        h = GroupNorm(name="norm")(x).reshape(batch, height * width, channels)
        h = nn.Dense(3 * channels, dtype=self.dtype, kernel_init=kernel_init, name="qkv")(h)
        q, k, v = jnp.split(h.reshape(batch, height * width, 3 * self.heads, channels // self.heads), 3, axis=2)
        # Left to itself JAX does not pick the fused kernel; there is none in float32 or for wide heads.
        head, device = channels // self.heads, jax.config.jax_default_device
        backend = device.platform if isinstance(device, jax.Device) else jax.default_backend()
        fused = backend == "gpu" and self.dtype == jnp.bfloat16 and head <= 128 and head % 8 == 0
        h = jax.nn.dot_product_attention(q, k, v, implementation="cudnn" if fused else "xla")
        h = h.reshape(batch, height, width, channels)
        h = nn.Dense(channels, dtype=self.dtype, kernel_init=ZEROS, name="proj_out")(h)
        return (x + h) * (2**-0.5 if self.rescale else 1)
