"""How far pictures are from real ones, from few of them, with an error: what the report and the search compare by.

The kernel distance of Binkowski et al. 2018 (KID) over all pictures at once, unbiased at any number of them, with the
kernel k(x, y) = (x.y / D + 1)^3 of features [N, D]:

    d(X, Y) = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),   x != x', y != y'                              (1)

and its error by the jackknife over B blocks of X, d_b the distance without block b:

    error^2 = (B - 1) / B sum_b (d_b - mean d)^2                                                              (2)

Pictures i of two sets that were made from the same input lie in the same block, so eq. 2 also tells the error of a
difference or a ratio of their distances.
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from cdm.data.reading import read_square
from cdm.evals.distribution import kernel, within
from cdm.images.files import replace
from cdm.stage import slug

BLOCKS = 10
BATCH = 32  # pictures a call of the extractor


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
    """The Estimate of eq. 1 for x [N, D] and y [M, D], N of at least 2 BLOCKS; `within_y` saves its second term."""
    if len(x) < 2 * BLOCKS:
        raise ValueError(f"`n`: a distance takes at least {2 * BLOCKS} pictures, not {len(x)}")
    within_y = within(y) if within_y is None else within_y
    inside, across = kernel(x, x), kernel(x, y).mean(axis=1)
    np.fill_diagonal(inside, 0)

    def distance(kept):
        n = kept.sum()
        return inside[np.ix_(kept, kept)].sum() / (n * (n - 1)) + within_y - 2 * across[kept].mean()

    block = np.arange(len(x)) % BLOCKS
    return Estimate(distance(np.ones(len(x), bool)), np.array([distance(block != b) for b in range(BLOCKS)]))


class Real:
    """n real pictures of each class of a cascade, or n of all without classes, taken evenly from a source."""

    def __init__(self, source, classes, n):
        names, own = [slug(name) for name in source.classes], [slug(name) for name in classes]
        if classes and sorted(names) != sorted(own):
            raise ValueError(f"`data` must have the classes of the cascade ({', '.join(classes)}), not "
                             f"{', '.join(source.classes) or 'none'}")
        self.source, self.n, self.records = source, n, {}
        labels = np.asarray(source.labels)
        for label, name in enumerate(own or ["sample"]):
            members = np.flatnonzero(labels == names.index(name)) if own else np.arange(len(source))
            if len(members) < n:
                raise ValueError(f"`n` (={n}) must be at most the {len(members)} pictures of {name} in `data`")
            self.records[label] = members[np.linspace(0, len(members) - 1, n).astype(int)]

    def pairs(self):
        """(label, count) of every picture, the counts outside: every block of eq. 2 has all classes."""
        return [(label, count) for count in range(self.n) for label in self.records]

    def read(self, label, count, size):
        """[size, size, 3] uint8."""
        return read_square(self.source, int(self.records[label][count]), size)


class Scorer:
    """Distances from the pictures of a source, in the features of one extractor. Features of the reference at each size
    are kept in `folder`."""

    def __init__(self, extractor, source, folder):
        self.extractor, self.source = extractor, source
        self._folder, self._reference = pathlib.Path(folder), {}

    @property
    def protocol(self):
        """What a card says of it."""
        return {"metric": f"kernel distance (KID over all pictures), {self.extractor.name}",
                "extractor_sha256": self.extractor.sha256, "resize": self.extractor.resize,
                "reference_pictures": len(self.source)}

    def features(self, count, read):
        """[count, D] of the pictures that `read(i)` gives, [H, W, 3] uint8."""
        found = []
        for begin in range(0, count, BATCH):
            images = np.stack([read(i) for i in range(begin, min(begin + BATCH, count))])
            found.append(self.extractor(images)["pool"])
        return np.concatenate(found).astype(np.float64)

    def reference(self, size):
        """(features [M, D], their eq. 1 term) of the source at `size`."""
        if size not in self._reference:
            path = self._folder / f"reference_{self.extractor.name}_{size}.npy"
            if path.exists():
                found = np.load(path)
            else:
                found = self.features(len(self.source), lambda i: read_square(self.source, i, size))
                replace(path, lambda p: _save(p, found))
            self._reference[size] = found, within(found)
        return self._reference[size]

    def distance(self, features, size):
        """The Estimate of features of pictures at `size`."""
        return kernel_distance(features, *self.reference(size))


def _save(path, array):
    with open(path, "wb") as f:
        np.save(f, array)


def agree(path, about, argument):
    """Write what a work folder is for into a new one, or check that an old one is for the same."""
    path = pathlib.Path(path)
    about = json.loads(json.dumps(about))
    if path.exists():
        old = json.loads(path.read_text())
        differ = sorted(name for name in old.keys() | about.keys() if old.get(name) != about.get(name))
        if differ:
            raise ValueError(f"`{argument}` (={path.parent}) holds work with other arguments; these differ: "
                             f"{', '.join(differ)}")
    else:
        replace(path, lambda p: p.write_text(json.dumps(about, indent=2) + "\n"))
