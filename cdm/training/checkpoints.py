"""Checkpoints of a run: RUN/checkpoints/<images>, written by Orbax in the background and renamed when whole."""

import pathlib

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints under a run folder, the newest `keep` of them kept."""

    def __init__(self, run, keep):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(pathlib.Path(run).absolute() / "checkpoints", options=options)

    def latest(self):
        """Images seen by the newest checkpoint, or None."""
        return self._manager.latest_step()

    def all(self):
        """Images seen by each checkpoint, rising."""
        return sorted(self._manager.all_steps())

    def save(self, images, state):
        """Begin to save the state; a save still under way is waited for first."""
        self._manager.save(images, args=ocp.args.StandardSave(state._asdict()))

    def restore(self, images, like):
        """The state saved at `images`, shaped and placed as `like`, the fresh state of the same config or its shapes
        alone; those go to the first device, wherever they were saved."""
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here),
                              like._asdict())
        return type(like)(**self._manager.restore(images, args=ocp.args.StandardRestore(target)))

    def close(self):
        """Wait for the save under way, if any."""
        self._manager.close()
