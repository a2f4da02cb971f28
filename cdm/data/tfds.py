"""A TFDS set prepared as ArrayRecord, read without TensorFlow.

    tfds:imagenet2012            NAME[/CONFIG][:VERSION] under TFDS_DATA_DIR or ~/tensorflow_datasets
    tfds:imagenet2012:validation …:SPLIT, in TFDS's terms; otherwise the split asked for
    tfds:/data/mnist/3.0.1       the folder of a prepared version

A label lies in its record beside the picture, so `labels` reads a record for each label asked for, and all of the set
when all are (class-balanced drawing): pack a large set first.
"""

import functools
import re

import numpy as np

from cdm.data.decode import decode
from cdm.data.threads import in_order


def _load(name, split):
    try:
        import tensorflow_datasets as tfds
    except ImportError as e:
        raise ValueError(f"`data.source` (=tfds:{name}) needs the extra [tfds]: pip install '.[tfds]' "
                         "or tensorflow-datasets") from e
    try:
        builder = tfds.builder_from_directory(name) if name.startswith(("/", ".", "~")) else tfds.builder(name)
        features = builder.info.features
        keys = [[key for key, feature in features.items() if isinstance(feature, kind)]
                for kind in (tfds.features.Image, tfds.features.ClassLabel)]
        if len(keys[0]) != 1 or len(keys[1]) > 1:
            raise ValueError(f"it must have one image and at most one label; it has {list(features)}")
        image, label = keys[0][0], next(iter(keys[1]), None)
        # The image as the file that it is: TFDS would decode with whatever it finds installed.
        return builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()}), features, image, label
    except Exception as e:  # of TFDS, each kind of absence has its own
        raise ValueError(f"`data.source` (=tfds:{name}) must be a set prepared as ArrayRecord with a split {split}: "
                         f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}") from e


class Tfds:
    """The Source of one split of a TFDS set."""

    checked = True

    def __init__(self, spec, split="train"):
        self._arguments = spec, split
        name, _, last = spec.rpartition(":")
        if not name or re.fullmatch(r"\d+\.\d+\.\d+|\d+\.\*\.\*", last):
            name, last = spec, split
        self._records, features, self._image, self._label = _load(name, last)
        self.classes = tuple(features[self._label].names) if self._label else ()
        self.names = [f"{last}/{i}" for i in range(len(self._records))]
        self.labels = Labels(self) if self._label else np.zeros(len(self), np.int32)
        self._record = functools.lru_cache(maxsize=64)(self._records.__getitem__)  # a picture's label comes after it

    def __reduce__(self):
        return Tfds, self._arguments

    def __len__(self):
        return len(self._records)

    def encoded(self, i, limit=-1):
        return self._record(int(i))[self._image]

    def read(self, i):
        return decode(self.encoded(i))

    def label(self, i):
        return int(self._record(int(i))[self._label])


class Labels:
    """The labels of a TFDS set as an array that is read where it is asked for."""

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return len(self._source)

    def __getitem__(self, i):
        if np.ndim(i):
            return np.array([self._source.label(j) for j in i], np.int32)
        return np.int32(self._source.label(i))

    def __array__(self, dtype=None, copy=None):
        return np.array(list(in_order(self._source.label, len(self))), dtype or np.int32)
