"""The verbs of `cdm eval`: weights."""

from cdm.cli.arguments import group, verb


def eval_weights(args):
    """Fetch the weights of evaluation networks."""
    from cdm.evals.weights import fetch

    for name in args.name:
        print(f"{name}: {fetch(name)}")


def add(verbs):
    """Add them to the parser."""
    verbs = group(verbs, "eval", "measure generated images")
    p = verb(verbs, "weights", eval_weights, "fetch the weights of evaluation networks, checked by their SHA-256")
    p.add_argument("name", nargs="+", metavar="NAME",
                   help="lite0, rn50, inception, dinov2, dinov2_s, lpips_alex or lpips_vgg")
