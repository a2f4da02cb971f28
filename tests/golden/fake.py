"""Weights and images that anyone can draw again, so that a golden file holds only what a network made of them."""

import math
import zlib

import numpy as np


def fake(name, shape):
    """The weights called `name` in a published file: activations stay of order one, and variances positive."""
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if name.endswith(("var", "variance")):
        return 0.5 + 0.1 * np.abs(value)
    if name.startswith(("lin", "NetLinLayer")):  # the heads of LPIPS
        return np.abs(value)
    if name.endswith("kernel"):  # [H, W, I, O] or [I, O]
        return value * np.float32(math.sqrt(1.5 / math.prod(shape[:-1])))
    if len(shape) > 1 and not name.endswith(("pos_embed", "cls_token")):  # [O, I, H, W] or [O, I]
        return value * np.float32(math.sqrt(1.5 / math.prod(shape[1:])))
    return 0.1 * value + np.float32(0.6 * name.endswith(("weight", "gamma")))


def images(seed, count=2, height=48, width=64):
    """[B, H, W, 3] uint8: noise over a shade that differs by image and channel."""
    random = np.random.default_rng(seed)
    shade = np.linspace(0, 1, width) * random.uniform(50, 200, (count, 1, 1, 3)).swapaxes(2, 3)
    noise = random.uniform(-40, 40, (count, height, width, 3))
    return np.clip(shade.swapaxes(2, 3) + noise + 30, 0, 255).astype(np.uint8)
