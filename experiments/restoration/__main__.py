"""What enlargement reaches on folders of pictures, by the metrics of `cdm eval restoration`: bicubic and Lanczos and, if
they are named, super-resolution stages as `cdm upscale` has them, freely and, if made for it, with --consistent.

    python -m experiments.restoration --data Set5 Set14 BSD100 --out experiments/restoration/baselines.json
    cdm eval weights lpips_alex
    python -m experiments.restoration --data Set5 Set14 BSD100 --stage cdm/weights/photo_x4_bicubic \
        --out experiments/restoration/photos.json

Each picture is cut to a multiple of the scale (at its right and lower edge, as the benchmarks do), shrunk by the one
resize, kept in float, and enlarged again. Beside folders called set5, set14 and bsd100 stands the literature's bicubic
PSNR of luma at x4, as Kim et al. 2016 (VDSR) and many after them have it.

With `--degraded` square pictures are shrunk as a stage's were in its training, by seed 0: blurred, noisy, compressed.

    python -m experiments.restoration --data PHOTOS --count 24 --degraded cdm/weights/photo_x4 \
        --stage cdm/weights/photo_x4 --out degraded.json

Their MATLAB programs leave a file of one channel as it is, where the protocol `y` compresses it to 16..235 like any
other: by them its PSNR is 20 log10(255 / 219) = 1.32 dB lower. `psnr_y_grey_as_is` is the mean as they have it; Set14
has one such file.
"""

import argparse
import io
import pathlib

import jax
import numpy as np
from PIL import Image

from cdm.cli.arguments import positive, values
from cdm.data.reading import evenly
from cdm.data.sources import Pictures
from cdm.evals.lpips import Lpips
from cdm.evals.restoration import measures
from cdm.evals.stages import bicubic, lanczos
from cdm.images.degrade import degrade
from cdm.images.files import write_json
from cdm.images.resize import resize, to_float, to_uint8
from cdm.stage import load_stage
from cdm.upscaling import INCONSISTENT, enlarge

PUBLISHED = {"set5": 28.42, "set14": 26.00, "bsd100": 25.96}
GREY = 20 * np.log10(255 / 219)


def by_stage(stage, **options):
    """{method: enlarge(lowres, (H, W)) -> uint8} of a Stage; one that can not be held to its input is not."""

    def with_(**more):
        return lambda lowres, size: to_uint8(enlarge(lowres, [stage], size, **options, **more).image)

    held = {f"{stage.name}, consistent": with_(consistent=True)} if stage.config.degrade.kind not in INCONSISTENT else {}
    return {stage.name: with_(), **held}


def degraded(config):
    """shrink(image [S, S, 3] in [-1, 1], (s, s), i) as `degrade` of a config has it, with the i-th key of seed 0."""
    keys = jax.random.key(0, impl="threefry2x32")
    jitted = jax.jit(lambda image, side, i: degrade(image[None], side, config, jax.random.fold_in(keys, i)[None])[0],
                     static_argnums=1)

    def shrink(image, size, i):
        if size[0] != size[1]:
            raise ValueError(f"`degraded` needs square pictures; one is {image.shape[1]}x{image.shape[0]}")
        return np.asarray(jitted(image, size[0], i))

    return shrink


def measure(data, scale, methods, distance=None, shrink=lambda image, size, i: resize(image, size), count=None):
    """The means over a folder, {method: {metric: mean}}, of {method: enlarge(lowres, (H, W))}; LPIPS by `distance`;
    `count` pictures evenly over it, or all."""
    source, rows = Pictures(pathlib.Path(data)), {name: [] for name in methods}
    for i in evenly(len(source), count or len(source)):
        image, grey = source.read(i), Image.open(io.BytesIO(source.encoded(i))).mode == "L"
        height, width = (side // scale * scale for side in image.shape[:2])
        image = image[:height, :width]
        lowres = shrink(to_float(image), (height // scale, width // scale), i)
        for name, method in methods.items():
            row = measures(method(lowres, (height, width)), image, ("rgb", "y"), scale, lowres, distance)
            rows[name].append(row | {"psnr_y_grey_as_is": row["psnr_y"] - grey * GREY})
    return {"pictures": len(rows["bicubic"]), **{
        name: {metric: float(np.mean([row[metric] for row in found])) for metric in found[0]}
        for name, found in rows.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--stage", action="append", default=[], metavar="FOLDER", help="super-resolution stages")
    each = " of each stage, comma-separated (default: its config's)"
    parser.add_argument("--steps", type=values(int), help="one value, or one" + each)
    parser.add_argument("--aug-level", type=values(float), help="one value, or one" + each)
    parser.add_argument("--count", type=positive, help="pictures, evenly over each folder (default: all)")
    parser.add_argument("--degraded", metavar="FOLDER", help="a stage, whose degradation shrinks the pictures")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    table, methods, about, distance = {}, {"bicubic": bicubic, "lanczos": lanczos}, {"scale": args.scale}, None
    if args.stage:
        distance = Lpips()
        about |= {"stages": [], "lpips": distance.about}
    for i, folder in enumerate(args.stage):
        stage = load_stage(folder)
        options = {name: given[i % len(given)] if isinstance(given, list) else given
                   for name, given in (("steps", args.steps), ("aug_level", args.aug_level))}
        methods |= by_stage(stage, **options)
        about["stages"].append({"name": stage.name, "sha256": stage.sha256, **options})
    shrinking = {}
    if args.degraded:
        stage = load_stage(args.degraded)
        about["degraded"], shrinking = stage.sha256, {"shrink": degraded(stage.config.degrade)}
    for data in args.data:
        name = pathlib.Path(data).name
        table[name] = found = measure(data, args.scale, methods, distance, count=args.count, **shrinking)
        line = f"{name}: bicubic {found['bicubic']['psnr_y']:.3f} dB, lanczos {found['lanczos']['psnr_y']:.3f} dB"
        if args.scale == 4 and name.lower() in PUBLISHED:
            ours, published = found["bicubic"], PUBLISHED[name.lower()]
            found["published"] = {"psnr_y": published, "difference": ours["psnr_y"] - published,
                                  "difference_grey_as_is": ours["psnr_y_grey_as_is"] - published}
            line += (f"; bicubic less the published {published:.2f}: {found['published']['difference']:+.3f}, grey as "
                     f"is {found['published']['difference_grey_as_is']:+.3f}")
        print(line)
        write_json(args.out, {**about, "sets": table})


if __name__ == "__main__":
    main()
