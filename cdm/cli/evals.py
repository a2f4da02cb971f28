"""The verbs of `cdm eval`: weights, cas."""

import pathlib
import sys

from cdm.cli.arguments import group, positive, verb


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
                      args.baseline, args.network, args.epochs, args.train_images, args.batch_size, args.size, args.seed,
                      args.augment)
    except (Stopped, FloatingPointError) as e:
        print(f"cdm: {e}", file=sys.stderr)
        return 75 if isinstance(e, Stopped) else 1
    card.write(args.out, found)
    for name, result in found["results"].items():
        low, high = result.get("interval", (None, None))
        print(f"{name} {result['mean']:.1%}" + (f" ({low:.1%} to {high:.1%})" if low is not None else ""))


def add(verbs):
    """Add them to the parser."""
    verbs = group(verbs, "eval", "measure generated images")
    p = verb(verbs, "weights", eval_weights, "fetch the weights of evaluation networks, checked by their SHA-256")
    p.add_argument("name", nargs="+", metavar="NAME",
                   help="lite0, rn50, inception, dinov2, dinov2_s, lpips_alex or lpips_vgg")

    p = verb(verbs, "cas", eval_cas,
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
