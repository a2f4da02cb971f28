"""Sources of images, by the `data.source` that names them.

    fluent_emoji[:SPLIT]     the embedded Fluent Emoji 3D set
    tfds:NAME[:SPLIT]        TensorFlow Datasets, prepared as ArrayRecord (extra [tfds])
    FILE.npz                 arrays
    FOLDER                   a pack, what `cdm sample` wrote, or pictures: in class folders, beside a table of labels,
                             or without labels
    FILE.zip, FILE.tar       an archive of such a folder; ImageNet's tars as they are

A Source is random access, from any thread: `len`, `classes` (names; () without labels), `labels` ([N] int32; zeros
without labels), `names` (of its records), and `read(i)`, one image as [H, W, 3] uint8 RGB. Where records are picture
files, `encoded(i, limit=-1)` is the bytes of one, or the first `limit` of them. `checked` says that
records need no look before training; where they do, `check(i)` raises what a header tells is wrong.
"""

import importlib.resources
import json
import pathlib
import zipfile

import numpy as np

from cdm.data.arrays import Arrays
from cdm.data.decode import check_header, decode
from cdm.data.files import open_files
from cdm.data.labels import SAMPLES, TABLES, label, samples
from cdm.data.packs import Pack, is_pack

EMBEDDED = "fluent_emoji"


class FluentEmoji:
    """The embedded set (Fluent Emoji 3D, Microsoft, MIT; built by experiments/fluent_emoji): 256x256, four of them
    256x264, labelled by Unicode group; `splits` are train, heldout (every tenth emoji, all its skin tones) and all."""

    checked = True
    splits = ("train", "heldout", "all")

    def __init__(self, split="train"):
        self._split = split
        self._zip = zipfile.ZipFile(importlib.resources.files("cdm.data") / "fluent_emoji.zip")
        index = json.loads(self._zip.read("index.json"))
        self.classes = tuple(index["classes"])
        images = [i for i in index["images"] if split in ("all", i["split"])]
        self.names = [i["file"] for i in images]
        self.subgroups = [i["subgroup"] for i in images]
        self.labels = np.array([self.classes.index(i["group"]) for i in images], np.int32)

    def __reduce__(self):
        return FluentEmoji, (self._split,)

    def __len__(self):
        return len(self.names)

    def read(self, i):
        return decode(self._zip.read(self.names[i]))


class Pictures:
    """Picture files in a folder, a zip or a tar, labelled by class folders, by a table, or not at all; `others` are the
    files beside them that are not in the set."""

    checked = False

    def __init__(self, path):
        self._files = open_files(path)
        self.names, self.labels, self.classes = label(self._files, path)
        known = {*self.names, *TABLES}
        self.others = [name for name in self._files.names if name not in known]

    def __len__(self):
        return len(self.names)

    def encoded(self, i, limit=-1):
        return self._files.read(self.names[i], limit)

    def check(self, i):
        """`check_header` of a record."""
        return check_header(lambda limit: self.encoded(i, limit))

    def read(self, i):
        return decode(self.encoded(i))


def open_source(spec, split="train"):
    """The Source that `spec` names; `split` is of the embedded set or a TFDS set whose spec names none, the others are
    all one split."""
    spec, splits = str(spec), ("train", "all")
    if spec.startswith("tfds:"):
        from cdm.data.tfds import Tfds  # an extra

        return Tfds(spec.removeprefix("tfds:"), split)
    if spec.split(":")[0] == EMBEDDED:
        spec, _, own = spec.partition(":")
        split, splits = own or split, FluentEmoji.splits
    if split not in splits:
        raise ValueError(f"`split` (={split}) of {spec} must be one of {', '.join(splits)}")
    if spec == EMBEDDED:
        return FluentEmoji(split)
    try:
        if is_pack(spec):
            return Pack(spec)
        about = pathlib.Path(spec) / SAMPLES
        if about.is_file() and (ending := samples(about.read_bytes(), spec)["format"]) != "png":
            spec = str(about.with_name(f"samples.{ending}"))
        return Arrays(spec) if spec.lower().endswith(".npz") else Pictures(pathlib.Path(spec))
    except OSError as e:
        raise ValueError(f"`data.source` (={spec}) must be readable: {e.strerror or e}") from e
