"""The pictures of a study, read from folders that are paired by name.

A picture of the real folder is paired with that of every other folder at the same place with the same name, whatever
its ending: real/cat/1.jpg and sr3/cat/1.png. Further pictures of the other folders are left out. All are of one size,
but for the low-res ones, which are of one size of their own and enlarged to that of the real ones by the one resize.
"""

import numpy as np

from cdm.evals import folders as files
from cdm.images.resize import resize


class Folders:
    """`names` of the pictures, names of the `methods`, `size` (H, W), and what was done to the low-res pictures
    (`enlargement`, None without them); folders: {name of a method: folder}."""

    def __init__(self, real, folders, lowres=None):
        for name in folders:
            if not name.strip():
                raise ValueError(f"`methods` (={name}={folders[name]}) must be NAME=FOLDER")
        if not folders:
            raise ValueError("`methods` must name one method at least")
        self.methods, self.lowres, index = list(folders), lowres, files.pictures(real, "real")
        self.names = sorted(index)
        self._paths = [("real", index)]
        self._paths += [(f"methods {name}", files.pictures(folder, f"methods {name}"))
                        for name, folder in folders.items()]
        if lowres is not None:
            self._paths.append(("lowres", files.pictures(lowres, "lowres")))
        for argument, other in self._paths:
            if missing := [name for name in self.names if name not in other]:
                raise ValueError(f"`{argument}` must have a picture of every name in {real}; {len(missing)} are "
                                 f"missing, the first is {missing[0]}")
        self.size = self._picture(0, 0).shape[:2]
        self.enlargement = None
        if lowres is not None:
            self._small = self._picture(0, -1).shape[:2]
            self.enlargement = "{}x{}, bicubic (a = -0.5) to {}x{}".format(*self._small, *self.size)

    def __len__(self):
        return len(self.names)

    def _picture(self, i, version):
        argument, paths = self._paths[version]
        return files.read(paths[self.names[i]], argument)

    def versions(self, i):
        """Picture i: the real one, every method's and, if there is one, the low-res one; [versions, H, W, 3] uint8."""
        out = []
        for version, (argument, paths) in enumerate(self._paths):
            image = self._picture(i, version)
            size = self._small if argument == "lowres" else self.size
            if image.shape[:2] != size:
                raise ValueError(f"`{argument}`: {paths[self.names[i]]} must be {size[0]}x{size[1]} (height x width) "
                                 f"as the others, not {image.shape[0]}x{image.shape[1]}")
            if argument == "lowres":
                image = resize(image, self.size).round().clip(0, 255).astype(np.uint8)
            out.append(image)
        return np.stack(out)
