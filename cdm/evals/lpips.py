"""LPIPS v0.1, a distance in the features of AlexNet or VGG16 that was fitted to what people find alike (Zhang et al.
2018)."""

import functools

import jax

from cdm.evals import weights
from cdm.evals.networks import build
from cdm.evals.networks.lpips import SMALLEST
from cdm.images.resize import to_float

NETWORKS = {"alex": "AlexNet", "vgg": "VGG16"}


class Lpips:
    """The distance of two [H, W, 3] uint8: 0 if they are equal, None if they are too small for the network."""

    def __init__(self, network="alex", path=None):
        """On one of NETWORKS, with the weights in the cache or in the file `path`; ValueError if they are not here."""
        params, digest = weights.load(f"lpips_{network}", path)
        self.about = {"network": f"{NETWORKS[network]}, v0.1", "sha256": digest}
        self._apply = functools.partial(jax.jit(build(f"lpips_{network}").apply), params)

    def __call__(self, image, reference):
        if min(image.shape[:2]) < SMALLEST:
            return None
        return float(self._apply(to_float(image)[None], to_float(reference)[None])[0])
