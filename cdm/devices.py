"""The devices that a batch is split over.

To JAX a CPU is one device, whose cores share every operation and wait for each other at its end. As a device each, a
core has whole pictures to itself, and keeps what it has of them in its own cache (docs/speed.md). JAX makes such
devices only before its first use, and training is better off with one: so commands that draw ask for them, and a
program of one's own does by `jax.config.update("jax_num_cpu_devices", cores)` before anything else of JAX.
"""

import os

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cdm.nn import convolution

BATCH = PartitionSpec("data")
GAIN = 1.1  # of cores that have pictures each, over cores that share them: at least that (docs/speed.md)
ROOM = 2**30  # bytes of a CPU's memory that copies of parameters may take
# The kernel that a convolution is fused into by default, which has one core alone and does more with it than XLA's own.
# This sets the whole list: without dots, as `import cdm` has it.
_ONE_CORE = {"xla_cpu_experimental_ynn_fusion_type":
             "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"}


def of_cores():
    """Make each core a device, unless JAX has its devices already or the user said how many a CPU has."""
    said = jax.config.jax_num_cpu_devices >= 0 or "xla_force_host_platform_device_count" in os.environ["XLA_FLAGS"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not said:
        try:
            jax.config.update("jax_num_cpu_devices", cores)
        except RuntimeError:
            pass  # in use, with what devices there are


def mesh(count=None, params=None):
    """The local devices, along "data". Of a CPU's, for `count` items, those that have done first with as many each: all
    or a power of two, for whose copies of a tree of parameters there is room."""
    devices = jax.local_devices()
    if count and on_cpu():
        copies = ROOM // max(1, sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
        numbers = {n for n in (len(devices), *(2**i for i in range(len(devices).bit_length()))) if n <= max(copies, 1)}
        devices = devices[: min(numbers, key=lambda n: (_cost(count, n), -n))]
    return jax.sharding.Mesh(np.array(devices), ("data",))


def _cost(count, devices):
    """Of `count` items on so many of a CPU's devices, in items that the whole CPU has one after the other."""
    return -(-count // devices) * devices / (GAIN if devices > 1 else 1)


def batch(count, each, params=None):
    """The size of the batches that `count` items are sampled in, `each` or so a device at most. A CPU gains nothing by
    more than its cores, and has the size that it has done with first."""
    devices = len(jax.local_devices())
    if not on_cpu():
        parts = -(-count // (each * devices))  # of equal size, so that little is padded
        return -(-count // parts)
    most = max(each + each // 8, devices)
    return min(range(min(most // 2 + 1, count), min(most, count) + 1),
               key=lambda size: (-(-count // size) * _cost(size, mesh(size, params).size), -size))


def on_cpu():
    """Whether the local devices are a CPU's."""
    return jax.local_devices()[0].platform == "cpu"


def shardings(mesh):
    """(of what is split along its first axis, of what is everywhere)."""
    return NamedSharding(mesh, BATCH), NamedSharding(mesh, PartitionSpec())


def padded(count, mesh):
    """The size of a batch of `count` where each device has as many."""
    return -(-count // mesh.size) * mesh.size


def split(function, mesh, given, made):
    """`function` jitted to run on every device of the mesh with its own part of the arguments, which are split, as the
    results are, by the PartitionSpecs `given` and `made`."""
    if mesh.size == 1:
        return jax.jit(function)
    cores = mesh.devices.flat[0].platform == "cpu"

    def alone(*arguments):
        with convolution.one_core(cores):
            return function(*arguments)

    # What the user said of the fusions for all programs is not ours.
    ours = cores and "=-individual_convolution,-individual_dot" in os.environ["XLA_FLAGS"]
    return jax.jit(jax.shard_map(alone, mesh=mesh, in_specs=given, out_specs=made, check_vma=False),
                   compiler_options=_ONE_CORE if ours else None)
