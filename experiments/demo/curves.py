"""Loss curves of the stages in the package: by stage, and for the first by noise level.

    pip install '.[experiments]'
    python -m experiments.demo.curves --runs runs --out experiments/demo/curves.png
    python -m experiments.demo.curves --runs runs --stages photo_x4_bicubic photo_x4 photo_x4_regression \
        --out experiments/restoration/curves.png

Writes the figure and, beside it as .json, the numbers in it: images seen, loss, and the loss in ten bins of t. Those of
the package are of runs whose base_32 is by configs/demo/base_32_wide.py, to 2.2 M images.
"""

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from cdm.images.files import write_json
from experiments.demo.train import STAGES


def read(run):
    """The rows of a run's metrics.jsonl that are drawn."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {"images": [r["images"] for r in rows], "loss": [round(r["loss"], 5) for r in rows],
            "loss_by_bin": [[v if v is None else round(v, 5) for v in r["loss_by_bin"]] for r in rows]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"))
    parser.add_argument("--stages", nargs="+", default=STAGES, help="names of run folders (default: the demo's)")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    curves = {name: read(args.runs / name) for name in args.stages}
    write_json(args.out.with_suffix(".json"), curves)

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for name, curve in curves.items():
        left.loglog(curve["images"], curve["loss"], label=name, linewidth=1)
    base = curves[args.stages[0]]
    bins = np.array(base["loss_by_bin"], float).T
    for i, values in enumerate(bins):
        right.loglog(base["images"], values, color=plt.cm.viridis(i / len(bins)), linewidth=1,
                     label=f"t {i / len(bins):.1f}–{(i + 1) / len(bins):.1f}")
    left.set(title="training loss", xlabel="images seen", ylabel="mean squared error of what is said")
    right.set(title=f"{args.stages[0]} by noise level", xlabel="images seen")
    left.legend(fontsize=7)
    right.legend(fontsize=6, ncol=2)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
