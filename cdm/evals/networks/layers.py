"""What the evaluation networks share: how they look from outside, and how PyTorch's layers become ours."""

from typing import Callable, NamedTuple

import jax
import numpy as np


class Network(NamedTuple):
    """A network as everyone outside sees it.

    init(key, images) -> variables, nested dicts of arrays
    apply(variables, images [B, H, W, 3]) -> dict of float32 arrays [B, ...]
    convert(arrays) -> variables, from the arrays of the published weights file by their names there
    """

    init: Callable
    apply: Callable
    convert: Callable


def network(module, convert):
    """The Network of a module. Products are float32 on every device: a GPU would round them to TF32."""

    def apply(variables, *images):
        with jax.default_matmul_precision("highest"):
            return module.apply(variables, *images)

    return Network(module.init, apply, convert)


def kernel(weight):
    """PyTorch's [O, I, H, W] as [H, W, I, O], or its [O, I] as [I, O]."""
    return np.ascontiguousarray(np.transpose(weight, (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)))


def dense(arrays, name):
    """A convolution or a linear layer with its bias."""
    return {"kernel": kernel(arrays[f"{name}.weight"]), "bias": arrays[f"{name}.bias"]}


def folded(arrays, conv, norm, epsilon):
    """A convolution and the batch norm after it as one convolution with a bias: what they are once trained."""
    scale, bias, mean, variance = (arrays[f"{norm}.{part}"].astype(np.float64)
                                   for part in ("weight", "bias", "running_mean", "running_var"))
    scale = scale / np.sqrt(variance + epsilon)
    return {"kernel": (kernel(arrays[f"{conv}.weight"]) * scale).astype(np.float32),
            "bias": (bias - mean * scale).astype(np.float32)}
