"""The layers of the U-Net, in the forms that are fast under XLA. Activations are [B, H, W, C].

Precision: parameters float32; convolutions and matmuls in `dtype`; statistics and softmax in float32.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cdm.nn import convolution
from cdm.nn.norm import GroupNorm

ZEROS = nn.initializers.zeros_init()


def kernel_init(key, shape, dtype=jnp.float32):
    """PyTorch's start of Conv and Linear, uniform(+-1/sqrt(fan_in)): what ADM was tuned with (its biases apart).

    Drawn flat: the CPU compiler takes seconds for each draw of four axes, and the numbers are the same.
    """
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)


class Conv(nn.Module):
    """A convolution of 3x3 pixels that keeps the size, [B, H, W, any] to [B, H, W, channels], or has its input enlarged
    to twice the size before: to [B, 2 H, 2 W, channels]."""

    channels: int
    enlarged: bool = False
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = kernel_init

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.channels))
        bias = self.param("bias", ZEROS, (self.channels,))
        form = convolution.convolve_enlarged if self.enlarged else convolution.convolve
        return form(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


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
        h = GroupNorm(silu=True, name="in_layers_0")(x)
        if self.resample == "down":
            h, x = downsample(h), downsample(x)
        h = Conv(self.channels, self.resample == "up", self.dtype, name="in_layers_2")(h)
        if self.resample == "up":
            x = convolution.enlarge(x)
        width = 2 * self.channels if self.embedding == "adaptive" else self.channels
        shift = nn.Dense(width, dtype=self.dtype, kernel_init=kernel_init, name="emb_layers_1")(nn.silu(emb))
        norm = GroupNorm(silu=True, name="out_layers_0")
        h = norm(h, *jnp.split(shift, 2, axis=-1)) if self.embedding == "adaptive" else norm(h, added=shift)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = Conv(self.channels, dtype=self.dtype, kernel_init=ZEROS, name="out_layers_3")(h)
        if x.shape[-1] != self.channels:
            x = nn.Conv(self.channels, (1, 1), dtype=self.dtype, kernel_init=kernel_init, name="skip_connection")(x)
        return (x + h) * (2**-0.5 if self.rescale else 1)


class _ToHeads(nn.Module):
    """Queries, keys and values of x [B, N, C], each [B, heads, N, C / heads]: a dense layer to 3 C."""

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        each = 3, self.heads, channels // self.heads
        kernel = self.param("kernel", kernel_init, (channels, 3 * channels)).astype(self.dtype)
        bias = self.param("bias", ZEROS, (3 * channels,)).astype(self.dtype)
        kernel, bias = kernel.reshape(channels, *each), bias.reshape(each)
        return [jnp.einsum("bnc,chd->bhnd", x.astype(self.dtype), kernel[:, i]) + bias[i, :, None] for i in range(3)]


class _FromHeads(nn.Module):
    """x [B, heads, N, C / heads] to [B, N, C]: a dense layer of all heads together."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        _, heads, _, width = x.shape
        channels = heads * width
        kernel = self.param("kernel", ZEROS, (channels, channels)).astype(self.dtype)
        bias = self.param("bias", ZEROS, (channels,)).astype(self.dtype)
        return jnp.einsum("bhnd,hdc->bnc", x, kernel.reshape(heads, width, channels)) + bias


class Attention(nn.Module):
    """Self-attention over the pixels, multi-head, residual."""

    heads: int
    rescale: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        batch, height, width, channels = x.shape
        h = GroupNorm(name="norm")(x).reshape(batch, height * width, channels)
        h = (self._by_heads if convolution.backend() == "tpu" else self._by_pixels)(h)
        return (x + h.reshape(x.shape)) * (2**-0.5 if self.rescale else 1)

    def _by_pixels(self, h):
        """Attention of h [B, N, C], each pixel's heads one after the other."""
        batch, pixels, channels = h.shape
        h = nn.Dense(3 * channels, dtype=self.dtype, kernel_init=kernel_init, name="qkv")(h)
        q, k, v = jnp.split(h.reshape(batch, pixels, 3 * self.heads, channels // self.heads), 3, axis=2)
        # Left to itself JAX does not pick the fused kernel; there is none in float32 or for wide heads.
        head = channels // self.heads
        fused = convolution.backend() == "gpu" and self.dtype == jnp.bfloat16 and head <= 128 and head % 8 == 0
        h = jax.nn.dot_product_attention(q, k, v, implementation="cudnn" if fused else "xla")
        return nn.Dense(channels, dtype=self.dtype, kernel_init=ZEROS, name="proj_out")(h.reshape(batch, pixels, -1))

    def _by_heads(self, h):
        """The same, each head's pixels one after the other: a TPU's compiler brings all of them into that order, and
        back, if it is not made so."""
        q, k, v = _ToHeads(self.heads, self.dtype, name="qkv")(h)
        scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        h = jnp.einsum("bhnm,bhmd->bhnd", nn.softmax(scores).astype(self.dtype), v)
        return _FromHeads(self.dtype, name="proj_out")(h)
