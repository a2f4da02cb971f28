"""How the time of the demo's networks grows with batch, image size and steps, how near it comes to the machine's
ceilings, what a training step takes beside its time: to compile, of the host, of memory; and how long `cdm sample`
takes to come to its first picture.

    pip install '.[reference]'
    python -m experiments.speed.growth --out experiments/speed/growth.json

Ours and eager PyTorch take turns, as in `experiments.speed`. An exponent is the slope of log time over log n, by least
squares. Ceilings are the best of a float32 matrix product (2048 x 2048) and of a copy of 256 MB. Peak memory is the
largest resident size of a process that does nothing but the training step, less what it had before its first one; ours
when it compiles ("compiling") and when the program comes from the cache. The command is timed whole, for one picture of
base_32 in one step, which is as good as none: with an empty cache of compiled programs once, then with what that left.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from cdm import devices
from cdm.images.files import write_json
from experiments.speed.ours import ours_of
from experiments.speed.theirs import Theirs
from experiments.speed.turns import STAGES, about, ceilings, measure

# The stage, what is varied, its values, and the case as a function of a side and a value.
SWEEPS = (
    ("base_32", "batch", (1, 2, 4, 8, 16, 32, 64), lambda net, n: net.forward(n)),
    ("sr_256", "image size", (32, 64, 128, 256), lambda net, n: net.forward(1, n)),
    ("base_32", "steps", (10, 30, 100, 300, 1000), lambda net, n: net.sampler(1, "dpmpp_2m", n)))


def theirs_of(stage):
    ours = ours_of(stage)
    return Theirs(ours.stage, ours.parameters, "eager")


def sweep(stage, values, case, repeats):
    """{"seconds": the least, "ours" and "theirs"; "ratios"; "exponent" of each; "flops_of_one" call, a picture}."""
    nets = {"ours": ours_of(stage), "theirs": theirs_of(stage)}
    found = {name: [] for name in nets}
    for n in values:
        for name, of in measure({name: case(net, n) for name, net in nets.items()}, repeats).items():
            found[name].append(of["least"])
    slope = {name: float(np.polyfit(np.log(values), np.log(times), 1)[0]) for name, times in found.items()}
    return {"seconds": found, "ratios": [t / o for o, t in zip(found["ours"], found["theirs"])], "exponent": slope,
            "flops_of_one": nets["ours"].flops}


def _most():
    """Bytes that were resident at most; getrusage also tells of the process that started this one."""
    line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return 1024 * int(line.split()[1])


def _memory(make, stage, cache):
    """Bytes that a training step adds to what the process has at most; compiled programs are kept in `cache`."""
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    net, before = make(stage), _most()
    run = net.train(net.stage.config.train.batch_size)
    for _ in range(3):
        run()
    return _most() - before


def memory(stage):
    """{"compiling", "ours", "theirs"}: `_memory` in processes of their own."""
    found = {}  # what compiles comes first, as it fills the cache
    with tempfile.TemporaryDirectory() as cache:
        for name, make in (("compiling", ours_of), ("ours", ours_of), ("theirs", theirs_of)):
            with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
                found[name] = executor.submit(_memory, make, stage, cache).result()
    return found


def latency(repeats):
    """{"empty_cache", "warm_cache"}: seconds of the command, the latter the median."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(repeats + 1):
            began = time.perf_counter()
            command = "sample --class 0 -n 1 --stop-at base_32 --steps 1 --out".split()
            subprocess.run([sys.executable, "-m", "cdm.cli", *command, f"{folder}/{i}"], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           env={**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"})
            times.append(time.perf_counter() - began)
    return {"empty_cache": times[0], "warm_cache": statistics.median(times[1:])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    devices.of_cores()  # as commands that draw have them
    result = {**about(), "repeats": args.repeats, "ceilings": ceilings(3 * args.repeats, 2048, 2**26),
              "command": latency(args.repeats), "sweeps": [], "steps": {}}
    for stage, what, values, case in SWEEPS:
        began = time.perf_counter()
        found = {"stage": stage, "what": what, "values": values, **sweep(stage, values, case, args.repeats)}
        if what == "batch":
            found["share_of_matmul"] = [n * found["flops_of_one"] / t / result["ceilings"]["matmul"]
                                        for n, t in zip(values, found["seconds"]["ours"])]
        result["sweeps"].append(found)
        print(f"{stage}, {what}: exponents {found['exponent']}, {time.perf_counter() - began:.0f} s", flush=True)
        write_json(args.out, result)
    for stage in STAGES:
        net = ours_of(stage)
        batch = net.stage.config.train.batch_size
        result["steps"][stage] = {"compile_seconds": net.compile_seconds(batch),
                                  "host_seconds": net.host_seconds(batch, args.repeats),
                                  "memory": memory(stage)}
        print(stage, result["steps"][stage], flush=True)
        write_json(args.out, result)


if __name__ == "__main__":
    main()
