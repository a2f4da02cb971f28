"""Kill a training again and again, at random moments, and compare its end with that of one nobody touched.

    python -m experiments.kills [--kills 10] --out experiments/kills/kills.json

Both train configs/demo/base_32.py with a small network, and a checkpoint every 64 images, so that many a kill falls
into a save. Each process is killed (SIGKILL) at a time drawn uniformly over the stretch in which a run that is left
alone writes its first ten checkpoints. Equal means: every array of the last training state, and every row of
metrics.jsonl but for its `speed`, bit for bit.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from cdm.images.files import write_json
from cdm.training.run import restored

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "demo" / "base_32.py"
IMAGES = 64 * 40
SMALL = {"model.channels": 8, "model.heads": 2, "model.blocks": 1, "train.images": IMAGES, "checkpoint.every": 64,
         "checkpoint.snapshots": 512, "log.every": 64, "log.grid": 10 * IMAGES}


def start(run):
    """A process that trains in the folder `run`."""
    command = [sys.executable, "-m", "cdm.cli", "train", f"--config={CONFIG}", f"--workdir={run}"]
    return subprocess.Popen([*command, *(f"--config.{name}={value}" for name, value in SMALL.items())],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(run):
    """The rows of a run's log without the clock."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [{name: value for name, value in json.loads(line).items() if name != "speed"} for line in lines]


def wait(process, done):
    """Wait until `done()` or the end of the process; returns the seconds it took."""
    began = time.monotonic()
    while process.poll() is None and not done():
        time.sleep(0.01)
    return time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        straight, killed = pathlib.Path(folder) / "straight", pathlib.Path(folder) / "killed"
        process = start(straight)
        wait(process, lambda: False)  # the first run compiles for all
        process = start(pathlib.Path(folder) / "timed")
        least = wait(process, lambda: (pathlib.Path(folder) / "timed" / "checkpoints" / "64").exists())
        most = least + wait(process, lambda: (pathlib.Path(folder) / "timed" / "checkpoints" / "640").exists())
        process.kill()
        process.wait()
        at, ended = [], 0
        for _ in range(args.kills):
            process, after = start(killed), draw.uniform(0.8 * least, most)
            wait(process, lambda began=time.monotonic(), after=after: time.monotonic() - began > after)
            ended += process.poll() is not None
            process.kill()
            process.wait()
            saved = [int(path.name) for path in (killed / "checkpoints").glob("*") if path.name.isdigit()]
            at.append({"seconds": round(after, 2), "newest_checkpoint": max(saved, default=0),
                       "half_written": sum(not path.name.isdigit() for path in (killed / "checkpoints").glob("*"))})
        code = start(killed).wait()
        one, other = (restored(run)[1] for run in (straight, killed))
        equal = jax.tree.map(np.array_equal, one, other)
        result = {
            "kills": at, "ended_before_its_kill": ended, "exit_code_of_the_last": code,
            "arrays": len(jax.tree.leaves(equal)), "arrays_equal": sum(jax.tree.leaves(equal)),
            "rows": len(rows(straight)), "rows_equal": rows(straight) == rows(killed), "jax": jax.__version__,
            "backend": jax.default_backend()}
    write_json(args.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
