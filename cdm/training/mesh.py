"""Devices: one mesh, batches split over all of it, the training state over its `fsdp` axis: parameters are gathered for
a step, gradients scattered after it (ZeRO, Rajbhandari et al. 2020).

Every process sees the whole mesh (JAX's multi-controller runtime): each feeds its slice of a batch, all run one
program.
"""

import functools
import re

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

LEAST = 2**10  # elements: smaller arrays are everywhere
LINE = 2**10  # bytes of an error that processes tell each other


class Partition:
    """How a state lies on the devices, all unless told: `everywhere` and `spread` (over the batch) are shardings."""

    def __init__(self, config, devices=None):
        devices, fsdp = devices or jax.devices(), config.mesh.fsdp
        data = len(devices) // fsdp if config.mesh.data == -1 else config.mesh.data
        if data * fsdp != len(devices):
            raise ValueError(f"`mesh.data` (={config.mesh.data}) times `mesh.fsdp` (={fsdp}) must be the "
                             f"{len(devices)} devices")
        part = config.train.batch_size // config.train.accumulate
        if part % len(devices):
            name = "`train.batch_size`" if config.train.accumulate == 1 else "`train.batch_size` / `train.accumulate`"
            raise ValueError(f"{name} (={part}) must be divisible by the {len(devices)} devices")
        self.mesh = jax.sharding.Mesh(np.array(devices).reshape(data, fsdp), ("data", "fsdp"))
        self.everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.spread = NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

    def shardings(self, tree):
        """A sharding for every array or shape of a tree: along its longest axis that `fsdp` divides."""
        fsdp = self.mesh.shape["fsdp"]

        def sharding(leaf):
            axes = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
            if fsdp == 1 or np.prod(leaf.shape) < LEAST or not axes:
                return self.everywhere
            longest = max(axes, key=lambda axis: leaf.shape[axis])
            return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, "fsdp"))

        return jax.tree.map(sharding, tree)

    def each(self, function, tree):
        """`function` of every array of a tree of parameters, on each device of the part that is there."""
        specs = jax.tree.map(lambda sharding: sharding.spec, self.shardings(tree))
        run = jax.shard_map(functools.partial(jax.tree.map, function), mesh=self.mesh, in_specs=(specs,),
                            out_specs=specs, check_vma=False)
        return run(tree)

    def batch(self, local):
        """This process's slice of a batch, as arrays over all devices."""
        return jax.tree.map(functools.partial(jax.make_array_from_process_local_data, self.spread), local)

    def whole(self, tree):
        """A tree of arrays as NumPy, whole in every process."""
        if alone():
            return jax.device_get(tree)
        return multihost_utils.process_allgather(tree, tiled=True)


def join(coordinator=None, processes=None, process=None):
    """Make this process one of a job, before anything else of JAX: the job of the cluster it finds itself in (SLURM, a
    TPU pod, MPI), or one of `processes` started by hand that meet at `coordinator`, host:port."""
    given = [name for name, value in zip(("coordinator", "processes", "process"), (coordinator, processes, process))
             if value is not None]
    if given and len(given) < 3:
        raise ValueError(f"`{given[0]}` must come with the others of --coordinator, --processes and --process")
    if given and not 0 <= process < processes:
        raise ValueError(f"`process` (={process}) must lie between 0 and {processes - 1}")
    if given and not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(f"`coordinator` (={coordinator}) must be HOST:PORT")
    # SIGTERM is ours (cdm.training.stop): the service would agree on steps with Orbax, which counts them otherwise.
    jax.config.update("jax_enable_preemption_service", False)
    # A process that is gone is missed after a minute, and the others end.
    try:
        jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=60,
                                   shutdown_timeout_seconds=30)
    except RuntimeError as e:
        raise ValueError(f"`distributed`: the processes did not meet: {e}") from e
    except ValueError as e:
        raise ValueError(f"`distributed` must be used in a job of SLURM, a TPU pod or MPI, or with --coordinator, "
                         f"--processes and --process: {e}") from e


def agree(number):
    """The first process's number, in all of them."""
    return number if alone() else int(multihost_utils.broadcast_one_to_all(np.uint32(number)))


def led(act):
    """Have the first process act while the others wait; what goes wrong goes wrong in all."""
    failed = None
    if leads():
        try:
            act()
        except (ValueError, OSError) as e:
            failed = e
    if not alone():
        text = str(failed or "").encode()[:LINE].ljust(LINE, b"\0")
        told = multihost_utils.broadcast_one_to_all(np.frombuffer(text, np.uint8))
        text = bytes(told).rstrip(b"\0").decode(errors="ignore")
        if text and failed is None:
            raise ValueError(f"the first process: {text}")
    if failed is not None:
        raise failed


def place():
    """Which process of the job this is."""
    return jax.process_index()


def alone():
    """Whether this process is the whole job."""
    return jax.process_count() == 1


def leads():
    """Whether this process writes what is written once."""
    return place() == 0
