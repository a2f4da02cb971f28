"""The size and cost of a stage, from its shapes alone: nothing is allocated."""

import jax
import jax.numpy as jnp
import numpy as np

from cdm.stage import Stage, flatten


def _bytes(tree):
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def flops(function, *shapes):
    """FLOPs of a program as XLA counts those of the lowered one, or None where JAX has no CPU backend to count with:
    other backends do not tell before they have compiled."""
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return float(jax.jit(function).lower(*shapes).cost_analysis()["flops"])
    except (RuntimeError, NotImplementedError):
        return None


def describe(config, classes):
    """Parameters, FLOPs per image, memory and shapes of a config's stage of those classes, as a JSON-ready dict.

    FLOPs are those of the lowered program: of one denoiser evaluation, of a sampling run by the config's settings
    (guidance counted twice), and of a training step per image (forward and backward, with the crop the config trains
    on); null where JAX has no CPU backend. Memory in bytes: of the parameters; of the training state with its
    gradient; and of the activations that the backward pass keeps per image, before any fusion.
    """
    stage = Stage(config, classes)
    params = jax.eval_shape(stage.init)

    def shaped(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    size, low = stage.size, stage.lowres_size
    lowres, aug = (shaped(1, low, low, 3), shaped(1)) if low else (None, None)
    inputs = (shaped(1, size, size, 3), shaped(1), shaped(1, dtype=jnp.int32), lowres, aug)
    batch = (shaped(1, size, size, 3, dtype=jnp.uint8), shaped(1, dtype=jnp.int32), shaped(1, dtype=jnp.uint32))

    def loss(params, image, label, index):
        return stage.loss(params, image, label, index, config.train.seed)[0]

    once = flops(stage.network.apply, params, *inputs)
    sample = config.sample
    kept = jax.eval_shape(lambda params, *batch: jax.vjp(lambda p: loss(p, *batch), params)[1], params, *batch)
    flat = flatten(params)
    return {
        "name": stage.name,
        "params": sum(int(np.prod(leaf.shape)) for leaf in flat.values()),
        "flops_per_image": {
            "denoise": once,
            "sample": once and once * sample.steps * (2 if sample.guidance else 1),
            "train": flops(jax.value_and_grad(loss), params, *batch),
        },
        "memory": {
            "params": _bytes(params),
            # Parameters, averages, Adam's two moments, gradient.
            "train_state": (5 + len(config.train.ema_sigmas) + bool(config.train.teacher)) * _bytes(params),
            "activations_per_image": max(_bytes(kept) - _bytes(params), 0),
        },
        "shapes": {
            "output": [size, size, 3],
            "lowres": [low, low, 3] if low else None,
            "train_crop": config.data.crop or size,
            "classes": len(stage.classes),
            "parameters": {name: list(leaf.shape) for name, leaf in flat.items()},
        },
    }
