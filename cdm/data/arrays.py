"""An .npz of arrays, kept in memory: images [N, H, W, 3], [N, H, W, 1] or [N, H, W] uint8, as `images` or, in ADM's
sample batches, `arr_0`; and labels [N], integers or texts, as `labels` or `arr_1`, if it has them."""

import zipfile

import numpy as np

from cdm.data.labels import number


class Arrays:
    """The Source in an .npz. A class is named after its label."""

    checked = True

    def __init__(self, path):
        self._path = path
        try:
            with np.load(path) as arrays:
                images = next((arrays[n] for n in ("images", "arr_0") if n in arrays), None)
                labels = next((arrays[n] for n in ("labels", "arr_1") if n in arrays), None)
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
