"""Checkpoints of a run: RUN/checkpoints/<images>, written by Orbax in the background and renamed when whole."""

import pathlib

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints under a run folder: to read, or with `keep` to write too and to keep the newest so many.

    A context manager: on leaving, the save under way is waited for.
    """

    def __init__(self, run, keep=None):
        # What a killed process left half-written is removed by whoever writes next.
        options = (ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True) if keep else
                   ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False))
        self._manager = ocp.CheckpointManager(pathlib.Path(run).absolute() / "checkpoints", options=options)

    def all(self):
        """Images seen by each checkpoint, rising."""
        return sorted(self._manager.all_steps())

    def save(self, images, state):
        """Begin to save the state; a save still under way is waited for first."""
        self._manager.save(images, args=ocp.args.StandardSave(state._asdict()))

    def restore(self, images, like):
        """The state saved at `images`, shaped and placed as `like`: the fresh state of the same config, or its shapes
        alone, which go to the first device, whatever devices they were saved from."""
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here),
                              like._asdict())
        return type(like)(**self._manager.restore(images, args=ocp.args.StandardRestore(target)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()
