"""How far the demo cascade's pictures are from real ones at every size, and whether they are copies of them.

    cdm eval weights lite0
    python -m experiments.demo.distances --workdir runs/distances --out experiments/demo/distances.json

1. The report (`cdm eval cascade`) with `-n` held-out emoji of each class entering at every stage in turn: of the whole
   chain's pictures, and of the emoji that entered, as many and of the same classes, kernel distances from the training
   emoji at 32, 64, 128 and 256, with errors.
2. `--samples` pictures of each class of the cascade, seed 0: precision, recall, density and coverage of the held-out
   emoji, beside those of as many training emoji, at 64 px; and how near they are to training emoji, beside held-out
   ones, at 32 and 256 px.

By commands of cdm, so that this one goes on where it was stopped; another `-n` or `--samples` wants another
`--workdir`. Its numbers go to `--out`; beside it the report, and the picture of nearest neighbours of the base
stage.
"""

import argparse
import json
import pathlib
import shutil

from cdm.cascade import load_cascade, shipped
from cdm.evals.scoring import Real
from cdm.images.files import write_image, write_json
from cdm.images.resize import to_float
from cdm.samples import file_name
from experiments.demo.train import cdm


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cascade", type=pathlib.Path, default=shipped())
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where all is made")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the results go")
    parser.add_argument("-n", type=int, default=11, help="held-out emoji of each class (default: 11)")
    parser.add_argument("--samples", type=int, default=40, help="pictures of each class for recall (default: 40)")
    args = parser.parse_args()
    work, cascade = args.workdir, load_cascade(args.cascade)
    stages, classes = cascade.stages, cascade.classes
    cdm("eval", "cascade", "--cascade", args.cascade, "--data", "fluent_emoji:heldout", "--reference", "fluent_emoji",
        "-n", args.n, "--out", work / "report")
    known = work / "known"
    write_emoji(classes, args.samples, known)
    samples = work / "samples"
    cdm("sample", "--cascade", args.cascade, "--class", *classes, "-n", args.samples, "--out", samples)

    found = {"n": args.n * len(classes), "samples": args.samples * len(classes)}
    for what, images in (("samples", samples), ("training", known)):
        card = work / f"recall_{what}.json"
        cdm("eval", "distribution", "--images", images, "--reference", "fluent_emoji:heldout", "--size", 64,
            "--metrics", "pr", "--out", card)
        found[f"manifold_{what}"] = {name: one["mean"] for name, one in json.loads(card.read_text())["results"].items()}
    for images, size in ((samples / stages[0].name, stages[0].size), (samples, stages[-1].size)):
        folder = work / f"neighbours_{size}"
        cdm("eval", "neighbours", "--images", images, "--reference", "fluent_emoji",
            "--held-out", "fluent_emoji:heldout", "--size", size, "--out", folder)
        found[f"neighbours_{size}"] = json.loads((folder / "card.json").read_text())["results"]
    report = json.loads((work / "report" / "report.json").read_text())
    shutil.copy(work / f"neighbours_{stages[0].size}" / "neighbours.png", args.out.parent)
    (args.out.parent / "report").mkdir(exist_ok=True)
    for name in ("report.json", "report.html"):
        shutil.copy(work / "report" / name, args.out.parent / "report")
    write_json(args.out, {"stages": report["stages"], "jax": report["jax"], **found})


def write_emoji(classes, n, folder):
    """n training emoji of each class, evenly over them, as a folder of PNGs at 256 px."""
    chosen = Real("fluent_emoji", classes, n)
    pictures = chosen.at(256)
    for i, pair in enumerate(chosen.pairs):
        path = folder / file_name(classes, *pair)
        if not path.exists():
            write_image(path, to_float(pictures.read(i)))


if __name__ == "__main__":
    main()
