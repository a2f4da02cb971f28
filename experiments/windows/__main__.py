"""Does a picture that is enlarged in windows show them? The package's stage of photographs, as `cdm upscale` has it.

    python -m experiments.windows --pictures Set5 [--count 2] --out experiments/windows/windows.json

1. layouts: pictures, shrunk by four and enlarged again in two layouts of windows (overlaps of a quarter and of 0.6). The
   mean difference of the results within NEAR pixels of a border of any window, over that elsewhere.
2. grey cards: constant pictures in windows, and in one window as large as the picture with the same noise. The largest
   step from a pixel to the next of each, and of their difference: what windows alone add, of 255.
3. consistency: --consistent, rounded to 8 bits: the mean squared difference of the shrunk result from the input on
   [0, 1], and the share of unsaturated input within 1/255.
4. memory: what a picture of twice the side adds to the host's traced peak, beside what the estimate says.
"""

import argparse
import pathlib
import tracemalloc

import jax
import numpy as np

from cdm import config as configs
from cdm.cascade import shipped
from cdm.cli.upscaling import PHOTOS
from cdm.data.sources import Pictures
from cdm.images.files import write_json
from cdm.images.resize import resize, to_float, to_uint8
from cdm.photo import target
from cdm.settings import settings_of
from cdm.stage import Stage, load_stage
from cdm.upscaling import enlarge, estimate, route

NEAR, OVERLAPS, CARDS, SIDE = 8, (0.25, 0.6), (-0.5, 0.1, 0.8), 100


def near_borders(lowres, stage, size, overlaps):
    """Where a border of a window lies within NEAR pixels, [H, W] bool."""
    found = np.zeros(size, bool)
    for overlap in overlaps:
        (one,), _ = route(*lowres.shape[:2], [stage], size, overlap=overlap)
        for axis, begins in enumerate((one.rows, one.columns)):
            for border in {*(begins * one.factor), *(begins * one.factor + stage.size)} - {0, size[axis]}:
                part = slice(max(border - NEAR, 0), border + NEAR)
                found[(part, slice(None)) if axis == 0 else (slice(None), part)] = True
    return found


def large(lowres, stage):
    """(H, W) of what the stage makes of a picture."""
    return target(*lowres.shape[:2], stage.size // stage.lowres_size)


def layouts(lowres, stage, **options):
    size = large(lowres, stage)
    first, second = (enlarge(lowres, [stage], size, overlap=overlap, **options).image for overlap in OVERLAPS)
    difference, near = np.abs(first - second).mean(-1) * 127.5, near_borders(lowres, stage, size, OVERLAPS)
    return {"near": difference[near].mean(), "elsewhere": difference[~near].mean(),
            "ratio": difference[near].mean() / difference[~near].mean()}


def step(image):
    """The largest from a pixel to the next, of 255."""
    return max(np.abs(np.diff(image, axis=axis)).max() for axis in (0, 1)) * 127.5


def grey(value, stage, **options):
    tree = stage.config.to_dict()
    card = np.full((SIDE, SIDE, 3), value, np.float32)
    size = large(card, stage)
    tree["lowres_size"], tree["size"] = SIDE, size[0]
    whole = Stage(configs.from_dict(tree), stage.classes, stage.params)
    windows, one = (enlarge(card, [by], size, **options).image for by in (stage, whole))
    return {"grey": value, "windows": step(windows), "one_window": step(one), "difference": step(windows - one)}


def consistency(lowres, stage, **options):
    size = large(lowres, stage)
    lowres = to_float(to_uint8(lowres))
    made = to_float(to_uint8(enlarge(lowres, [stage], size, consistent=True, **options).image))
    missing = (resize(made, lowres.shape[:2]) - lowres) / 2
    within = np.abs(missing[np.abs(lowres) < 1]) <= 1 / 255
    return {"mse": np.mean(missing**2), "within": np.mean(within)}


def memory(side, stage, **options):
    lowres = np.random.default_rng(0).uniform(-1, 1, (side, side, 3)).astype(np.float32)
    size = large(lowres, stage)
    tracemalloc.start()
    enlarge(lowres, [stage], size, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"side": size[0], "peak": peak, "estimate": estimate(side, side, [stage], size, **options)["bytes"]}


def plain(value):
    """As JSON has it."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return value.item() if hasattr(value, "item") else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=pathlib.Path, required=True, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=2, help="of the pictures, evenly over them (default: 2)")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    stage = load_stage(shipped(PHOTOS[0]))
    own = settings_of(stage)
    options = {"steps": own.steps, "aug_level": own.aug_level, "sampler": own.sampler}
    source, factor = Pictures(args.pictures), stage.size // stage.lowres_size
    result = {"jax": jax.__version__, "stage": stage.sha256, "settings": options, "overlaps": OVERLAPS, "near": NEAR,
              "layouts": [], "consistency": []}
    for i in np.linspace(0, len(source) - 1, args.count).astype(int):
        image = source.read(i)
        lowres = resize(to_float(image), tuple(side // factor for side in image.shape[:2]))
        name = {"picture": pathlib.Path(source.names[i]).name}
        result["layouts"].append(name | layouts(lowres, stage, **options))
        result["consistency"].append(name | consistency(lowres, stage, **options))
        print(result["layouts"][-1], result["consistency"][-1], flush=True)
    result["grey_cards"] = [grey(value, stage, **options) for value in CARDS]
    result["memory"] = [memory(side, stage, **{**options, "steps": 1}) for side in (128, 256, 512)]
    write_json(args.out, plain(result))
    print(*result["grey_cards"], *result["memory"], sep="\n")


if __name__ == "__main__":
    main()
