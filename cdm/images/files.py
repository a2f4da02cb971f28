"""Picture and JSON files: whole or not at all (written beside, then renamed)."""

import contextlib
import json
import os
import pathlib
import shutil

import numpy as np
from PIL import Image

from cdm.images.resize import to_uint8


def replace(path, write):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder):
    """A folder to fill under another name; it gets its own when all went well, and is gone when not."""
    folder = pathlib.Path(folder)
    if folder.exists():
        raise ValueError(f"`out` (={folder}) must not exist yet")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_image(path, image):
    """[H, W, 3] in [-1, 1] as PNG."""
    replace(path, lambda p: Image.fromarray(to_uint8(np.asarray(image))).save(p, format="png"))


def write_grid(path, images):
    """[rows, columns, H, W, 3] in [-1, 1] as one PNG."""
    rows, columns, height, width, channels = images.shape
    write_image(path, np.swapaxes(images, 1, 2).reshape(rows * height, columns * width, channels))


def read_image(path):
    """[H, W, 3] uint8 RGB of a picture this project wrote."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def write_json(path, value):
    replace(path, lambda p: p.write_text(json.dumps(value, indent=2) + "\n"))
