"""LPIPS v0.1, a distance in the features of AlexNet that was fitted to what people find alike (Zhang et al. 2018)."""

import functools

import jax

from cdm.evals import weights
from cdm.evals.networks import build
from cdm.evals.networks.lpips import SMALLEST
from cdm.images.resize import to_float


class Lpips:
    """The distance of two [H, W, 3] uint8: 0 if they are equal, None if they are too small for the network. ValueError
    if the weights are not here."""

    def __init__(self):
        params, digest = weights.load("lpips_alex")
        self.about = {"network": "AlexNet, v0.1", "sha256": digest}
        self._apply = functools.partial(jax.jit(build("lpips_alex").apply), params)

    def __call__(self, image, reference):
        if min(image.shape[:2]) < SMALLEST:
            return None
        return float(self._apply(to_float(image)[None], to_float(reference)[None])[0])
