"""The devices that a batch is split over.

To JAX a CPU is one device, whose cores share every operation and wait for each other at its end. As a device each, a
core has pictures of its own, and what it has of them in its own cache (docs/speed.md). JAX makes such devices only
before its first use, and training is better off with one: so commands that draw ask for them.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import cdm
from cdm.nn import convolution

# Split along the first axis, or the second; not split.
BATCH, SECOND, EVERYWHERE = PartitionSpec("data"), PartitionSpec(None, "data"), PartitionSpec()
GAIN = 1.15  # of pictures that a core has for itself over those that all cores share, or more (docs/speed.md)
ROOM = 2**30  # bytes of a CPU's memory that copies of parameters may take
# The kernel that a convolution is fused into by default: it makes little of a second core, and of one more than XLA's
# own does. This sets the whole list: without dots, as `import cdm` has it.
_ONE_CORE = {"xla_cpu_experimental_ynn_fusion_type":
             "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"}


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def of_cores():
    """Make each core a device, unless JAX has its devices already or the user said how many a CPU has."""
    said = jax.config.jax_num_cpu_devices >= 0 or "xla_force_host_platform_device_count" in os.environ["XLA_FLAGS"]
    if not said:
        try:
            jax.config.update("jax_num_cpu_devices", cores())
        except RuntimeError:
            pass  # in use, with what devices there are


def mesh(count=None, params=None):
    """The local devices, along "data". Of a CPU's, for `count` items, all where they have done with them before one
    has that all cores work for, and where there is room for their copies of a tree of parameters."""
    devices = np.array(jax.local_devices())
    every = jax.sharding.Mesh(devices, ("data",))
    if count and on_cpu():
        copies = every.size * sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        if copies > ROOM or padded(count, every) > GAIN * count:
            return jax.sharding.Mesh(devices[:1], ("data",))
    return every


def batch(count, each, params=None):
    """The size of the batches that `count` items are sampled in: at most `each` times the devices; of a CPU, whose
    memory they share, about `each` in all, by the size that they are done with first."""
    devices = len(jax.local_devices())
    if not on_cpu():
        parts = -(-count // (each * devices))  # of equal size, so that little is padded
        return -(-count // parts)

    def time(size):
        over = mesh(size, params)
        return -(-count // size) * padded(size, over) / (GAIN if over.size > 1 else 1)

    most = each + each // 8
    return min(range(min(most // 2 + 1, count), min(most, count) + 1), key=lambda size: (time(size), -size))


def on_cpu():
    """Whether the local devices are a CPU's."""
    return jax.local_devices()[0].platform == "cpu"


def shardings(over, batch=BATCH):
    """Of a mesh: (of what is split, along its first axis unless told; of what is everywhere)."""
    return NamedSharding(over, batch), NamedSharding(over, EVERYWHERE)


def padded(count, over):
    """The size of a batch of `count` where each device of a mesh has as many."""
    return -(-count // over.size) * over.size


def split(function, over, given, made, turn=None):
    """`function` jitted to run on every device of a mesh with its own part of the arguments, which are split, as the
    results are, by the PartitionSpecs `given` and `made`. Each of several cores has at most `turn` items of a BATCH at
    a time."""
    if over.size == 1:
        return jax.jit(function)

    def on_a_core(*arguments):
        with convolution.one_core():
            return _in_turns(function, given, made, turn)(*arguments) if turn else function(*arguments)

    body, options = function, None
    if over.devices.flat[0].platform == "cpu" and over.size >= cores():
        # What the user said of fusions holds for all programs.
        body, options = on_a_core, _ONE_CORE if cdm.FUSION in os.environ["XLA_FLAGS"] else None
    return jax.jit(jax.shard_map(body, mesh=over, in_specs=given, out_specs=made, check_vma=False),
                   compiler_options=options)


def _in_turns(function, given, made, most):
    """`function` of the items of a BATCH, at most so many at a time, one turn after the other: what is computed of them
    stays in the cache."""
    axes = jax.tree.map(lambda spec: tuple(spec).index("data"), made)

    def run(*arguments):
        mine = [i for i, spec in enumerate(given) if spec == BATCH and arguments[i] is not None]
        count = len(arguments[mine[0]])
        turn = max(n for n in range(1, min(most, count) + 1) if count % n == 0)
        if turn == count:
            return function(*arguments)

        def one(parts):
            return function(*(parts.get(i, argument) for i, argument in enumerate(arguments)))

        parts = {i: arguments[i].reshape(-1, turn, *arguments[i].shape[1:]) for i in mine}
        return jax.tree.map(_joined, axes, jax.lax.map(one, parts))

    return run


def _joined(axis, tree):
    """Each array [turns, ..., items of a turn at `axis` + 1, ...] of a tree with all items there."""

    def joined(turns):
        moved = jnp.moveaxis(turns, 0, axis)
        return moved.reshape(*moved.shape[:axis], -1, *moved.shape[axis + 2 :])

    return jax.tree.map(joined, tree)
