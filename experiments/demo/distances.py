"""How far the demo cascade's pictures are from real ones at every size, and whether they are copies of them.

    cdm eval weights lite0
    python -m experiments.demo.distances --workdir runs/distances --out experiments/demo/distances.json

1. The report (`cdm eval cascade`) with `-n` held-out emoji of each class entering at every stage in turn.
2. Of the whole chain's pictures in it, and of the emoji that entered, as many and of the same classes: KID from the
   training emoji at 32, 64, 128 and 256, in `-n` parts of one picture of each class, with 95 % intervals.
3. `--samples` pictures of each class of the cascade, seed 0: precision, recall, density and coverage of the held-out
   emoji, beside those of as many training emoji, at 64 px; and how near they are to training emoji, beside held-out
   ones, at 32 and 256 px.

By commands of cdm, so that this one goes on where it was stopped; another `-n` or `--samples` wants another
`--workdir`. Its numbers go to `--out`, the report's and the picture of nearest neighbours into the folder beside it.
"""

import argparse
import json
import pathlib
import shutil

import cdm as package
from cdm.cascade import shipped
from cdm.data.reading import read_square
from cdm.data.sources import FluentEmoji
from cdm.evals.scoring import Real
from cdm.images.files import write_image, write_json
from cdm.images.resize import to_float
from experiments.demo.train import cdm


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cascade", type=pathlib.Path, default=shipped())
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where all is made")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the results go")
    parser.add_argument("-n", type=int, default=11, help="held-out emoji of each class (default: 11)")
    parser.add_argument("--samples", type=int, default=40, help="pictures of each class for recall (default: 40)")
    args = parser.parse_args()
    work, sizes = args.workdir, {stage.name: stage.size for stage in package.load_cascade(args.cascade).stages}
    classes = FluentEmoji("train").classes
    cdm("eval", "cascade", "--cascade", args.cascade, "--data", "fluent_emoji:heldout", "--reference", "fluent_emoji",
        "-n", args.n, "--out", work / "report")
    held, known = work / "held", work / "known"
    write_emoji("heldout", classes, args.n, held)
    write_emoji("train", classes, args.samples, known)
    samples = work / "samples"
    cdm("sample", "--cascade", args.cascade, "--class", *classes, "-n", args.samples, "--out", samples)

    found, last = {"n": args.n * len(classes), "samples": args.samples * len(classes), "kid": {}}, list(sizes)[-1]
    for name, size in sizes.items():
        made = work / "report" / f"from_{list(sizes)[0]}"
        row = found["kid"][str(size)] = {}
        for what, images in (("samples", made if name == last else made / name), ("held_out", held)):
            card = work / f"kid_{what}_{size}.json"
            cdm("eval", "distribution", "--images", images, "--reference", "fluent_emoji", "--size", size,
                "--metrics", "kid", "--blocks", args.n, "--out", card)
            result = json.loads(card.read_text())["results"]["kid_lite0"]
            row[what] = {"mean": result["mean"], "interval": result["interval"]}
    for what, images in (("samples", samples), ("training", known)):
        card = work / f"recall_{what}.json"
        cdm("eval", "distribution", "--images", images, "--reference", "fluent_emoji:heldout", "--size", 64,
            "--metrics", "pr", "--out", card)
        found[f"manifold_{what}"] = {name: one["mean"] for name, one in json.loads(card.read_text())["results"].items()}
    for name, size in ((list(sizes)[0], sizes[list(sizes)[0]]), (last, sizes[last])):
        folder = work / f"neighbours_{size}"
        cdm("eval", "neighbours", "--images", samples if name == last else samples / name, "--reference",
            "fluent_emoji", "--held-out", "fluent_emoji:heldout", "--size", size, "--out", folder)
        found[f"neighbours_{size}"] = json.loads((folder / "card.json").read_text())["results"]
        shutil.copy(folder / "neighbours.png", args.out.parent / f"neighbours_{size}.png")
    report = json.loads((work / "report" / "report.json").read_text())
    (args.out.parent / "report").mkdir(exist_ok=True)
    for name in ("report.json", "report.html"):
        shutil.copy(work / "report" / name, args.out.parent / "report")
    write_json(args.out, {"stages": report["stages"], "jax": report["jax"], **found})


def write_emoji(split, classes, n, folder):
    """n emoji of each class of a split, evenly over them, as a folder of class folders of PNGs at 256 px."""
    source = FluentEmoji(split)
    names = {name: i for i, name in enumerate(source.names)}
    chosen = Real(f"fluent_emoji:{split}" if split != "train" else "fluent_emoji", classes, n)
    for (label, count), name in zip(chosen.pairs, chosen.names):
        path = folder / f"{label}" / f"{count:04d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, to_float(read_square(source, names[name], 256)))


if __name__ == "__main__":
    main()
