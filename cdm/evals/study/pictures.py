"""The pictures of a study, read from folders that are paired by name.

A picture of the real folder is paired with that of every other folder at the same place with the same name, whatever
its ending: real/cat/1.jpg and sr3/cat/1.png. Further pictures of the other folders are left out. All are of one size,
but for the low-res ones, which are of one size of their own and enlarged to that of the real ones by the one resize.
"""

import os
import pathlib

import numpy as np

from cdm.data.decode import SUFFIXES, decode, reason
from cdm.data.files import Folder
from cdm.images.resize import resize


def _index(folder, argument):
    """{name without ending: path} of the pictures under a folder."""
    if not os.path.isdir(folder):
        raise ValueError(f"`{argument}` (={folder}) must be a folder of pictures")
    found = {}
    for name in Folder(folder).names:
        stem, ending = os.path.splitext(name)
        if ending.lower() in SUFFIXES:
            if stem in found:
                raise ValueError(f"`{argument}` (={folder}) must have one picture of a name; "
                                 f"there are {found[stem].name} and {os.path.basename(name)}")
            found[stem] = pathlib.Path(folder) / name
    if not found:
        raise ValueError(f"`{argument}` (={folder}) must have pictures in it; there are none")
    return found


def _read(path, argument):
    try:
        return decode(path.read_bytes())
    except Exception as e:  # a decoder given a broken file may raise anything
        raise ValueError(f"`{argument}`: {path} can not be read ({reason(e)})") from e


class Folders:
    """`names` of the pictures, names of the `methods`, `size` (H, W), and what was done to the low-res pictures
    (`enlargement`, None without them); folders: {name of a method: folder}."""

    def __init__(self, real, folders, lowres=None):
        for name in folders:
            if not name.strip():
                raise ValueError(f"`methods` (={name}={folders[name]}) must be NAME=FOLDER")
        if not folders:
            raise ValueError("`methods` must name one method at least")
        self.methods, self.lowres, index = list(folders), lowres, _index(real, "real")
        self.names = sorted(index)
        self._paths = [("real", index)]
        self._paths += [(f"methods {name}", _index(folder, f"methods {name}")) for name, folder in folders.items()]
        if lowres is not None:
            self._paths.append(("lowres", _index(lowres, "lowres")))
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
        return _read(paths[self.names[i]], argument)

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
