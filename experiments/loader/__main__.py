"""Images a second and core that the loader delivers, by source; and how long training waits for it.

    python -m experiments.loader [--data SOURCE] [--note TEXT] --out experiments/loader/loader.json

128 pictures of the source, their middle squares at 256x256, are written in the forms that folders and files have, and
batches of them are drawn at 64 and at 256 pixels, all forms in turn, five times over. Cores are counted by the
processor time of all threads, so that other work on the machine matters little: images / processor seconds. Median,
least and most.

Two stages of the demo then train for a little while on a pack at their size, every picture decoded anew. The share of
the time that the loop waited for pictures is the median of rows of ten steps, but for the first.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import tempfile
import time

import numpy as np
from PIL import Image

from cdm import config as configs
from cdm.data.packs import pack
from cdm.data.pipeline import batches
from cdm.data.reading import read_good
from cdm.data.sources import open_source
from cdm.images.files import write_json
from experiments.demo.train import cdm

COUNT, REPEATS, SIZES = 128, 5, (64, 256)
CONFIGS, STRETCHES = pathlib.Path(__file__).parents[2] / "configs" / "demo", 6


def write_forms(source, folder):
    """{form: spec} of COUNT good pictures of a source, spread over it."""
    pictures = [read_good(source, int(i), 256)[1] for i in np.linspace(0, len(source) - 1, COUNT)]
    forms = {}
    for form, size, options in (("folder of JPEG, 500x375", (500, 375), {"format": "jpeg", "quality": 90}),
                                ("folder of JPEG", (256, 256), {"format": "jpeg", "quality": 90}),
                                ("folder of WebP", (256, 256), {"format": "webp", "quality": 90}),
                                ("folder of PNG", (256, 256), {"format": "png"})):
        forms[form] = folder / form.replace(" ", "_")
        forms[form].mkdir()
        for i, picture in enumerate(pictures):
            image = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
            image.save(forms[form] / f"{i:03d}.{options['format']}", **options)
    for kind in ("zip", "tar"):
        forms[f"{kind} of JPEG"] = shutil.make_archive(str(folder / "jpeg"), kind, forms["folder of JPEG"])
    np.savez(folder / "pictures.npz", images=np.stack(pictures))
    forms["npz"] = folder / "pictures.npz"
    for size in SIZES:
        forms[f"pack at {size}"] = folder / f"pack_{size}"
        pack(open_source(forms["npz"]), forms[f"pack at {size}"], size)
    return {form: str(path) for form, path in forms.items()} | {"embedded": "fluent_emoji"}


def speed(source, size):
    """Images a second and core of COUNT images in batches of 32."""
    config = configs.base_stage("loader", size)
    before = time.process_time()
    images = sum(len(batch["image"]) for batch in batches(source, config, 0, COUNT))
    return images / (time.process_time() - before)


def data_wait(stage, source, folder):
    """What a run of configs/demo/STAGE.py says of its speed on a pack of `source`."""
    config = configs.load(CONFIGS / f"{stage}.py")
    pack(source, folder / f"pack_{stage}", config.size)
    stretch = 10 * config.train.batch_size
    values = {"data.source": folder / f"pack_{stage}", "data.cache": False, "log.every": stretch,
              "train.images": STRETCHES * stretch}
    cdm("train", f"--config={CONFIGS / stage}.py", f"--workdir={folder / stage}",
        *(f"--config.{name}={value}" for name, value in values.items()))
    rows = [json.loads(row)["speed"] for row in (folder / stage / "metrics.jsonl").read_text().splitlines()[1:]]
    return {"stage": stage, "size": config.size, "batch": config.train.batch_size,
            "step_seconds": round(statistics.median(row["step_seconds"] for row in rows), 3),
            "data_wait": round(statistics.median(row["data_wait"] for row in rows), 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="fluent_emoji", help="where the pictures come from (default: fluent_emoji)")
    parser.add_argument("--note", default="", help="what a reader should know of the machine")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        sources = {form: open_source(spec) for form, spec in
                   write_forms(open_source(args.data), pathlib.Path(folder)).items()}
        for repeat in range(REPEATS + 1):  # the first warms up
            for form, source in sources.items():
                for size in SIZES:
                    if form != "pack at 64" or size == 64:
                        found.setdefault((form, size), []).append(speed(source, size))
        waits = [data_wait(stage, open_source("fluent_emoji"), pathlib.Path(folder)) for stage in ("base_32", "sr_256")]
    rows = [{"source": form, "size": size, "images_per_second_and_core": round(statistics.median(values[1:]), 1),
             "least": round(min(values[1:]), 1), "most": round(max(values[1:]), 1)}
            for (form, size), values in found.items()]
    write_json(args.out, {
        "command": f"python -m experiments.loader --data {args.data} --out {args.out}", "note": args.note,
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "count": COUNT, "repeats": REPEATS,
        "rows": rows, "training": waits})
    for row in rows:
        print(f"{row['source']:28s} {row['size']:4d} px {row['images_per_second_and_core']:8.1f} img/s a core")
    for row in waits:
        print(f"{row['stage']:28s} {row['size']:4d} px {100 * row['data_wait']:8.2f} % of a step waited for pictures")


if __name__ == "__main__":
    main()
