"""The features of a set of images, kept on disk while they are made: FOLDER/<key>/

    pool.npy, logits.npy, spatial.npy   [N, …] float32, what is asked for of what the extractor finds
    digests.npy                         [N, 32] uint8, the hash of each image's pixels
    progress.json                       how many rows are whole: written after they are

`key` tells the set and the extractor from others, so that what was stopped goes on, and what is asked for otherwise
begins anew. Nothing of N images is in memory, and the arrays are read where they lie.
"""

import hashlib
import json
import pathlib
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cdm.evals.sets import digests, sha256
from cdm.images.files import write_json

BATCH = 128  # images between two notes of progress


class Features(NamedTuple):
    """`parts` {"pool": [N, dim], …} and the digests [N, 32] of the images, on disk."""

    parts: dict
    digests: np.ndarray

    def __len__(self):
        return len(self.digests)

    @property
    def sha256(self):
        """The name of the set."""
        return sha256(self.digests)


def extract(images, extractor, folder, parts=("pool",)):
    """The Features of an ImageSet: these parts. Rows that the folder holds are not made again."""
    parts = sorted(parts)
    place = pathlib.Path(folder) / _key(images, extractor, parts)
    progress = place / "progress.json"
    done = json.loads(progress.read_text())["rows"] if progress.exists() else 0
    arrays = {path.stem: np.load(path, mmap_mode="r+") for path in place.glob("*.npy")} if done else {}
    with tqdm(total=len(images), initial=done, unit="img", dynamic_ncols=True, disable=None, desc=images.spec) as bar:
        for batch in images.batches(BATCH, done):
            found = extractor(batch)
            rows = {part: found[part] for part in parts} | {"digests": digests(batch)}
            place.mkdir(parents=True, exist_ok=True)
            for part, values in rows.items():
                bad = ~np.isfinite(values).all(axis=1)
                if bad.any():
                    raise ValueError(f"`features` (={extractor.name}) must be finite; of {images.spec}: "
                                     f"{images.names[done + bad.argmax()]} they are not")
                if part not in arrays:
                    arrays[part] = np.lib.format.open_memmap(place / f"{part}.npy", "w+", values.dtype,
                                                             (len(images), *values.shape[1:]))
                arrays[part][done : done + len(batch)] = values
                arrays[part].flush()
            done += len(batch)
            write_json(progress, {"rows": done})
            bar.update(len(batch))
    return Features({part: arrays[part] for part in parts}, arrays["digests"])


def _key(images, extractor, parts):
    """What the rows depend on."""
    about = [images.spec, images.state(), images.size, images.names, extractor.name, extractor.sha256, extractor.resize,
             parts]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
