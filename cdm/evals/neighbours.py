"""`cdm eval neighbours`: are samples copies of training images? The nearest of these to each, in feature space.

    ratio(x) = |x - y_1| / mean_k |x - y_k|,   y_1 … y_K the K training images nearest to x           (1)

(1) is small where one training image, or a few that are alike, is much nearer than the others around (Carlini et al.
2023, sec. 5.1, K = 50, with its factor alpha left out). What is small is told by a baseline: the same ratio of real
images that can be no copies, those held out or else the training images, each beside all others; images whose pixels
are those of a training image, or of another one, are left out of it.

    OUT/card.json          medians of samples and baseline, and the share of samples not above the baseline's first
                           percentile: 1 % by chance
    OUT/neighbours.json    of each sample its ratio and its nearest training images with distances, least ratio first
    OUT/neighbours.png     the first ROWS of them: the sample, and right of the gap its nearest training images
"""

import collections
import pathlib
import shutil

import numpy as np

from cdm.evals import card, statistics
from cdm.evals.distribution import nearest
from cdm.evals.extract import extract
from cdm.evals.sets import ImageSet, same_size
from cdm.images.files import hold, write_grid, write_json
from cdm.images.resize import to_float

K, SHOWN, ROWS = 50, 5, 16


def _ratio(distances):
    """(1) of distances [N, K], nearest first; images that are all alike are copies."""
    return distances[:, 0] / np.maximum(distances.mean(1), np.finfo(np.float64).tiny)


def _singles(training, held):
    """Which images of the baseline have no double among the training images, by digests [N, 32]: bool [N]."""
    counts = collections.Counter(row.tobytes() for row in training)
    most = 1 if held is None else 0  # each is among the training images itself
    return np.array([counts[row.tobytes()] <= most for row in (training if held is None else held)])


def neighbours(images, reference, out, extractor, size=None, held_out=None):
    """Write OUT of the samples `images`, the training images `reference` and real ones that were `held_out` (sources);
    returns the card. `size`: make every image a square of this side."""
    out = pathlib.Path(out)
    sets = [ImageSet(images, size, "images"), ImageSet(reference, size, "reference")]
    sets += [ImageSet(held_out, size, "held_out")] if held_out else []
    same_size(sets)
    samples, training, *_ = sets
    if len(training) < 3:
        raise ValueError(f"`reference` (={reference}) must hold at least 3 images, not {len(training)}")
    k, partial = min(K, len(training) - 1), out / "features.partial"
    partial.mkdir(parents=True, exist_ok=True)
    with hold(out, "out"):
        found = [extract(one, extractor, partial) for one in sets]
        x, y, *held = [features.parts["pool"] for features in found]
        distances, indices = nearest(x, y, k)
        base = nearest(held[0], y, k)[0] if held else nearest(y, y, k, others=True)[0]
        single = _singles(found[1].digests, found[2].digests if held else None)
        base = base[single]
        if not len(base):
            raise ValueError(f"`{'held_out' if held else 'reference'}` (={held_out or reference}) must hold images "
                             "that are no doubles of training images")
        ratio, base_ratio = _ratio(distances), _ratio(base)
        low = float(np.quantile(base_ratio, 0.01))
        card.write(out / "card.json", {
            "kind": "neighbours",
            "protocol": {**statistics.protocol(extractor, samples.size), "n": len(samples),
                         "reference": {"n": len(training), "sha256": found[1].sha256}, "k": k,
                         "baseline": {"n": len(held[0]), "sha256": found[2].sha256} if held else "reference"},
            "results": {"distance": float(np.median(distances[:, 0])), "ratio": float(np.median(ratio)),
                        "baseline_distance": float(np.median(base[:, 0])),
                        "baseline_ratio": float(np.median(base_ratio)),
                        "distance_over_baseline": float(np.median(distances[:, 0]) / np.median(base[:, 0])),
                        "first_percentile_of_baseline_ratio": low, "share_below": float(np.mean(ratio <= low))},
            "about": {"images": {"source": samples.spec, "sha256": found[0].sha256}, "reference": training.spec,
                      "held_out": held_out and str(held_out), "doubles_left_out": int(np.sum(~single)),
                      "square": samples.square}})
        order = np.argsort(ratio, kind="stable")
        write_json(out / "neighbours.json", [
            {"image": samples.names[i], "ratio": float(ratio[i]), "below": bool(ratio[i] <= low),
             "nearest": {training.names[j]: float(d) for j, d in zip(indices[i, :SHOWN], distances[i])}}
            for i in order])
        gap = np.full((*samples.size, 3), 255, np.uint8)
        write_grid(out / "neighbours.png", to_float(np.stack([
            np.stack([samples.read(i), gap, *(training.read(j) for j in indices[i, :SHOWN])]) for i in order[:ROWS]])))
        shutil.rmtree(partial)
    return card.read(out / "card.json")
