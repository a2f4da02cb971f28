"""Do the distances of distributions behave? With real features of the pictures in the package.

    cdm eval weights lite0
    python -m experiments.metrics [--count 250] --out experiments/metrics/sanity.json

1. Two halves of one set: the Fréchet distance beside what chance makes it for Gaussian features of that covariance,
   and KID, over random halves of the reference.
2. `count` pictures blurred, with noise, as JPEG, each harder and harder, beside three times as many others: FD, KID,
   precision and coverage should say so at every step.

Emoji without skin tones, so that no picture has its like in the other set; 64x64; Fréchet distances in the 64 main
directions of the reference, as there are far fewer pictures than features. Also writes the picture sanity.png.
"""

import argparse
import io
import pathlib

import numpy as np
from PIL import Image, ImageFilter
from tqdm import tqdm

from cdm.data.reading import read_square
from cdm.data.sources import FluentEmoji
from cdm.evals.card import summary, versions
from cdm.evals.distribution import Moments, frechet, frechet_floor, kid, mmd2, precision_recall, principal
from cdm.evals.features import load_extractor
from cdm.images.files import write_json

SIZE, PCA, HALVES = 64, 64, 20
SKIN = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")


def blur(image, sigma):
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def noise(image, sigma):
    drawn = np.random.default_rng(int(image.sum())).normal(size=image.shape)
    return np.clip(np.round(image + sigma * drawn), 0, 255).astype(np.uint8)


def jpeg(image, quality):
    data = io.BytesIO()
    Image.fromarray(image).save(data, "jpeg", quality=quality)
    return np.asarray(Image.open(data))


HARMS = {"blur": (blur, "sigma, pixels", (0.5, 1, 2)), "noise": (noise, "sigma of 255", (5, 15, 45)),
         "JPEG": (jpeg, "quality", (75, 30, 10))}


def pictures(count):
    """(count, 3 count) pictures of the embedded set, [N, SIZE, SIZE, 3] uint8."""
    source = FluentEmoji("all")
    plain = [i for i, name in enumerate(source.names) if not any(tone in name.lower() for tone in SKIN)]
    chosen = np.random.default_rng(0).permutation(plain)[: 4 * count]
    if len(chosen) < 4 * count:
        raise ValueError(f"`count` (={count}) must be at most {len(chosen) // 4}")
    found = np.stack([read_square(source, int(i), SIZE) for i in chosen])
    return found[:count], found[count:]


def distance(a, b):
    return frechet(a.mean, a.cov, b.mean, b.cov)


def halves(features, basis):
    """Section 1."""
    rows = []
    for seed in range(HALVES):
        order = np.random.default_rng(seed).permutation(len(features))
        x, y = features[order[: len(order) // 2]], features[order[len(order) // 2 : 2 * (len(order) // 2)]]
        rows.append((distance(Moments(x @ basis), Moments(y @ basis)), mmd2(x, y)))
    fd, kids = (summary(values) for values in zip(*rows))
    n = len(features) // 2
    floor = frechet_floor(Moments(features @ basis).cov, n, n)
    return {"n": n, "halvings": HALVES, "fd": fd["mean"], "expected_of_gaussian": floor, "ratio": fd["mean"] / floor,
            "kid": kids["mean"], "kid_interval": kids["interval"],
            "kid_negative": float(np.mean(np.array(kids["blocks"]) < 0))}


def measures(x, y, basis, reference):
    size = min(len(x), len(y))
    found = precision_recall(x, y)
    return {"fd": distance(Moments(x @ basis), reference), "kid": kid(x, y, 20, size)[0],
            "precision": found["precision"], "coverage": found["coverage"]}


def plot(harms, path):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(9, 4.6), sharey="row")
    for column, (harm, rows) in zip(axes.T, harms.items()):
        for axis, metric in zip(column, ("fd", "kid")):
            axis.plot(range(len(rows)), [row[metric] for row in rows], "o-", color="black", markersize=4)
            axis.set_xticks(range(len(rows)), [row["level"] if row["level"] is not None else "as is" for row in rows])
            axis.spines[["top", "right"]].set_visible(False)
        column[1].set_xlabel(f"{harm}: {HARMS[harm][1]}")
    for axis, label in zip(axes[:, 0], (f"FD-lite0, {PCA} directions", "KID-lite0")):
        axis.set_ylabel(label)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=250)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    extractor, (pristine, others) = load_extractor("lite0"), pictures(args.count)

    def features(images):
        found = [extractor(images[i : i + 32])["pool"] for i in tqdm(range(0, len(images), 32), leave=False)]
        return np.concatenate(found).astype(np.float64)

    y = features(others)
    basis = principal(Moments(y).cov, PCA)
    reference, clean = Moments(y @ basis), features(pristine)
    harms = {}
    for harm, (apply, _, levels) in HARMS.items():
        harms[harm] = [{"level": None, **measures(clean, y, basis, reference)}]
        for level in levels:
            x = features(np.stack([apply(image, level) for image in pristine]))
            harms[harm].append({"level": level, **measures(x, y, basis, reference)})
            print(harm, harms[harm][-1], flush=True)
    rises = {harm: {metric: all(a[metric] < b[metric] for a, b in zip(rows, rows[1:])) for metric in ("fd", "kid")}
             for harm, rows in harms.items()}
    write_json(args.out, {
        "command": f"python -m experiments.metrics --count {args.count} --out {args.out}", "features": "lite0",
        "weights": extractor.sha256, "resize": extractor.resize, "size": SIZE, "pca": PCA, "n": len(clean),
        "reference": len(y), "halves": halves(y, basis), "harms": harms, "rises": rises, "versions": versions()})
    plot(harms, args.out.with_suffix(".png"))
    print(rises)


if __name__ == "__main__":
    main()
