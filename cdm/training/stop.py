"""SIGTERM: finish the step, save everything, and leave, all processes after the same step."""

import contextlib
import signal
import threading


_listening = []  # events of all who listen, one inside the other


class Stopped(Exception):
    """The run was told to stop and has saved everything."""


@contextlib.contextmanager
def on_sigterm():
    """asked(): whether this process was told to stop. What one was told the others hear with the next step, whose
    batch carries it."""
    heard = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # whose signals are not ours to take
        yield lambda: False
        return
    _listening.append(heard)
    before = signal.signal(signal.SIGTERM, lambda *_: [event.set() for event in _listening])
    try:
        yield heard.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
        _listening.pop()
