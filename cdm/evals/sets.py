"""Sets of images to be measured: what `data.source` may be, read strictly. Nothing is skipped, replaced or resized
unseen: a picture that can not be read, or is of another size than the first, is an error.

A number depends on every image, so a set has a name that does too: `sha256` of the sorted hashes of their pixels, the
same however the set is stored, named and ordered.
"""

import hashlib
import os

import numpy as np

from cdm.data.decode import Unreadable, reason
from cdm.data.files import Folder
from cdm.data.reading import patiently, read_square
from cdm.data.sources import open_source
from cdm.data.squares import square
from cdm.data.threads import in_order


class ImageSet:
    """The images of a source: `names`, `labels`, `classes` of it; `size` [height, width], and `square`, how they came
    to it, in words."""

    def __init__(self, spec, size=None, argument="images", chosen=None, real=False):
        """`size`: make each picture a square of this side, the middle by the one resize; otherwise they must be of one
        size. `argument` is what errors call the set. `chosen`: the names of those that are in it, in their order.
        `real`: pictures of a shorter side than `size` are refused, see `real_square`."""
        self.spec, self._side, self._argument, self._real = str(spec), size, argument, real
        self.square = f"center to {size}" if size else None
        try:
            self._source = open_source(spec)
        except ValueError as e:
            raise ValueError(str(e).replace("`data.source`", f"`{argument}`")) from e
        self.names, self.classes = chosen or self._source.names, self._source.classes
        places = {name: i for i, name in enumerate(self._source.names)} if chosen else {}
        self._records = [places[name] for name in chosen] if chosen else range(len(self.names))
        self.size = None
        self.size = list(self.read(0).shape[:2])

    @property
    def labels(self):
        return np.asarray(self._source.labels)[self._records]

    def __len__(self):
        return len(self.names)

    def read(self, i):
        """Image i, [H, W, 3] uint8."""
        record = self._records[i]
        if self._real:
            return real_square(self._source, record, self._side, self._argument)
        try:
            if self._side:
                return read_square(self._source, record, self._side)
            image = self._source.read(record)
        except Exception as e:  # a decoder given a broken file may raise anything
            why = e.reason if isinstance(e, Unreadable) else Unreadable(self.names[i], e).reason
            raise ValueError(f"`{self._argument}` (={self.spec}): {self.names[i]} can not be read ({why})") from e
        if self.size and list(image.shape[:2]) != self.size:
            (height, width), (h, w) = self.size, image.shape[:2]
            raise ValueError(f"`{self._argument}` (={self.spec}) must hold images of one size, or `size` be given: "
                             f"{self.names[0]} is {width}x{height}, {self.names[i]} {w}x{h}")
        return image

    def batches(self, size, start=0):
        """Image `start` and those after it, in batches [B, H, W, 3]."""
        images = []
        for image in in_order(lambda i: self.read(start + i), len(self) - start):
            images.append(image)
            if len(images) == size:
                yield np.stack(images)
                images = []
        if images:
            yield np.stack(images)


    def state(self):
        """The `state` of the files that the images lie in; None where those are not known."""
        paths = [os.path.join(self.spec, name) for name in self.names]
        if not os.path.exists(paths[0]):  # records of files of other names, or in one
            whole = os.path.isdir(self.spec)
            paths = [os.path.join(self.spec, name) for name in Folder(self.spec).names] if whole else [self.spec]
        return state(paths) if os.path.exists(paths[0]) else None


def state(paths):
    """A digest of what files are: another if one of them was written since."""
    stats = [(str(path), (of := os.stat(path)).st_size, of.st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def real_square(source, i, size, argument, how="center"):
    """Record i of a source at [size, size, 3] uint8 (see cdm.data.squares), never enlarged: that would be no real
    picture of this size."""
    try:
        image = patiently(lambda: source.read(i))
    except Exception as e:  # a decoder given a broken file may raise anything
        raise ValueError(f"`{argument}`: {source.names[i]} can not be read ({reason(e)})") from e
    if min(image.shape[:2]) < size:
        raise ValueError(f"`{argument}`: {source.names[i]} must have sides of at least {size} pixels, not "
                         f"{image.shape[1]}x{image.shape[0]}")
    return square(image, size, how, 0.5)


def same_size(sets):
    """ValueError unless all sets are of the size of the first."""
    for one in sets[1:]:
        if one.size != sets[0].size:
            raise ValueError(f"`size` must be given for images of several sizes: {sets[0].spec} has "
                             f"{sets[0].size[1]}x{sets[0].size[0]}, {one.spec} {one.size[1]}x{one.size[0]}")


def about(images):
    """What a card says of a set: how many images, and its name."""
    found = digests(images)
    return {"n": len(found), "sha256": sha256(found)}


def digests(images):
    """[B, 32] uint8: the SHA-256 of the pixels of each, which may be an iterator's."""
    return np.stack([np.frombuffer(hashlib.sha256(np.ascontiguousarray(image)).digest(), np.uint8) for image in images])


def sha256(digests):
    """The name of the set of images with these digests [N, 32]."""
    return hashlib.sha256(b"".join(sorted(row.tobytes() for row in digests))).hexdigest()
