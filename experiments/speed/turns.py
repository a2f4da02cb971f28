"""What the speed commands share: functions that take turns, and what the numbers were measured with."""

import importlib.metadata
import os
import pathlib
import platform
import statistics
import time

import jax
import jax.numpy as jnp

TURN = 0.5  # seconds
STAGES = ("base_32", "sr_64", "sr_128", "sr_256")


def about():
    """What the numbers were measured with."""
    torch = [found.version for found in importlib.metadata.distributions(name="torch")]
    return {"jax": jax.__version__, "torch": torch[0] if torch else None, "machine": platform.machine(),
            "processor": _processor(), "cores": os.cpu_count(), "vectors": _vectors(),
            "device": jax.devices()[0].device_kind, "devices": len(jax.devices()),
            "xla_flags": os.environ["XLA_FLAGS"], "glibc_tunables": os.environ.get("GLIBC_TUNABLES")}


def _cpuinfo():
    """What Linux says of the processor, or nothing."""
    try:
        return pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _processor():
    """The processor's name, or None."""
    return next((line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")),
                None)


def _vectors():
    """The widest instructions that an x86 processor has for several numbers at once, as Linux names them, or None."""
    flags = _cpuinfo().split()
    return next((name for name in ("avx512f", "avx2", "avx") if name in flags), None)


def ceilings(repeats, side, elements, dtype=jnp.float32, calls=1):
    """{"matmul": FLOP/s of a product side x side in `dtype`, "copy": bytes/s of so many float32 read and written}, the
    best; `calls` at a time without waiting hide what it takes to start one, on a device that has a queue."""
    a, b = (jax.random.normal(key, (side, side), dtype) for key in jax.random.split(jax.random.key(0)))
    big = jax.random.normal(jax.random.key(1), (elements,))
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    found = measure({"matmul": lambda: jax.block_until_ready([product(a, b) for _ in range(calls)]),
                     "copy": lambda: jax.block_until_ready([copy(big) for _ in range(calls)])}, repeats)
    return {"matmul": calls * 2 * side**3 / found["matmul"]["least"],
            "copy": calls * 2 * big.nbytes / found["copy"]["least"]}


def measure(sides, repeats):
    """{side: seconds, "least", "median" and "most", and "compile_seconds"} of functions that take turns, after one call
    each to warm up, which compiles. A turn is one call that is not counted, then as many as make TURN seconds, and
    counts with their mean. The first call meets what nobody's training or sampling does: caches full of another side's
    work, and, on a virtual machine, memory that went back to the host while the others ran and has to come again."""
    first = {}
    for name, run in sides.items():
        began = time.perf_counter()
        run()
        first[name] = time.perf_counter() - began
    times = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            run()
            began, calls = time.perf_counter(), 0
            while not calls or time.perf_counter() - began < TURN:
                run()
                calls += 1
            times[name].append((time.perf_counter() - began) / calls)
    return {name: {"least": min(of), "median": statistics.median(of), "most": max(of),
                   "compile_seconds": max(first[name] - min(of), 0.0)} for name, of in times.items()}
