"""The verbs that sample: demo, sample."""

import pathlib

import cdm
from cdm.cli.arguments import positive, values, verb


SETTINGS = ("steps", "guidance", "sampler", "grid", "interval", "threshold", "eta", "churn", "variance", "aug_level",
            "hand_over")


def _interval(text):
    low, _, high = text.partition(":")
    return float(low), float(high)


def sample(args):
    """Write samples of a cascade into a folder."""
    from cdm.cascade import shipped
    from cdm.samples import write_samples

    cascade = cdm.load_cascade(args.cascade or shipped())
    if not args.classes and cascade.classes:
        raise ValueError(f"`class` must be named, one or more of: "
                         f"{', '.join(f'{i} {name}' for i, name in enumerate(cascade.classes))}")
    labels = [cascade.stages[0].label(which) for which in args.classes or [0]]
    about = write_samples(
        cascade, args.out, labels, args.n, args.seed, args.batch_size, args.start_at, args.stop_at, args.format,
        args.previews, **{name: getattr(args, name) for name in SETTINGS})
    of = f" of {len({i['label'] for i in about['images']})} classes" if cascade.classes else ""
    print(f"{len(about['images'])} images{of} in {args.out}")


def demo(args):
    """Write an image of every class of the cascade in the package."""
    from cdm.cascade import shipped
    from cdm.samples import write_samples

    cascade = cdm.load_cascade(shipped())
    write_samples(cascade, args.out, range(len(cascade.classes)), n=1)
    print(f"an image of each class: {pathlib.Path(args.out) / 'grid.png'}\n"
          f"each alone, and what every stage made of it, in {args.out}; how, in samples.json")


def add(verbs):
    """Add them to the parser."""
    p = verb(verbs, "demo", demo, "sample an image of every class from the cascade that comes with the package",
             draws=True)
    p.add_argument("--out", default="cdm-demo", help="folder to write (default: cdm-demo)")

    p = verb(verbs, "sample", sample, "sample images by class from a cascade, or from part of one", draws=True)
    p.add_argument("--cascade", metavar="FOLDER",
                   help="cascade folder, or a base stage's (default: the cascade that comes with the package)")
    p.add_argument("--class", dest="classes", nargs="+", action="extend", metavar="CLASS", help="names or indices")
    p.add_argument("-n", type=int, default=1, help="images of each class (default: 1)")
    p.add_argument("--seed", type=int, default=0, help="default: 0")
    p.add_argument("--out", required=True, metavar="DIR", help="folder to write, or to go on writing")
    stages = "; one value, or one per stage, comma-separated"
    p.add_argument("--steps", type=values(int), help="network evaluations" + stages)
    p.add_argument("--guidance", type=values(float), metavar="W", help="class guidance weight w, 0 is off" + stages)
    p.add_argument("--aug-level", type=values(float), metavar="A",
                   help="noise put on each super-resolution stage's input, in [0, 1]; "
                        "one value, or one per such stage")
    p.add_argument("--sampler", type=values(str), help="ancestral, ddim, dpmpp_2m, dpmpp_2m_sde or heun" + stages)
    p.add_argument("--grid", type=values(str), help="how its levels lie: time, logsnr or rho" + stages)
    p.add_argument("--interval", type=values(_interval), metavar="LOW:HIGH",
                   help="logSNR that guidance is limited to" + stages)
    p.add_argument("--threshold", type=values(str), help="of x0: static or dynamic" + stages)
    p.add_argument("--eta", type=values(float), help="of ddim, 0 to 1: its noise" + stages)
    p.add_argument("--churn", type=values(float), help="of heun: its noise" + stages)
    p.add_argument("--variance", type=values(str), help="of ancestral steps: small, large or learned" + stages)
    p.add_argument("--hand-over", type=values(str), help="non_truncated or truncated, per super-resolution stage")
    p.add_argument("--previews", type=positive, default=0, metavar="K",
                   help="also write, an image and stage, what it looked like at K points of its sampling")
    p.add_argument("--batch-size", type=int, metavar="B", help="images at a time")
    p.add_argument("--start-at", metavar="STAGE", help="go on from what --stop-at, or a whole run, left in --out")
    p.add_argument("--stop-at", metavar="STAGE", help="the last stage to run")
    p.add_argument("--format", default="png", help="png, zip or npz (default: png)")
