"""How far pictures are from real ones, from few of them, with an error: what the report and the search compare by.

The kernel distance of Binkowski et al. 2018 (KID) over all pictures at once, unbiased at any number of them, with the
kernel k(x, y) = (x.y / D + 1)^3 of features [N, D]:

    d(X, Y) = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),   x != x', y != y'                              (1)

and its error by the jackknife over B blocks of X, d_b the distance without block b:

    error^2 = (B - 1) / B sum_b (d_b - mean d)^2                                                              (2)

Pictures i of two sets that were made from the same input lie in the same block, so eq. 2 also tells the error of a
difference or a ratio of their distances.
"""

from typing import NamedTuple

import numpy as np

from cdm.evals import statistics
from cdm.evals.distribution import kernel, tiles, within
from cdm.evals.extract import extract
from cdm.evals.sets import ImageSet
from cdm.stage import slug

BLOCKS = 10
LEAST = 2 * BLOCKS  # pictures of a distance


class Estimate(NamedTuple):
    """A distance, and those without a block each, [BLOCKS]."""

    value: float
    without: np.ndarray

    @property
    def error(self):
        """Eq. 2."""
        return jackknife(self.without)


def jackknife(without):
    """Eq. 2 of the values without a block each."""
    return float(np.sqrt((len(without) - 1) * np.var(without)))


def kernel_distance(x, y, within_y=None):
    """The Estimate of eq. 1 for x [N, D] and y [M, D], N of at least LEAST; `within_y` saves its second term."""
    if len(x) < LEAST:
        raise ValueError(f"`n`: a distance takes at least {LEAST} pictures, not {len(x)}")
    within_y = within(y) if within_y is None else within_y
    member = np.eye(BLOCKS)[np.arange(len(x)) % BLOCKS]  # [N, BLOCKS]
    inside, across, counts = np.zeros((BLOCKS, BLOCKS)), np.zeros(BLOCKS), member.sum(0)  # sums by block
    for i, rows in tiles(x):
        own = member[i : i + len(rows)].T
        for j, others in tiles(x):
            k = kernel(rows, others)
            if i == j:
                np.fill_diagonal(k, 0)
            inside += own @ k @ member[j : j + len(others)]
        for _, others in tiles(y):
            across += own @ kernel(rows, others).sum(1)

    def distance(kept):
        n = counts[kept].sum()
        return inside[np.ix_(kept, kept)].sum() / (n * (n - 1)) + within_y - 2 * across[kept].sum() / (n * len(y))

    every = np.arange(BLOCKS)
    return Estimate(distance(every), np.array([distance(every != b) for b in every]))


def check_finished(stages, settings):
    """ValueError if one of these stages takes its input unfinished, so that it has none of pictures."""
    for stage, own in zip(stages, settings):
        if own.hand_over == "truncated":
            raise ValueError(f"`hand_over` (=truncated) of {stage.name} must be non_truncated: its input is to be "
                             "finished pictures, real ones or those that all candidates are given")


class Real:
    """n real pictures of each class of a cascade, or n of all without classes, taken evenly from a source."""

    def __init__(self, spec, classes, n):
        self.spec, self.n = str(spec), n
        source = ImageSet(spec, argument="data")
        names, own = [slug(name) for name in source.classes], [slug(name) for name in classes]
        if classes and sorted(names) != sorted(own):
            raise ValueError(f"`data` must have the classes of the cascade ({', '.join(classes)}), not "
                             f"{', '.join(source.classes) or 'none'}")
        self.of, self.labels, records = len(source), range(len(own) or 1), {}
        for label, name in enumerate(own or ["sample"]):
            members = np.flatnonzero(source.labels == names.index(name)) if own else np.arange(len(source))
            if len(members) < n:
                raise ValueError(f"`n` (={n}) must be at most the {len(members)} pictures of {name} in `data`")
            records[label] = members[np.linspace(0, len(members) - 1, n).astype(int)]
        # The counts outside: every block of eq. 2 has all classes.
        self.pairs = [(label, count) for count in range(n) for label in self.labels]
        self.names = [source.names[records[label][count]] for label, count in self.pairs]

    def at(self, size):
        """The ImageSet of them at a size, in the order of `pairs`, which are (label, count)."""
        return ImageSet(self.spec, size, "data", self.names, real=True)


class Scorer:
    """Distances from the real pictures of a source, at several sizes, in the features of one extractor. Features are
    kept in `folder`, those of the source made at once; `argument` is what errors call it."""

    def __init__(self, extractor, spec, sizes, folder, argument="reference"):
        self.extractor, self._folder, self._spec = extractor, folder, str(spec)
        sets = {size: ImageSet(spec, size, argument, real=True) for size in sizes}
        self._reference = {size: self.features(one) for size, one in sets.items()}
        if len(next(iter(sets.values()))) < 2:
            raise ValueError(f"`{argument}` (={spec}) must hold at least 2 pictures")
        self._within = {}

    @property
    def protocol(self):
        """What a card says of it."""
        return {"metric": "kernel distance (KID over all pictures)",
                **statistics.protocol(self.extractor, list(self._reference)),
                "reference": about(self._spec, self._reference)}

    def features(self, images):
        """The Features of an ImageSet."""
        return extract(images, self.extractor, self._folder)

    def distance(self, images):
        """The Estimate of an ImageSet of one of the sizes."""
        size, x = images.size[0], self.features(images).parts["pool"]
        y = self._reference[size].parts["pool"]
        if size not in self._within:
            self._within[size] = within(y)
        return kernel_distance(x, y, self._within[size])


def about(spec, features):
    """What a card says of a set of pictures whose Features at several sizes are {size: Features}."""
    return {"source": spec, "n": len(next(iter(features.values()))),
            "sha256": {str(size): of.sha256 for size, of in features.items()}}
