"""The size and cost of a stage, from its shapes alone: nothing is allocated."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var, jaxprs_in_params

from cdm import nn
from cdm.nn import convolution
from cdm.stage import Stage, flatten


def _bytes(tree):
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def program(function, *shapes):
    """(FLOPs, jaxpr) of a function of these shapes, in the forms that are made for no platform (a CPU's own take fewer
    FLOPs and more memory): FLOPs as XLA counts those of the lowered program, or None where JAX has no CPU
    backend to count with: other backends do not tell before they have compiled."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        device = None
    with jax.default_device(device), convolution.plain():
        traced = jax.jit(function).trace(*shapes)
        return float(traced.lower().cost_analysis()["flops"]) if device else None, traced.jaxpr.jaxpr


def peak(jaxpr, without=()):
    """Bytes that a program has at once beside its arguments: in the order it is written in, each value freed after its
    last use; values shaped as one of `without` do not count. A compiler that fuses needs less; the workspace of its
    convolutions is not in it."""

    def size(variables):
        return sum(v.aval.size * v.aval.dtype.itemsize for v in variables if v.aval.shape not in without)

    last = {v: i for i, equation in enumerate(jaxpr.eqns) for v in equation.invars if isinstance(v, Var)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if isinstance(v, Var)}
    live, most, freed = 0, 0, collections.Counter()
    for i, equation in enumerate(jaxpr.eqns):
        inside = max((peak(part, without) for part in jaxprs_in_params(equation.params)), default=0)
        most = max(most, live + max(size(equation.outvars), inside))
        live += size(equation.outvars)
        for v in equation.outvars:
            freed[last.get(v, i)] += size([v])
        live -= freed[i]
    return most


def describe(config, classes):
    """Parameters, FLOPs per image, memory and shapes of a config's stage of those classes, as a JSON-ready dict.

    FLOPs are those of the lowered program: of one denoiser evaluation, of a sampling run by the config's settings
    (guidance counted twice), and of a training step per image (forward and backward, with the crop the config trains
    on); null where JAX has no CPU backend. Memory in bytes, computing in `dtype`: of the parameters; of the training
    state with its gradient; of the activations of a training step, which each image of a batch adds; and `peak`, all
    that is there at once when one image is denoised and when one is trained on; see `peak` for how they are counted.
    """
    stage = Stage(config, classes)
    params = jax.eval_shape(stage.init)

    def shaped(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    size, low = stage.size, stage.lowres_size
    lowres, aug = (shaped(1, low, low, 3), shaped(1)) if low else (None, None)
    inputs = (shaped(1, size, size, 3), shaped(1), shaped(1, dtype=jnp.int32), lowres, aug)

    def loss(params, batch):
        return stage.loss(params, **batch, seed=config.train.seed)[0]

    def denoise(params, *inputs):
        return stage.network.apply(nn.cast(params, stage.dtype), *inputs)

    once, denoising = program(denoise, params, *inputs)
    cost, training = program(jax.value_and_grad(loss), params, stage.batch(1))
    sample, flat = config.sample, flatten(params)
    # Parameters, averages, Adam's two moments, gradient; and a teacher's parameters.
    state = (5 + len(config.train.ema_sigmas) + bool(config.train.teacher)) * _bytes(params)
    return {
        "name": stage.name,
        "dtype": stage.dtype,
        "params": sum(int(np.prod(leaf.shape)) for leaf in flat.values()),
        "flops_per_image": {
            "denoise": once,
            "sample": once and once * sample.steps * (2 if sample.guidance else 1),
            "train": cost,
        },
        "memory": {
            "params": _bytes(params),
            "train_state": state,
            # Parameters, as they are or as `dtype`, are there once.
            "activations_per_image": peak(training, {leaf.shape for leaf in flat.values()}),
            "peak": {
                "denoise": _bytes(params) + peak(denoising),
                "train": state + peak(training) - _bytes(params),  # the gradient is in the state already
            },
        },
        "shapes": {
            "output": [size, size, 3],
            "lowres": [low, low, 3] if low else None,
            "train_crop": config.data.crop or size,
            "classes": len(stage.classes),
            "parameters": {name: list(leaf.shape) for name, leaf in flat.items()},
        },
    }
