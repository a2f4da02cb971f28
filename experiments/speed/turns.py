"""What the speed commands share: functions that take turns, and what the numbers were measured with."""

import importlib.metadata
import os
import platform
import statistics
import time

import jax

STAGES = ("base_32", "sr_64", "sr_128", "sr_256")


def about():
    """What the numbers were measured with."""
    torch = [found.version for found in importlib.metadata.distributions(name="torch")]
    return {"jax": jax.__version__, "torch": torch[0] if torch else None, "machine": platform.machine(),
            "cores": os.cpu_count(), "device": jax.devices()[0].device_kind, "xla_flags": os.environ["XLA_FLAGS"]}


def measure(sides, repeats):
    """{side: seconds, "least", "median" and "most", and "compile_seconds"} of functions that take turns, after one turn
    to warm up, which compiles."""
    first = {}
    for name, run in sides.items():
        began = time.perf_counter()
        run()
        first[name] = time.perf_counter() - began
    times = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: {"least": min(of), "median": statistics.median(of), "most": max(of),
                   "compile_seconds": max(first[name] - min(of), 0.0)} for name, of in times.items()}
