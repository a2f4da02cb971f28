"""Checkpoints of a run: RUN/<room>/<images>, written by Orbax in the background and renamed when whole."""

import contextlib
import os
import pathlib
import re

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies


def _host():
    """The CPU, where there is one beside the accelerators."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


class _AtMultiples(policies.PreservationPolicy):
    """Those that are the first at or past a multiple of `every`; none of these is ever removed, so that it stays so."""

    def __init__(self, every):
        self._every = every

    def should_preserve(self, checkpoints, *, context):
        passed = [c.step // self._every for c in checkpoints]
        return [here > before for before, here in zip([0, *passed], passed)]


class Checkpoints:
    """The checkpoints in RUN/checkpoints (or another room of it): to read, or to `write` too and to keep the newest
    `keep` (None: all) and the first at or past every multiple of `keep_every`.

    A context manager: on leaving, the save under way is waited for.
    """

    def __init__(self, run, room="checkpoints", write=False, keep=None, keep_every=0):
        policy = policies.LatestN(keep)
        if keep_every:
            policy = policies.AnyPreservationPolicy([policy, _AtMultiples(keep_every)])
        # What a killed process left half-written is removed by whoever writes next.
        # The prefix keeps apart what the processes of a job agree on of the one room and of the other.
        options = (ocp.CheckpointManagerOptions(
            preservation_policy=policy, cleanup_tmp_directories=True,
            multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=room)) if write else
            ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False))
        self._run = run
        self._manager = ocp.CheckpointManager(pathlib.Path(run).absolute() / room, options=options,
                                              item_handlers=ocp.StandardCheckpointHandler())

    def all(self):
        """Images seen by each checkpoint, rising."""
        return sorted(self._manager.all_steps())

    def save(self, images, tree):
        """Begin to save a nested dict of arrays; a save still under way is waited for first. What is there already is
        left as it is."""
        if images not in self.all():
            self._try(lambda: self._manager.save(images, args=ocp.args.StandardSave(tree), force=True))

    def forget_after(self, images):
        """Delete what was saved of a future that will be lived again."""
        for later in self.all():
            if later > images:
                self._try(lambda later=later: self._manager.delete(later))

    def restore(self, images, like):
        """What was saved at `images`, in the shapes, types and shardings of `like`, whatever devices it was saved from;
        shapes without a sharding stay with the host."""
        here = jax.sharding.SingleDeviceSharding(_host())
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here),
                              like)
        try:
            found = self._manager.item_metadata(images)
            tree = found.tree
        except Exception as e:  # kinds of its own, or no metadata at all
            raise self._damaged(images, e) from e
        shapes = [{jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
                   for path, leaf in jax.tree.leaves_with_path(tree)} for tree in (tree, target)]
        if shapes[0] != shapes[1]:
            name = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[0][0]
            raise ValueError(f"`workdir` (={self._run}) holds a checkpoint of another network: {name} is "
                             f"{shapes[0].get(name, 'missing')} at {images} images, the config wants "
                             f"{shapes[1].get(name, 'none')}")
        try:
            return self._manager.restore(images, args=ocp.args.StandardRestore(target))
        except Exception as e:
            raise self._damaged(images, e) from e

    def _damaged(self, images, error):
        return ValueError(f"`workdir` (={self._run}) holds a damaged checkpoint at {images} images; without it the run "
                          f"goes on from the one before ({type(error).__name__}: {' '.join(str(error).split())[:200]})")

    def wait(self):
        """Wait until what was begun is whole."""
        self._try(self._manager.wait_until_finished)

    def _try(self, act):
        try:
            act()
        except Exception as e:  # Orbax and its storage raise kinds of their own
            self._manager.reload()
            last = max(self.all(), default=None)
            left = "none was whole before" if last is None else f"the one at {last} images is untouched"
            code = re.search(r"os_error_code='(\d+)'", str(e))  # TensorStore ends a long story with the system's number
            why = os.strerror(int(code[1])) if code else " ".join(str(e).split())
            raise OSError(f"`workdir` (={self._run}) did not take a checkpoint, {left}: {why}") from e

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.wait()
        with contextlib.suppress(Exception):  # a failed save was told of, or a worse thing is under way
            self._manager.close()
