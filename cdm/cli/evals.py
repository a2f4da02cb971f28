"""The verbs that measure: `cdm eval …`, and tune."""

import pathlib
import sys

from cdm.cli.arguments import group, positive, values, verb

FOLDERS = ("images", "reference", "scale", "protocol")
STAGE = ("stage", "data", "regression", "count", "seed", "steps", "aug_level")


def eval_restoration(args):
    """Measure restored pictures against real ones: two folders, or what a super-resolution stage makes of a source."""
    from cdm import load_stage
    from cdm.data.sources import open_source
    from cdm.evals import card
    from cdm.evals.lpips import Lpips
    from cdm.evals.pairs import measure_pairs
    from cdm.evals.stages import measure_stage

    given = {name for name, value in vars(args).items() if value is not None}
    asked, other = (STAGE, FOLDERS) if given & {"stage", "data"} else (FOLDERS, STAGE)
    for name in asked[:2]:
        if name not in given:
            raise ValueError(f"`{name}` must be given: --images and --reference, or --stage and --data")
    for name in other:
        if name in given:
            raise ValueError(f"`{name}` (={getattr(args, name)}) must go with `{other[0]}`, not with `{asked[0]}`")
    distance, lacking = None, None
    try:
        distance = Lpips(args.lpips or "alex", args.lpips_weights)
    except ValueError as e:
        if args.lpips or args.lpips_weights:  # it was asked for
            raise
        lacking = e
    if asked is FOLDERS:
        protocols = ("rgb", "y") if args.protocol == "both" else (args.protocol or "rgb",)
        found = measure_pairs(args.images, args.reference, args.out, protocols, args.scale, distance)
    else:
        regression = load_stage(args.regression) if args.regression else None
        found = measure_stage(load_stage(args.stage), open_source(args.data), args.data, args.out, args.count,
                              args.seed or 0, regression, distance, steps=args.steps, aug_level=args.aug_level)
    card.write(args.out, found)
    for name, value in found["results"].items():
        low, high = value.get("interval", [value["mean"]] * 2)
        print(f"{name:24}{value['mean']:10.4f}   ({low:.4f} to {high:.4f})")
    for name, count in found["about"]["infinite"].items():
        print(f"{name} is infinite: {count} pictures equal their reference")
    if lacking:
        print(f"lpips was not measured: {lacking}")


def eval_weights(args):
    """Fetch the weights of evaluation networks."""
    from cdm.evals.weights import fetch

    for name in args.name:
        print(f"{name}: {fetch(name)}")


def eval_cas(args):
    """Train a classifier on generated images and test it on real ones."""
    from cdm.evals import card
    from cdm.evals.cas import score
    from cdm.training.stop import Stopped

    try:
        found = score(args.images, args.reference, args.workdir or pathlib.Path(args.out).with_suffix(".run"),
                      args.baseline, args.network, args.epochs, args.train_images, args.batch_size, args.size,
                      args.seed, args.augment)
    except (Stopped, FloatingPointError) as e:
        print(f"cdm: {e}", file=sys.stderr)
        return 75 if isinstance(e, Stopped) else 1
    card.write(args.out, found)
    for name, result in found["results"].items():
        low, high = result.get("interval", (None, None))
        print(f"{name} {result['mean']:.1%}" + (f" ({low:.1%} to {high:.1%})" if low is not None else ""))


def eval_distribution(args):
    """Measure how far sets of images lie from a reference."""
    from cdm.evals.features import load_extractor
    from cdm.evals.measure import measure

    card = measure(args.images, args.reference, args.out, load_extractor(args.features, args.weights), args.size,
                   args.blocks, args.pca, args.metrics and args.metrics.split(","), args.statistics)
    for name, value in card["results"].items():
        interval = "  ({:.6g} to {:.6g})".format(*value["interval"]) if "interval" in value else ""
        print(f"{name:24s} {value['mean']:.6g}{interval}")


def eval_compare(args):
    """Print how the results of two cards differ."""
    from cdm.evals import card

    for name, value in card.compare(card.read(args.a), card.read(args.b)).items():
        interval = "  ({:+.6g} to {:+.6g})".format(*value["interval"]) if "interval" in value else ""
        print(f"{name:24s} {value['a']:.6g} to {value['b']:.6g}: {value['difference']:+.6g}{interval}")


def eval_neighbours(args):
    """Show the training images that are nearest to samples."""
    from cdm.evals.features import load_extractor
    from cdm.evals.neighbours import neighbours

    card = neighbours(args.images, args.reference, args.out, load_extractor(args.features, args.weights), args.size,
                      args.held_out)
    for name, value in card["results"].items():
        print(f"{name:36s} {value:.4g}")
    print(f"the nearest training images of those most like one: {args.out}/neighbours.png")


def eval_cascade(args):
    """Write the report on a cascade."""
    import cdm
    from cdm.cascade import shipped
    from cdm.evals.features import load_extractor
    from cdm.evals.report import report

    result = report(cdm.load_cascade(args.cascade or shipped()), load_extractor(args.features, args.weights), args.data,
                    args.reference or args.data, args.out, args.n, args.seed, args.batch_size)
    for part in result["shares"]:
        print(f"{part['stage']}: {part['share']:.1%} of the final error")
    print(f"the report: {args.out}/report.html")


def tune(args):
    """Search the settings of a cascade's stages."""
    from cdm.evals.features import load_extractor
    from cdm.evals.tune import tune

    def several(value):
        return value if value is None or isinstance(value, list) else [value]

    found = tune(args.cascade, load_extractor(args.features, args.weights), args.data, args.workdir,
                 args.budget, args.seed, args.stage, args.batch_size, steps=several(args.steps),
                 guidance=several(args.guidance), sampler=several(args.sampler), grid=several(args.grid),
                 aug_level=several(args.aug_level))
    for part in found:
        print(f"{part['stage']}: " + ", ".join(f"{name} {value}" for name, value in part["winner"].items()))
    print(f"written into {args.cascade}: cascade.json, tune.json, tune.html")


def _features(p):
    p.add_argument("--features", default="lite0", help="lite0, rn50, inception, dinov2 or dinov2_s (default: lite0)")
    p.add_argument("--weights", metavar="FILE", help="of that network (default: what cdm eval weights fetched)")


def add(verbs):
    """Add them to the parser."""
    evals = group(verbs, "eval", "measure generated images, stages and cascades")
    source_help, square_help = "what data.source of a config may be", "make every image a square of this side"
    p = verb(evals, "weights", eval_weights, "fetch the weights of evaluation networks, checked by their SHA-256")
    p.add_argument("name", nargs="+", metavar="NAME",
                   help="lite0, rn50, inception, dinov2, dinov2_s, lpips_alex or lpips_vgg")

    p = verb(evals, "restoration", eval_restoration,
             "PSNR, SSIM, LPIPS, consistency and colour drift of restored pictures, or of a super-resolution stage",
             draws=True)
    p.add_argument("--images", metavar="FOLDER", help="restored pictures")
    p.add_argument("--reference", metavar="FOLDER", help="the real ones, by the same names")
    p.add_argument("--scale", type=positive, metavar="S", help="what they were enlarged by")
    p.add_argument("--protocol", choices=["rgb", "y", "both"], help="of PSNR and SSIM (default: rgb)")
    p.add_argument("--stage", metavar="FOLDER", help="or: a super-resolution stage, beside bicubic and Lanczos")
    p.add_argument("--data", metavar="SOURCE", help="real pictures for it: what data.source of a config may be")
    p.add_argument("--regression", metavar="FOLDER", help="a regression of its size, to compare with")
    p.add_argument("--count", type=positive, metavar="N", help="pictures, evenly over the source (default: all)")
    p.add_argument("--seed", type=int, help="default: 0")
    p.add_argument("--steps", type=positive, metavar="S", help="network evaluations of the stage")
    p.add_argument("--aug-level", type=float, metavar="A", help="noise put on its input, in [0, 1]")
    p.add_argument("--lpips", choices=["alex", "vgg"], help="its network (default: alex, if its weights are here)")
    p.add_argument("--lpips-weights", metavar="FILE", help="of that network (default: what cdm eval weights fetched)")
    p.add_argument("--out", required=True, metavar="CARD.json", help="file to write; what belongs to it goes beside it")

    p = verb(evals, "cas", eval_cas,
             "classification accuracy score: train a classifier on generated images, test it on real ones")
    p.add_argument("--images", required=True, metavar="SOURCE",
                   help="generated images with classes: what data.source of a config may be")
    p.add_argument("--reference", required=True, metavar="SOURCE", help="real images of the same classes, to test on")
    p.add_argument("--baseline", metavar="SOURCE", help="real images to do the same training on")
    p.add_argument("--out", required=True, metavar="CARD.json", help="file to write")
    p.add_argument("--workdir", metavar="RUN", help="folder of the trainings; run again to resume (default: CARD.run)")
    p.add_argument("--network", default="resnet50", help="resnet50, or small for small images (default: resnet50)")
    p.add_argument("--augment", metavar="NAME", help="imagenet (the default of resnet50), small (of small) or none")
    many = p.add_mutually_exclusive_group()
    many.add_argument("--epochs", type=positive, metavar="E", help="of the generated images (default: 90; small: 30)")
    many.add_argument("--train-images", type=positive, metavar="N", help="images that a training sees")
    p.add_argument("--batch-size", type=positive, metavar="B", help="default: 256; small: 64")
    p.add_argument("--size", type=positive, metavar="S", help="pixels of a side (default: the generated images')")
    p.add_argument("--seed", type=int, default=0, help="default: 0")

    p = verb(evals, "distribution", eval_distribution,
             "distance of samples from real images: Frechet distances, KID, IS, precision and recall, as a card")
    p.add_argument("--images", required=True, nargs="+", metavar="X", help=f"samples, a set a seed: {source_help}")
    p.add_argument("--reference", required=True, metavar="Y", help="real images, or a file of statistics (.npz)")
    p.add_argument("--out", required=True, metavar="CARD.json", help="file to write; run again to resume")
    p.add_argument("--size", type=positive, metavar="S", help=square_help)
    _features(p)
    p.add_argument("--blocks", type=positive, default=1, metavar="K", help="measure one set in so many equal parts")
    p.add_argument("--pca", type=positive, metavar="D", help="Frechet distances in the D main directions of Y")
    p.add_argument("--metrics", metavar="M,M,…", help="of fd, sfid, kid, is, pr (default: all that the features give)")
    p.add_argument("--statistics", metavar="FILE.npz", help="write the statistics of Y, to be a --reference later")
    p = verb(evals, "compare", eval_compare, "how the results of two cards of one protocol differ")
    p.add_argument("a", metavar="A.json")
    p.add_argument("b", metavar="B.json")
    p = verb(evals, "neighbours", eval_neighbours,
             "memorisation: the training images nearest to each sample, and how much nearer they are than real ones")
    p.add_argument("--images", required=True, metavar="X", help=f"samples: {source_help}")
    p.add_argument("--reference", required=True, metavar="Y", help="the images trained on")
    p.add_argument("--held-out", metavar="Z", help="real images not trained on (default: Y, each beside the others)")
    p.add_argument("--out", required=True, metavar="DIR", help="folder to write; run again to resume")
    p.add_argument("--size", type=positive, metavar="S", help=square_help)
    _features(p)

    p = verb(evals, "cascade", eval_cascade, "report on a cascade: each stage with real input, with its predecessor's "
             "output and in the whole chain, and the share of the final error that it adds", draws=True)
    p.add_argument("--cascade", metavar="FOLDER", help="cascade folder (default: the one that comes with the package)")
    p.add_argument("--data", required=True, metavar="SOURCE", help=f"real pictures that enter: {source_help}")
    p.add_argument("--reference", metavar="SOURCE", help="real pictures to compare with (default: --data, "
                   "which makes stages that are given real input look better than they are)")
    p.add_argument("--out", required=True, metavar="DIR", help="folder to write, or to go on writing")
    p.add_argument("-n", type=positive, default=20, help="pictures of each class (default: 20)")
    p.add_argument("--seed", type=int, default=0, help="default: 0")
    p.add_argument("--batch-size", type=int, metavar="B", help="images at a time")
    _features(p)

    p = verb(verbs, "tune", tune, "search guidance, steps, sampler and augmentation level of a cascade's stages, by "
             "the distance of samples from real pictures, and write the best into its folder", draws=True)
    p.add_argument("--cascade", required=True, metavar="FOLDER", help="cascade folder, whose settings are changed")
    p.add_argument("--data", required=True, metavar="SOURCE", help=f"real pictures to compare with: {source_help}")
    p.add_argument("--workdir", required=True, metavar="WORK", help="folder of samples and scores, new or to resume")
    p.add_argument("--stage", nargs="+", metavar="STAGE", help="stages to search (default: all, from the lowest)")
    p.add_argument("--budget", type=positive, default=2000, metavar="IMAGES", help="to sample a stage (default: 2000)")
    p.add_argument("--seed", type=int, default=0, help="default: 0")
    p.add_argument("--batch-size", type=int, metavar="B", help="images at a time")
    tried = "values to try, comma-separated (default: a few around the present one)"
    p.add_argument("--steps", type=values(int), metavar="S,S,…", help=tried)
    p.add_argument("--guidance", type=values(float), metavar="W,W,…", help=tried)
    p.add_argument("--aug-level", type=values(float), metavar="A,A,…", help=tried)
    p.add_argument("--sampler", type=values(str), metavar="NAME,NAME,…", help="samplers to try (default: the present)")
    p.add_argument("--grid", type=values(str), metavar="NAME,NAME,…",
                   help="grids to try: time, logsnr, rho or searched (default: the present one)")
    _features(p)
