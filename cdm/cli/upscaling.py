"""The verb that enlarges pictures: upscale."""

import argparse
import pathlib
import re
import signal
import sys

from cdm.cli.arguments import positive, values, verb


PHOTOS = "photo_x4_bicubic", "photo_x2_bicubic", "photo_x4"  # of the package


def _size(text):
    """A type of WxH, as (height, width)."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT")
    return int(found[2]), int(found[1])


def _stage(name):
    """The stage in a folder, or of the package."""
    from cdm.cascade import shipped
    from cdm.stage import load_stage

    return load_stage(shipped(name) if name in PHOTOS and not pathlib.Path(name).exists() else name)


def _default(scale):
    """The package's stage for a scale, None if a size was asked for: no larger step than the scale needs."""
    return PHOTOS[1 if scale and scale <= 2 else 0]


def upscale(args):
    """Upscale pictures into a folder."""
    from cdm.photos import MAX_PIXELS, write_photos

    stages = [_stage(name) for name in args.stage or [_default(args.scale)]]
    for stage in (one for one in stages if one.lowres_size):  # of others an error tells
        low = f" and its pairs in {stage.config.data.lowres}" if stage.partner_size else (
            f", made small by {stage.config.degrade.kind}")
        print(f"{stage.name}: a window of {stage.lowres_size} px to {stage.size}, "
              f"trained on {stage.config.data.source}{low}", file=sys.stderr)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))  # a file is whole or gone; the rest is resumed
    try:
        made = write_photos(
            args.inputs, args.out, stages, args.scale, args.size, args.format, args.max_pixels or MAX_PIXELS,
            not args.no_metadata, args.overwrite, seed=args.seed, fidelity=args.fidelity, samples=args.samples,
            consistent=args.consistent, colour_lock=not args.no_colour_lock, steps=args.steps,
            aug_level=args.aug_level, label=args.label)
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{len(made.done)} upscaled, {len(made.kept)} done before, {len(made.failed)} failed, in {args.out}"
          + (f"; {made.ignored} other files ignored" if made.ignored else ""))
    return int(bool(made.failed))


def add(verbs):
    """Add it to the parser."""
    p = verb(verbs, "upscale", upscale, "enlarge pictures with super-resolution stages; their detail is invented",
             draws=True)
    p.add_argument("inputs", nargs="+", metavar="IN", help="pictures, folders of them, or globs")
    p.add_argument("--out", required=True, metavar="DIR", help="folder to write, or to go on writing")
    p.add_argument("--stage", action="append", metavar="FOLDER",
                   help="super-resolution stage; several are applied in order, the last one as often as it takes; "
                        f"or one of the package's for photographs: {', '.join(PHOTOS)} (default: {PHOTOS[0]}, up "
                        f"to a --scale of 2 {PHOTOS[1]})")
    size = p.add_mutually_exclusive_group(required=True)
    size.add_argument("--scale", type=float, metavar="S", help="times the picture's size, at least 1")
    size.add_argument("--size", type=_size, metavar="WxH", help="pixels of the result")
    stages = "; one value, or one per stage, comma-separated"
    p.add_argument("--steps", type=values(int), metavar="S", help="network evaluations" + stages)
    p.add_argument("--seed", type=int, default=0, metavar="K", help="default: 0")
    p.add_argument("--fidelity", type=float, default=0.0, metavar="F",
                   help="0, a full sample, to 1, the mean of samples, which is smooth (default: 0)")
    p.add_argument("--consistent", action="store_true", help="make the result shrink to the input exactly")
    p.add_argument("--samples", type=positive, default=1, metavar="K",
                   help="write K versions, their mean and their standard deviation too")
    p.add_argument("--class", dest="label", metavar="CLASS", help="name or index, of a stage with classes")
    p.add_argument("--aug-level", type=values(float), metavar="A", help="noise put on the input, in [0, 1]" + stages)
    p.add_argument("--no-colour-lock", action="store_true", help="let broad colours differ from the input's")
    p.add_argument("--format", default="png",
                   help="png, jpeg, webp, tiff, dicom, or same, each picture's own (default: png)")
    p.add_argument("--max-pixels", type=positive, metavar="N",
                   help="of a result; larger ones are refused (default: 100 million)")
    p.add_argument("--no-metadata", action="store_true", help="do not say in the pictures how they were made")
    p.add_argument("--overwrite", action="store_true", help="replace what --out holds that was made otherwise")
