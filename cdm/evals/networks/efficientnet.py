"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation and with ReLU6), for inference: batch norms are
folded into the convolutions before them. The layers of the weights file are those of `efficientnet_lite_pytorch`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cdm.evals.networks.layers import dense, folded, network

# repeats, kernel, stride of the first, expansion, channels
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))
STEM, HEAD, CLASSES = 32, 1280, 1000
EPSILON = 1e-3  # of the batch norms


class Depthwise(nn.Module):
    """A convolution of each channel by itself, as a sum over shifted images: one fused loop, where XLA's grouped
    convolution is some twenty times slower on the CPU. Padding is TensorFlow's SAME."""

    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.kernel, self.kernel, 1, channels))
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
        reach = [(-(-side // self.stride) - 1) * self.stride + 1 for side in x.shape[1:3]]  # the last pixel's place
        margin = [max(n + self.kernel - 1 - side, 0) for n, side in zip(reach, x.shape[1:3])]
        x = jnp.pad(x, ((0, 0), *((m // 2, m - m // 2) for m in margin), (0, 0)))
        x = jax.lax.optimization_barrier(x)  # padded once, not within the sum
        taps = [x[:, i : i + reach[0] : self.stride, j : j + reach[1] : self.stride] * kernel[i, j, 0]
                for i in range(self.kernel) for j in range(self.kernel)]
        return sum(taps) + bias


class Block(nn.Module):
    """An inverted bottleneck (Sandler et al. 2018): wider, depthwise, narrower."""

    kernel: int
    stride: int
    expansion: int
    channels: int

    @nn.compact
    def __call__(self, x):
        h = x
        if self.expansion > 1:
            h = nn.relu6(nn.Conv(x.shape[-1] * self.expansion, (1, 1), name="expand")(h))
        h = nn.relu6(Depthwise(self.kernel, self.stride, name="depthwise")(h))
        h = nn.Conv(self.channels, (1, 1), name="project")(h)
        return h + x if h.shape == x.shape else h


class EfficientNet(nn.Module):
    """[B, 224, 224, 3], (0..255 - 127) / 128, to pool [B, 1280] and logits [B, 1000]."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu6(nn.Conv(STEM, (3, 3), 2, name="stem")(x))
        index = 0
        for repeats, kernel, stride, expansion, channels in STAGES:
            for i in range(repeats):
                x = Block(kernel, 1 if i else stride, expansion, channels, name=f"blocks_{index}")(x)
                index += 1
        pool = jnp.mean(nn.relu6(nn.Conv(HEAD, (1, 1), name="head")(x)), axis=(1, 2))
        return {"pool": pool, "logits": nn.Dense(CLASSES, name="fc")(pool)}


def convert(arrays):
    """The variables from the arrays of `efficientnet-lite0-57934424.pth`."""
    params = {"stem": folded(arrays, "_conv_stem", "_bn0", EPSILON),
              "head": folded(arrays, "_conv_head", "_bn1", EPSILON), "fc": dense(arrays, "_fc")}
    for index in range(sum(stage[0] for stage in STAGES)):
        block = f"_blocks.{index}."
        convs = ("expand", "depthwise", "project") if index else ("depthwise", "project")
        norms = ("_bn0", "_bn1", "_bn2")[-len(convs):]
        params[f"blocks_{index}"] = {
            conv: folded(arrays, f"{block}_{conv}_conv", block + norm, EPSILON) for conv, norm in zip(convs, norms)}
    return {"params": params}


def lite0():
    """The Network."""
    return network(EfficientNet(), convert)
