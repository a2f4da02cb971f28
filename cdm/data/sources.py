"""Sources of images: the embedded Fluent Emoji 3D set, and a folder of class folders.

A Source is random access: `len`, `classes` (names), `labels` ([N] int32), `names` (of its files), and `read(i)`, one
image as [H, W, 3] uint8 RGB. Transparency is composited on white.
"""

import functools
import importlib.resources
import io
import json
import pathlib
import zipfile

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cdm.images.resize import resize

EMBEDDED = "fluent_emoji"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def decode(data):
    """Bytes of an image file as [H, W, 3] uint8 RGB: turned as its EXIF says, composited on white."""
    with Image.open(io.BytesIO(data)) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits, which Pillow would clip, not scale
            return np.repeat((np.asarray(image)[..., None] / 257).round().clip(0, 255).astype(np.uint8), 3, axis=2)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert("RGB"))


class FluentEmoji:
    """The embedded set (Fluent Emoji 3D, Microsoft, MIT; built by experiments/fluent_emoji): 256x256, four of them
    256x264, labelled by Unicode group; `splits` are train, heldout (every tenth emoji, all its skin tones) and all."""

    splits = ("train", "heldout", "all")

    def __init__(self, split="train"):
        self._zip = zipfile.ZipFile(importlib.resources.files("cdm.data") / "fluent_emoji.zip")
        index = json.loads(self._zip.read("index.json"))
        self.classes = tuple(index["classes"])
        images = [i for i in index["images"] if split in ("all", i["split"])]
        self.names = [i["file"] for i in images]
        self.subgroups = [i["subgroup"] for i in images]
        self.labels = np.array([self.classes.index(i["group"]) for i in images], np.int32)

    def __len__(self):
        return len(self.names)

    def read(self, i):
        return decode(self._zip.read(self.names[i]))


class Folder:
    """A folder with one sub-folder of images a class, named after it, in sorted order."""

    splits = ("train", "all")

    def __init__(self, path, split="train"):
        path = pathlib.Path(path)
        if not path.is_dir():
            raise ValueError(f"`data.source` (={path}) must be {EMBEDDED!r} or a folder of class folders")
        self._path = path
        self.classes = tuple(sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")))
        self.names, labels = [], []
        for label, name in enumerate(self.classes):
            found = sorted(p.relative_to(path).as_posix() for p in (path / name).rglob("*")
                           if p.suffix.lower() in SUFFIXES)
            self.names += found
            labels += [label] * len(found)
        if not self.names:
            raise ValueError(f"`data.source` (={path}) must hold class folders with images; it has none")
        self.labels = np.array(labels, np.int32)

    def __len__(self):
        return len(self.names)

    def read(self, i):
        return decode((self._path / self.names[i]).read_bytes())


def open_source(spec, split="train"):
    """The Source that `spec` names: "fluent_emoji" or the path of a folder of class folders."""
    kind = FluentEmoji if spec == EMBEDDED else functools.partial(Folder, spec)
    known = FluentEmoji.splits if spec == EMBEDDED else Folder.splits
    if split not in known:
        raise ValueError(f"`split` (={split}) of {spec} must be one of {', '.join(known)}")
    return kind(split=split)


def square(image, size):
    """The centre square of [H, W, 3] uint8 at [size, size, 3] uint8, by the one resize."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    image = image[top : top + side, left : left + side]
    if side == size:
        return image
    return np.clip(np.round(resize(image, size)), 0, 255).astype(np.uint8)


def read_square(source, i, size):
    """Record i of a source at [size, size, 3] uint8; an unreadable file is a ValueError that names it."""
    try:
        return square(source.read(i), size)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, zipfile.BadZipFile,
            Image.DecompressionBombError) as e:
        raise ValueError(f"`data.source`: {source.names[i]} can not be read ({type(e).__name__})") from e
