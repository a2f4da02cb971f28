"""Kill a training again and again, at random moments, and compare its end with that of one nobody touched.

    python -m experiments.kills [--kills 10] --out experiments/kills/kills.json

Both train configs/demo/base_32.py with a small network, and a checkpoint every 64 images, so that many a kill falls
into a save. Each process is killed (SIGKILL) when it has written one, two or three checkpoints more, after a further
time drawn uniformly from what a checkpoint takes in a run that is left alone. Equal means: every array of the last
training state and of every snapshot of the averages, and every row of metrics.jsonl but for its `speed`, bit for bit.
"""

import argparse
import functools
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
from cdm.training import state as states
from cdm.training.checkpoints import Checkpoints
from cdm.training.run import open_run, restored

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "demo" / "base_32.py"
EVERY = 64
MOST = 3  # checkpoints that a process may write before it is killed
SMALL = {"model.channels": 8, "model.heads": 2, "model.blocks": 1, "checkpoint.every": EVERY,
         "checkpoint.snapshots": 2 * EVERY, "log.every": EVERY, "log.grid": 10**9}


def start(run, images):
    """A process that trains to `images` in the folder `run`."""
    command = [sys.executable, "-m", "cdm.cli", "train", f"--config={CONFIG}", f"--workdir={run}"]
    values = {**SMALL, "train.images": images}
    return subprocess.Popen([*command, *(f"--config.{name}={value}" for name, value in values.items())],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(run):
    """The rows of a run's log without the clock."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [{name: value for name, value in json.loads(line).items() if name != "speed"} for line in lines]


def newest(run):
    """Images of the newest whole checkpoint."""
    return max((int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def snapshots(run):
    """{images: the averages} of every snapshot of a run."""
    like = jax.eval_shape(functools.partial(states.create, open_run(run))).power
    with Checkpoints(run, "snapshots") as kept:
        return {images: jax.device_get(kept.restore(images, like)) for images in kept.all()}


def wait(process, run, images):
    """Wait until the run has a checkpoint at `images`, or its process has ended; returns the seconds it took."""
    began = time.monotonic()
    while process.poll() is None and newest(run) < images:
        time.sleep(0.01)
    return time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    draw, images = random.Random(0), EVERY * (MOST + 2) * args.kills
    with tempfile.TemporaryDirectory() as folder:
        straight, killed = pathlib.Path(folder) / "straight", pathlib.Path(folder) / "killed"
        process = start(straight, images)
        wait(process, straight, EVERY)
        interval = wait(process, straight, images) / (images // EVERY - 1)
        process.wait()
        at = []
        for _ in range(args.kills):
            process, begun = start(killed, images), newest(killed)
            wait(process, killed, begun + EVERY * draw.randint(1, MOST))
            time.sleep(draw.uniform(0, interval))
            process.kill()
            at.append({"from": begun, "exit_code": process.wait(), "newest_checkpoint": newest(killed), "half_written":
                       sum(not path.name.isdigit() for path in (killed / "checkpoints").glob("*"))})
        code = start(killed, images).wait()
        one, other = ({"state": restored(run)[1], "snapshots": snapshots(run)} for run in (straight, killed))
        equal = jax.tree.map(np.array_equal, one, other)
        result = {
            "command": f"python -m experiments.kills --kills {args.kills} --out experiments/kills/kills.json",
            "images": images, "seconds_a_checkpoint": round(interval, 2), "kills": at,
            "exit_code_of_the_last": code, "arrays": len(jax.tree.leaves(equal)),
            "arrays_equal": sum(jax.tree.leaves(equal)), "rows": len(rows(straight)),
            "rows_equal": rows(straight) == rows(killed), "jax": jax.__version__, "backend": jax.default_backend()}
    write_json(args.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
