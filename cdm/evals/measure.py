"""`cdm eval distribution`: how far sets of images lie from a reference, as a protocol card.

    fd    Fréchet distance of pooled features, and what chance alone would make it (its floor): FID with the Inception
          weights of 2015-12-05 and with no others; fd_lite0, fd_rn50, fd_dinov2, …
    sfid  the same of Inception's spatial features
    kid   kernel distance          is    score of the network's own classes          pr    precision, recall, density,
                                                                                           coverage

Several sets (a seed each), or equal blocks of one, give a mean over them with an interval. The Fréchet distance is
biased by the count of images in a block, so that is in the protocol; so are the settings that metrics take from it.
"""

import pathlib
import shutil

from cdm.evals import card, statistics
from cdm.evals.distribution import Moments, frechet, frechet_floor, inception_score, kid, precision_recall, principal
from cdm.evals.extract import extract
from cdm.evals.sets import ImageSet, same_size
from cdm.evals.statistics import Statistics
from cdm.evals.weights import SOURCES
from cdm.images.files import hold

PARTS = {"fd": "pool", "sfid": "spatial", "kid": "pool", "is": "logits", "pr": "pool"}
FRECHET, NEED_PICTURES = ("fd", "sfid"), ("kid", "pr")  # of the reference, whose statistics are enough for the others
K, SPLITS, SUBSETS, SUBSET, SEED = 3, 10, 100, 1000, 0


def names(extractor, pca=None):
    """{metric: what it is called}, for the features that it is of."""
    suffix = f"_{extractor.name}"
    if extractor.name == "inception" and extractor.sha256 == SOURCES["inception"].sha256:
        suffix = ""
    fd, sfid = ("fid", "sfid") if not (suffix or pca) else (f"fd_{extractor.name}", f"sfd_{extractor.name}")
    found = {metric: f"{metric}{suffix}" for metric in ("kid", "is", "precision", "recall", "density", "coverage")}
    return found | {name: f"{full}_pca{pca}" if pca else full for name, full in (("fd", fd), ("sfid", sfid))}


def measure(images, reference, out, extractor, size=None, blocks=1, pca=None, metrics=None, save=None):
    """Write the card `out` of the sets `images` beside `reference` (each a source, the reference also a file of
    statistics); returns it.

    `size`: make every image a square of this side. `blocks`: equal parts of one set. `pca`: Fréchet distances in so
    many directions, those of most variance in the reference. `metrics`: those above (default: all that there can be).
    `save`: a file for the reference's statistics. Features made before an interruption lie beside the card, in
    out.partial/, and are not made again.
    """
    out, known, real = pathlib.Path(out), None, None
    if save and not str(save).endswith(".npz"):
        raise ValueError(f"`statistics` (={save}) must end in .npz")
    sets = [ImageSet(spec, size) for spec in images]
    if statistics.is_statistics(reference):
        known = statistics.read(reference, extractor, sets[0].size)
        if save:
            raise ValueError(f"`statistics` (={save}) must be of images; `reference` (={reference}) has statistics")
    if known is None or statistics.has_images(reference):
        real = ImageSet(reference, size, "reference")
    same_size([*sets, *([real] if real else [])])
    widths = {part: row.shape[1] for part, row in extractor(sets[0].read(0)[None]).items()}
    chosen, n = _choose(metrics, widths, known, real), _block(sets, blocks)
    m = known.n if known else len(real)
    _enough(chosen, widths, pca, {f"`images` (={images[0]})": n, f"`reference` (={reference})": m})
    if known and not set(chosen) & set(NEED_PICTURES):
        real = None
    frechet_parts = {PARTS[metric] for metric in chosen if metric in FRECHET} | ({"pool"} if save else set())

    partial = out.with_name(f"{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    with hold(partial, "out"):
        try:
            found = [extract(one, extractor, partial, {PARTS[metric] for metric in chosen}) for one in sets]
            theirs = extract(real, extractor, partial, frechet_parts | {"pool"}) if real else None
            about = {"n": m, "sha256": known.sha256 if known else theirs.sha256}
            if known and theirs:
                about["images"] = {"n": len(theirs), "sha256": theirs.sha256}
            if not known:
                moments = {part: Moments(theirs.parts[part]) for part in sorted(frechet_parts)}
                known = Statistics({part: (x.mean, x.cov) for part, x in moments.items()}, m, theirs.sha256)
            if save:
                statistics.write(save, known, extractor, sets[0].size)
            settings = _settings(chosen, n, len(theirs) if theirs else n)
            parts = [{part: rows[start::blocks] for part, rows in features.parts.items()}
                     for features in found for start in range(blocks)]
            card.write(out, {
                "kind": "distribution",
                "protocol": {**statistics.protocol(extractor, sets[0].size), "n": n, "reference": about, "pca": pca,
                             **settings},
                "results": _results(parts, known, theirs, pca, settings, names(extractor, pca)),
                "about": {"images": [{"source": one.spec, "n": len(one), "sha256": features.sha256}
                                     for one, features in zip(sets, found)],
                          "blocks": blocks, "reference": str(reference), "square": sets[0].square}})
            shutil.rmtree(partial)
        finally:
            if partial.exists() and not any(partial.iterdir()):
                partial.rmdir()
    return card.read(out)


def _block(sets, blocks):
    """Images a block."""
    counts = {len(one) for one in sets}
    if len(counts) > 1:
        raise ValueError(f"`images` must be sets of one count, as distances depend on it; they have "
                         f"{', '.join(str(len(one)) for one in sets)}")
    if blocks > 1 and len(sets) > 1:
        raise ValueError(f"`blocks` (={blocks}) must go with one set; {len(sets)} are a block each")
    if len(sets[0]) % blocks:
        raise ValueError(f"`blocks` (={blocks}) must divide the {len(sets[0])} images in {sets[0].spec}")
    return len(sets[0]) // blocks


def _choose(metrics, widths, known, real):
    """The metrics that are asked for; ValueError for one that these features and this reference do not give."""
    possible = [metric for metric, part in PARTS.items() if part in widths
                and (real or metric not in NEED_PICTURES)
                and (known is None or metric not in FRECHET or part in known.moments)]
    for metric in metrics or ():
        if metric not in possible:
            raise ValueError(f"`metrics` (={metric}) must be among {', '.join(possible)} with these features and this "
                             "reference")
    return [metric for metric in possible if not metrics or metric in metrics]


def _enough(chosen, widths, pca, counts):
    """ValueError where there are too few images for a metric; `counts` {what they are: N or None}."""
    for metric in chosen:
        least, what, advice = {"kid": 2, "is": SPLITS, "pr": K + 1}.get(metric), metric, ""
        if metric in FRECHET:
            width = widths[PARTS[metric]]
            if pca and pca > width:
                raise ValueError(f"`pca` (={pca}) must be from 1 to the {width} features")
            least, what = (pca or width) + 1, f"the covariance of {pca or width} features"
            advice = ", and several times as many for a good one; --pca with less, or other --metrics, need fewer"
        for name, count in counts.items():
            if count is not None and count < least:
                raise ValueError(f"{name} must hold at least {least} images for {what}, not {count}{advice}")


def _settings(chosen, n, m):
    """What the metrics are to be told, by metric; `n` and `m` images."""
    size = min(SUBSET, n, m)
    every = {"kid": {"subsets": SUBSETS if size < max(n, m) else 1, "size": size, "seed": SEED},
             "is": {"splits": SPLITS, "seed": SEED}, "pr": {"k": K}}
    return {metric: every.get(metric, {}) for metric in chosen}


def _results(blocks, known, theirs, pca, settings, names):
    """{name: summary} of blocks of features {part: [N, D]} beside the reference's Statistics and Features."""
    found = {}
    for metric in FRECHET:
        if metric not in settings:
            continue
        part = PARTS[metric]
        mean, cov = known.moments[part]
        basis = principal(cov, pca) if pca else None

        def project(mean, cov):
            return (mean, cov) if basis is None else (mean @ basis, basis.T @ cov @ basis)

        moments = [Moments(block[part]) for block in blocks]
        found[names[metric]] = [frechet(*project(x.mean, x.cov), *project(mean, cov)) for x in moments]
        if known.n:
            found[f"{names[metric]}_floor"] = [frechet_floor(project(mean, cov)[1], moments[0].n, known.n)]
    if "kid" in settings:
        values = [kid(block["pool"], theirs.parts["pool"], **settings["kid"]) for block in blocks]
        found[names["kid"]], found[f"{names['kid']}_subset_std"] = zip(*values)
    if "is" in settings:
        values = [inception_score(block["logits"], **settings["is"]) for block in blocks]
        found[names["is"]], found[f"{names['is']}_split_std"] = zip(*values)
    if "pr" in settings:
        rows = [precision_recall(block["pool"], theirs.parts["pool"], **settings["pr"]) for block in blocks]
        found |= {names[name]: [row[name] for row in rows] for name in rows[0]}
    return {name: card.summary(values) for name, values in found.items()}
