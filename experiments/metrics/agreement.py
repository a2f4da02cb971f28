"""Our metrics of distributions beside torch-fidelity's, pytorch-fid's and prdc's, from the same features.

    pip install '.[reference]'
    python -m experiments.metrics.agreement --out experiments/metrics/agreement.json

Features as tests/golden/make_distribution.py draws them, of several counts and widths up to those of Inception; the
worst difference of each metric, relative to its value (precision, recall, density and coverage: as it is).
"""

import argparse
import importlib.util
import pathlib

import numpy as np

from cdm.evals.distribution import Moments, frechet, inception_score, mmd2, precision_recall
from cdm.images.files import write_json

SHAPES = ((200, 8), (300, 64), (1000, 256), (2500, 2048))  # count, features
MAKER = pathlib.Path(__file__).parents[2] / "tests" / "golden" / "make_distribution.py"
AS_IT_IS = ("precision", "recall", "density", "coverage")


def ours(x, y, logits, splits):
    moments = [Moments(z) for z in (x, y)]
    mean, std = inception_score(logits, splits)
    return {"fd": frechet(moments[0].mean, moments[0].cov, moments[1].mean, moments[1].cov), "kid": mmd2(x, y),
            "is_mean": mean, "is_std": std, **precision_recall(x, y)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("make_distribution", MAKER)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    rows = []
    for count, dims in SHAPES:
        x, y, logits = maker.features(count, count, dims, 100, seed=count)
        # Our score shuffles: theirs is told the same order.
        order = np.random.default_rng(0).permutation(count)
        theirs, found = maker.measure(x, y, logits[order], splits=10), ours(x, y, logits, 10)
        for name, value in theirs.items():
            mine = found[name.removesuffix("_pytorch_fid").removesuffix("_prdc")]
            scale = 1 if name.split("_")[0] in AS_IT_IS else abs(value)
            rows.append({"metric": name, "count": count, "features": dims, "ours": mine, "theirs": float(value),
                         "difference": abs(mine - float(value)) / scale})
            print(rows[-1], flush=True)
    worst = {name: max(row["difference"] for row in rows if row["metric"] == name) for name in theirs}
    write_json(args.out, {"command": f"python -m experiments.metrics.agreement --out {args.out}",
                          "worst_difference": worst, "rows": rows})


if __name__ == "__main__":
    main()
