"""Restored pictures in a folder beside the real ones in another, paired by file name without its ending."""

import hashlib
import pathlib

from cdm.data.decode import SUFFIXES, decode, reason
from cdm.data.files import Folder
from cdm.evals import restoration, rows
from cdm.images.resize import resize, to_float


def measure_pairs(images, reference, out, protocols=("rgb",), scale=None, distance=None):
    """The card of the pictures in the folder `images`; their rows go beside the card file `out`.

    With a `scale` the low-res pictures of consistency and colour drift are made of the reference. ValueError for a
    picture without a partner, another size than its partner's, or sides that the scale does not divide.
    """
    ours, theirs = _pictures(images, "images"), _pictures(reference, "reference")
    for name in sorted(ours.keys() ^ theirs.keys()):
        lacking, argument = (reference, "reference") if name in ours else (images, "images")
        raise ValueError(f"`{argument}` (={lacking}) must have a partner for every picture: {name} is missing, "
                         f"1 of {len(ours.keys() ^ theirs.keys())}")
    names = sorted(ours)

    def measure(part):
        found = []
        for name in names[part.start : part.stop]:
            image, real = _read(ours[name], "images"), _read(theirs[name], "reference")
            if image.shape != real.shape:
                raise ValueError(f"`images` (={images}) must have the sizes of the reference: {name} is "
                                 f"{_size(image)} there and {_size(real)} here")
            lowres = None
            if scale:
                height, width = real.shape[:2]
                if height % scale or width % scale:
                    raise ValueError(f"`scale` (={scale}) must divide the sides of every picture: {name} is "
                                     f"{_size(real)}")
                lowres = resize(to_float(real), (height // scale, width // scale))
            try:
                measured = restoration.measures(image, real, protocols, scale, lowres, distance)
            except ValueError as e:
                raise ValueError(f"{name}: {e}") from e
            found.append({"name": name, "measures": measured})
        return found

    protocol = {**restoration.about(protocols, scale, distance), "reference": str(reference), "count": len(names)}
    asked = {"protocol": protocol, "images": str(images), "files": _state([*ours.values(), *theirs.values()])}
    found = rows.collect(pathlib.Path(out).with_suffix(".rows.jsonl"), asked, len(names), 1, measure)
    results, infinite = restoration.results([row["measures"] for row in found])
    return {"kind": "restoration", "protocol": protocol, "results": results,
            "about": {"images": str(images), "names": names, "infinite": infinite}}


def _pictures(folder, argument):
    """{name without its ending: path} of the pictures in a folder."""
    if not pathlib.Path(folder).is_dir():
        raise ValueError(f"`{argument}` (={folder}) must be a folder of pictures")
    found = {}
    for name in Folder(folder).names:
        stem, suffix = str(pathlib.PurePath(name).with_suffix("")), pathlib.PurePath(name).suffix
        if suffix.lower() in SUFFIXES:
            if stem in found:
                raise ValueError(f"`{argument}` (={folder}) must have one picture of each name: {stem} is there twice")
            found[stem] = pathlib.Path(folder) / name
    if not found:
        raise ValueError(f"`{argument}` (={folder}) must be a folder of pictures; there is none in it")
    return found


def _read(path, argument):
    try:
        return decode(path.read_bytes())
    except Exception as e:  # a decoder given a broken file may raise anything
        raise ValueError(f"`{argument}`: {path} can not be read ({reason(e)})") from e


def _state(paths):
    """A digest of what the files are: another if one of them is written anew."""
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def _size(image):
    return f"{image.shape[1]}x{image.shape[0]}"
