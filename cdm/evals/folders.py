"""Folders of pictures that are paired by name, whatever the ending: real/cat/1.jpg and made/cat/1.png."""

import pathlib

from cdm.data.decode import SUFFIXES, decode, reason
from cdm.data.files import Folder


def pictures(folder, argument):
    """{name without its ending: path} of the pictures under a folder; `argument` is what errors call it."""
    if not pathlib.Path(folder).is_dir():
        raise ValueError(f"`{argument}` (={folder}) must be a folder of pictures")
    found = {}
    for name in map(pathlib.PurePath, Folder(folder).names):
        stem = str(name.with_suffix(""))
        if name.suffix.lower() in SUFFIXES:
            if stem in found:
                raise ValueError(f"`{argument}` (={folder}) must have one picture of a name; there are "
                                 f"{found[stem].name} and {name.name}")
            found[stem] = pathlib.Path(folder) / name
    if not found:
        raise ValueError(f"`{argument}` (={folder}) must be a folder of pictures; there are none in it")
    return found


def read(path, argument):
    """[H, W, 3] uint8 of a picture file."""
    try:
        return decode(path.read_bytes())
    except Exception as e:  # a decoder given a broken file may raise anything
        raise ValueError(f"`{argument}`: {path} can not be read ({reason(e)})") from e
