"""Images a second through the default extractor, beside PyTorch's implementation of the same network.

    pip install '.[reference]'
    cdm eval weights lite0
    python -m experiments.features [--note TEXT] --out experiments/features/speed.json

Images of 64x64 pixels, uint8 in, features and logits out, with the published weights: ours, and
`efficientnet_lite_pytorch` behind PyTorch's antialiased bicubic, in either memory layout. Batch and threads are the
same; all take turns, five times over, after one turn to warm up. Processor time is that of all threads, so that other
work on the machine matters less there. Median, least and most. Before that, one pass over many images, drawn as they
go, with the most memory that the process has held at a tenth of the way and at the end.
"""

import argparse
import os
import pathlib
import platform
import resource
import statistics
import time

import jax
import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet

from cdm.evals.features import load_extractor
from cdm.evals.weights import cached
from cdm.images.files import write_json

SIZE, COUNT, REPEATS, BATCHES = 64, 10_000, 5, (8, 32)


class Reference:
    """PyTorch's implementation as a function of images [B, H, W, 3] uint8."""

    def __init__(self, layout):
        net = EfficientNet.from_name("efficientnet-lite0").eval()
        net.load_state_dict(torch.load(cached("lite0"), weights_only=True))
        self.layout, self.net = layout, net.to(memory_format=layout)

    @torch.inference_mode()
    def __call__(self, images):
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, (224, 224), mode="bicubic", antialias=True).clip(0, 255)
        pool = self.net.extract_features(((x - 127) / 128).contiguous(memory_format=self.layout)).mean((2, 3))
        return {"pool": pool.numpy(), "logits": self.net._fc(pool).numpy()}


def timed(extract, images):
    """Images a second: by the clock, and by processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    extract(images)
    return len(images) / (time.perf_counter() - clock), len(images) / (time.process_time() - processor)


def summary(values):
    return {"median": round(statistics.median(values), 1), "least": round(min(values), 1), "most": round(max(values), 1)}


def memory():
    """The most that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--note", default="", help="what a reader should know of the machine")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    # The pass first: the most memory held should be its own.
    random, extractor, done = np.random.default_rng(0), load_extractor("lite0"), 0
    clock, processor = time.perf_counter(), time.process_time()
    while done < COUNT:
        extractor(random.integers(0, 256, (100, SIZE, SIZE, 3), np.uint8))
        done += 100
        if done <= COUNT // 10:
            early = memory()
    took = {"images": done, "seconds": round(time.perf_counter() - clock, 1),
            "processor_seconds": round(time.process_time() - processor, 1),
            "memory_mb": {"at a tenth": early, "at the end": memory()}}
    rows, worst = [], {}
    for batch in BATCHES:
        images = random.integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
        ways = {"cdm": load_extractor("lite0", batch_size=batch), "PyTorch": Reference(torch.contiguous_format),
                "PyTorch, channels last": Reference(torch.channels_last)}
        for key, value in ways["PyTorch"](images).items():
            worst[key] = max(worst.get(key, 0), float(np.max(np.abs(ways["cdm"](images)[key] - value))))
        speeds = {name: [] for name in ways}
        for _ in range(REPEATS + 1):  # the first warms up
            for name, extract in ways.items():
                speeds[name].append(timed(extract, images))
        rows += [{"way": name, "batch": batch, "images_per_second": summary([clock for clock, _ in found[1:]]),
                  "images_per_processor_second": summary([processor for _, processor in found[1:]])}
                 for name, found in speeds.items()]
    write_json(args.out, {
        "command": f"python -m experiments.features --out {args.out}", "note": args.note,
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "jax": jax.__version__, "torch": torch.__version__, "worst_difference": worst, "rows": rows,
        "pass": took})
    for row in rows:
        print(f"{row['way']:24s} batch {row['batch']:3d} {row['images_per_second']['median']:7.1f} img/s "
              f"{row['images_per_processor_second']['median']:7.1f} img per processor second")


if __name__ == "__main__":
    main()
