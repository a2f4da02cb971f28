"""Cascaded diffusion models with SR3 super-resolution on JAX.

    cascade = cdm.load_cascade("folder")
    images = cascade.sample(labels=["Food & Drink", 2], seed=0)     # [2, 256, 256, 3] uint8
    larger = cdm.upscale(image, "stage folder", scale=4)            # an array or a PIL image

Importing this package starts no backend; the heavy parts load on first use.
"""

import importlib
import os

# Read when a backend starts. On several cores XLA's own convolution and matrix product are faster than the kernels that
# they are fused into by default, which make little of a second one (docs/speed.md). What the user says of it stays.
FUSION = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution,-individual_dot"
if FUSION.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FUSION}".strip()

__version__ = "0.1.0"
_PUBLIC = {"Stage": "cdm.stage", "load_stage": "cdm.stage", "Cascade": "cdm.cascade", "load_cascade": "cdm.cascade",
           "upscale": "cdm.photo"}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'cdm' has no attribute {name!r}")
