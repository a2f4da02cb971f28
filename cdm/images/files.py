"""Picture and JSON files and folders: whole or not at all (written beside, then renamed), by one process at a time."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import uuid

import numpy as np
from PIL import Image

from cdm.images.resize import to_uint8


class Unreadable(ValueError):
    """A file that is no picture, or a broken one, or one of a kind that is not read: its message follows a name."""


def _beside(path):
    """A name of its own for what will be `path`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


@contextlib.contextmanager
def writing(path):
    """What goes wrong in writing a file names it, as an error of opening one does; that of a full disk does not."""
    try:
        yield
    except OSError as e:
        if e.errno and e.filename is None:
            e.filename = str(path)
        raise


def replace(path, write):
    """Have `write(partial path)` make a file and give it the name `path`; nothing is left if it fails."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    try:
        with writing(path):
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
    partial = _beside(folder)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def hold(folder, argument):
    """Hold an existing folder against other processes; the system lets go of it when this one dies. Where folders can
    not be locked (NFS), a file in it is."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as e:
        raise ValueError(f"`{argument}` (={folder}) must be a folder that can be read: {e.strerror}") from e
    try:
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                os.close(handle)
                handle = os.open(pathlib.Path(folder) / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ValueError(f"`{argument}` (={folder}) must be written by one process at a time; "
                             "another one does") from e
        yield
    finally:
        os.close(handle)


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


@contextlib.contextmanager
def reading(folder, name, kind, version=None):
    """The JSON object `name` in a folder of this kind ("stage"); what goes wrong in reading or use is one line."""
    try:
        about = json.loads((pathlib.Path(folder) / name).read_text())
        if version is not None and about["schema_version"] != version:
            raise ValueError(f"schema_version is {about['schema_version']}, this version of cdm reads {version}")
        yield about
    except FileNotFoundError as e:
        missing = os.path.basename(e.filename or "a file")
        raise ValueError(f"`{kind}` (={folder}) must be a {kind} folder: {missing} is missing") from e
    except (NotADirectoryError, KeyError, AttributeError, TypeError, ValueError) as e:
        raise ValueError(f"`{kind}` (={folder}) is damaged: {type(e).__name__}: {' '.join(str(e).split())}") from e


def sha256(path):
    """Of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_json(path, value):
    """JSON, indented."""
    replace(path, lambda p: p.write_text(json.dumps(value, indent=2) + "\n"))
