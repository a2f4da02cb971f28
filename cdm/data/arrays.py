"""An .npz of arrays: images [N, H, W, 3], [N, H, W, 1] or [N, H, W] uint8, as `images` or, in ADM's sample batches,
`arr_0`; labels [N], integers or texts, as `labels` or `arr_1`, and file names [N] as `files`, if it has them.

Arrays are left on disk where the file stores them as they are (np.savez), and kept in memory where it has compressed
them.
"""

import zipfile

import numpy as np

from cdm.data.labels import number


def load(path, *names):
    """The first of the arrays `names` that an .npz has, or None."""
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in names if f"{name}.npy" in archive.namelist()), None)
        if name is None:
            return None
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            with archive.open(member) as f:
                return np.lib.format.read_array(f)
    with open(path, "rb") as f:
        f.seek(member.header_offset + 26)  # past the local header of the zip: 30 bytes, the name, an extra field
        f.seek(sum(np.frombuffer(f.read(4), "<u2").tolist()), 1)
        version = np.lib.format.read_magic(f)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(f)
        if dtype.hasobject or not np.prod(shape):
            raise ValueError(f"{name} is {list(shape)} {dtype}")
        return np.memmap(path, dtype, "r", f.tell(), shape, "F" if fortran else "C")


class Arrays:
    """The Source in an .npz. A class is named after its label."""

    checked = True

    def __init__(self, path):
        self._path = path
        try:
            images, labels, files = load(path, "images", "arr_0"), load(path, "labels", "arr_1"), load(path, "files")
        except (ValueError, EOFError, zipfile.BadZipFile) as e:  # also of objects, which would be pickled
            raise ValueError(f"`data.source` (={path}) must be an .npz of plain arrays: {e}") from e
        if images is None:
            raise ValueError(f"`data.source` (={path}) must hold an array `images` or `arr_0`")
        if images.ndim == 3:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
            raise ValueError(f"`data.source` (={path}) must hold images [N, H, W, 3], [N, H, W, 1] or [N, H, W] uint8, "
                             f"not {list(images.shape)} {images.dtype}")
        self._images, self.names = images, [str(i) for i in range(len(images))]
        if files is not None and files.shape == (len(images),) and files.dtype.kind == "U":
            self.names = files.tolist()
        self.labels, self.classes = np.zeros(len(images), np.int32), ()
        if labels is not None:
            if labels.shape != (len(images),) or labels.dtype.kind not in "iuU":
                raise ValueError(f"`data.source` (={path}) must hold labels [{len(images)}], integers or texts, not "
                                 f"{list(labels.shape)} {labels.dtype}")
            self.labels, self.classes = number(labels.tolist())

    def __reduce__(self):
        return Arrays, (self._path,)

    def __len__(self):
        return len(self._images)

    def read(self, i):
        return np.broadcast_to(self._images[i], (*self._images.shape[1:3], 3))
