"""Statistics of a reference set in an .npz, in the arrays that the field uses: mu [D] and sigma [D, D], and of spatial
features mu_s and sigma_s, float64. Ours have besides

    n           how many images              protocol    JSON: what the features are of and the images' sha256

ADM's reference batches (Dhariwal & Nichol 2021) have none of these; they are of Inception's features, and hold images
as `arr_0`, of which the metrics that need more than moments are made.
"""

import hashlib
import json
import zipfile
from typing import NamedTuple

import numpy as np

from cdm.images.files import replace

ARRAYS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


class Statistics(NamedTuple):
    """Mean and covariance by part, and where they come from; n and sha256 are None where a file does not say."""

    moments: dict
    n: int | None
    sha256: str | None


def is_statistics(path):
    """Whether there is such a file at `path`."""
    return {"mu.npy", "sigma.npy"} <= _members(path)


def has_images(path):
    """Whether a file of statistics holds images too."""
    return "arr_0.npy" in _members(path)


def _members(path):
    if not str(path).lower().endswith(".npz") or not zipfile.is_zipfile(path):
        return set()
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def protocol(extractor, size):
    """What features are of: the network, its input, the side of the images [height, width]."""
    return {"features": extractor.name, "weights": extractor.sha256, "resize": extractor.resize, "size": size}


def write(path, statistics, extractor, size):
    """Write Statistics; the file is whole or not there."""
    about = {**protocol(extractor, size), "sha256": statistics.sha256}
    arrays = {name: value for part, moments in statistics.moments.items()
              for name, value in zip(ARRAYS[part], moments)}

    def save(partial):
        with open(partial, "wb") as f:  # np.savez would add an ending to a name
            np.savez(f, **arrays, n=statistics.n, protocol=json.dumps(about))

    replace(path, save)


def read(path, extractor, size):
    """The Statistics at `path`; ValueError names the field of the protocol in which they are of other features."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name not in ("arr_0", "arr_1")}
        about = json.loads(str(arrays["protocol"])) if "protocol" in arrays else None
        moments = {part: tuple(np.asarray(arrays[name], np.float64) for name in names)
                   for part, names in ARRAYS.items() if names[0] in arrays}
        for mean, cov in moments.values():
            if cov.shape != (*mean.shape, *mean.shape) or not (np.isfinite(mean).all() and np.isfinite(cov).all()):
                raise ValueError(f"mean {list(mean.shape)} and covariance {list(cov.shape)} must fit and be finite")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise ValueError(f"`reference` (={path}) must be a whole file of statistics: {type(e).__name__}: {e}") from e
    if about is None:
        if extractor.name != "inception":
            raise ValueError(f"`features` (={extractor.name}) must be inception for the statistics in {path}")
        arrays = [array for pair in moments.values() for array in pair]
        return Statistics(moments, None, hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest())
    for name, value in protocol(extractor, size).items():
        if about.get(name) != value:
            raise ValueError(f"`reference` (={path}) must be statistics of the same {name}; theirs is "
                             f"{about.get(name)}, not {value}")
    return Statistics(moments, int(arrays["n"]), about["sha256"])
