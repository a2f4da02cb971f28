"""SIGTERM: finish the step, save everything, and leave, all processes after the same step."""

import contextlib
import signal
import threading

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
    """The run was told to stop and has saved everything."""


@contextlib.contextmanager
def on_sigterm():
    """asked(step): whether to stop after this step. With several processes JAX's runtime hears the signal, whichever of
    them gets it, and names one step for all."""
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    heard = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # whose signals are not ours to take
        yield lambda step: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: heard.set())
    try:
        yield lambda step: heard.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
