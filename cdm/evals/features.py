"""Features of images for the metrics: a network, what its input is made of, and its weights.

    lite0      EfficientNet-Lite0: 1280 features, 1000 logits. The default: its weights come from a package registry
    rn50       ResNet-50: 2048 features, 1000 logits. Its weights too
    inception  Inception-v3 of 2015-12-05, what FID is defined by: pool_3, 1008 logits, and spatial features for sFID
    dinov2     DINOv2 ViT-L/14: the class token, 1024 features; dinov2_s is ViT-S/14 with 384
"""

from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdm.evals import weights as files
from cdm.evals.networks import build
from cdm.images.resize import resize


class Input(NamedTuple):
    """How uint8 images become a network's input: the words for their resize, and the function."""

    resize: str
    prepare: Callable


def _bicubic(scale):
    """The project's own resize, overshoot clipped, then `scale` of 0..255."""
    return Input("bicubic antialiased to 224, clipped",
                 lambda images: scale(jnp.clip(resize(images, 224), 0, 255)))


def _tensorflow1(images):
    """What the graph of 2015-12-05 does to its images: bilinear between the pixels at and after i in / out, without
    half a pixel's offset, without anti-aliasing."""
    matrices = []
    for size in images.shape[1:3]:
        at = np.arange(299) * (size / 299)
        near = np.floor(at).astype(int)
        matrix = np.zeros((299, size), np.float32)
        np.add.at(matrix, (np.arange(299), near), 1 - (at - near))
        np.add.at(matrix, (np.arange(299), np.minimum(near + 1, size - 1)), at - near)
        matrices.append(matrix)
    rows, columns = matrices
    images = jnp.einsum("yh,bhwc->bywc", rows, images.astype(jnp.float32), precision="highest")
    return (jnp.einsum("xw,bywc->byxc", columns, images, precision="highest") - 128) / 128


CAFFE_MEAN = np.float32([103.939, 116.779, 123.68])  # of ImageNet, blue first
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])  # red first, of 0..1
DINO = _bicubic(lambda x: (x / 255 - MEAN) / DEVIATION)
INPUTS = {
    "lite0": _bicubic(lambda x: (x - 127) / 128),
    "rn50": _bicubic(lambda x: x[..., ::-1] - CAFFE_MEAN),
    "inception": Input("TensorFlow 1 bilinear to 299, not antialiased", _tensorflow1),
    "dinov2": DINO,
    "dinov2_s": DINO,
}


class Extractor:
    """A network for features: `name`, `sha256` of its weights file, `resize` (in words), `dim` of the features."""

    def __init__(self, name, variables, sha256, batch_size=None):
        """`batch_size` images go through the network at once; None is what suits the device."""
        self.name, self.sha256, self.resize = name, sha256, INPUTS[name].resize
        # Few on the CPU, where a batch that stays in the cache is faster.
        self.batch_size = batch_size or (8 if jax.default_backend() == "cpu" else 128)
        self._variables, network = jax.device_put(variables), build(name)
        self._run = jax.jit(lambda variables, images: network.apply(variables, INPUTS[name].prepare(images)))
        shape = jax.ShapeDtypeStruct((1, 64, 64, 3), "uint8")
        self.dim = jax.eval_shape(self._run, variables, shape)["pool"].shape[-1]

    def __call__(self, images):
        """Features of images [B, H, W, 3] uint8: a dict of float32 arrays, "pool" [B, dim] and, if the network has
        them, "logits" [B, classes] and "spatial" [B, S]. A size of images is a program; B is not."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
            raise ValueError(f"`images` (={images.dtype} {list(images.shape)}) must be uint8 [B, H, W, 3]")
        found = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            filled = np.zeros((self.batch_size, *batch.shape[1:]), np.uint8)
            filled[: len(batch)] = batch
            features = jax.device_get(self._run(self._variables, filled))
            found.append({key: value[: len(batch)] for key, value in features.items()})
        return {key: np.concatenate([part[key] for part in found]) for key in found[0]}


def load_extractor(name="lite0", weights=None, batch_size=None):
    """The Extractor of a name above, with the weights in the cache or in the file `weights`."""
    if name not in INPUTS:
        raise ValueError(f"`features` (={name}) must be one of {', '.join(INPUTS)}")
    return Extractor(name, *files.load(name, weights), batch_size)
