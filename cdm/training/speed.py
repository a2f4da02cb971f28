"""How fast a run goes: what a row of its log says of the clock and the memory, apart from its numbers."""

import resource
import sys
import time

import jax
import jax.numpy as jnp

from cdm.describe import program

# Dense bfloat16 FLOP/s of one device as its maker states them, by a part of its `device_kind`; the first that matches.
# (JAX calls v5e "TPU v5 lite" and v5p "TPU v5"; of v2 and v3 a device is a core, half a chip.)
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "B200": 2250e12, "A100": 312e12,
         "L40S": 362e12, "A10G": 70e12, "RTX 4090": 165e12,
         "TPU v6": 918e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v4": 275e12, "TPU v3": 61e12, "TPU v2": 23e12}


def peak(device):
    """FLOP/s of a device, or None where it is not known."""
    return next((flops for name, flops in PEAKS.items() if name.lower() in device.device_kind.lower()), None)


def flops_per_image(stage):
    """Of one training step: the forward pass of the network three times (backward costs twice the forward), as XLA
    counts it; what is computed twice to save memory does not count (model FLOPs). None where it can not be counted."""
    side, low = stage.config.data.crop or stage.size, None
    if stage.lowres_size:
        low = jax.ShapeDtypeStruct((1, *(side * stage.lowres_size // stage.size,) * 2, 3), jnp.float32)
    one = jax.ShapeDtypeStruct((1,), jnp.float32)
    x, label = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    once, _ = program(stage.network.apply, jax.eval_shape(stage.init), x, one, label, low, low and one)
    return once and 3 * once


class Clock:
    """Measures the stretch of steps between two rows. Time spent `out` of training (grids) is left out."""

    def __init__(self, stage, compile_seconds):
        self._flops, self._compile = flops_per_image(stage), compile_seconds
        self._peak = peak(jax.devices()[0])
        self.restart()

    def restart(self):
        self._begin, self._images, self._steps, self._waited = time.monotonic(), 0, 0, 0.0

    def out(self, seconds):
        self._begin += seconds

    def step(self, images, waited):
        """A step over so many images, for whose batch the loop waited so many seconds."""
        self._images, self._steps, self._waited = self._images + images, self._steps + 1, self._waited + waited

    def row(self):
        """What the row says; the next stretch begins. `data_wait` and `mfu` are shares."""
        seconds = time.monotonic() - self._begin
        rate = self._images / seconds
        speed = {
            "images_per_second": rate, "step_seconds": seconds / self._steps, "data_wait": self._waited / seconds,
            "flops_per_second": self._flops and rate * self._flops,
            "mfu": rate * self._flops / (self._peak * len(jax.devices())) if self._peak and self._flops else None,
            "peak_memory_bytes": peak_memory(), "compile_seconds": self._compile}
        self._compile = 0.0
        self.restart()
        return speed


def peak_memory():
    """Bytes: of the first device where it keeps count, of this process elsewhere."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
