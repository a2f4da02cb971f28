"""Arrays in other people's weight files, read with NumPy alone.

    .pth    a state dict of PyTorch, in the zip or the older format: {name: array}
    .ckpt   a pickled nested dict of NumPy arrays
    .tgz    an npm package that holds a tfjs layers model: {name: array}

A pickle is a program. This reader knows the few names that arrays are made of, and refuses any other before it runs.
"""

import collections
import io
import json
import math
import pathlib
import pickle
import tarfile
import zipfile
from typing import NamedTuple

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class _Storage:
    """The flat numbers that tensors are views of; the older format has them after the tensors."""

    def __init__(self, dtype, size):
        self.dtype, self.size, self.values = np.dtype(dtype), size, None

    def fill(self, data):
        self.values = np.frombuffer(data, self.dtype)
        if len(self.values) != self.size:
            raise ValueError(f"a storage has {len(self.values)} numbers instead of {self.size}")


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple

    def array(self):
        """A contiguous copy."""
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) == 0 or min(self.offset, *self.strides, 0) < 0 or last >= self.storage.size:
            raise ValueError("a tensor reaches beyond its storage")
        values, width = self.storage.values[self.offset:], self.storage.dtype.itemsize
        return np.lib.stride_tricks.as_strided(values, self.shape, [s * width for s in self.strides]).copy()


_NAMES = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
    ("torch._utils", "_rebuild_tensor_v2"):
        lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, shape, strides),
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Unpickler(pickle.Unpickler):
    """Arrays, numbers, strings, lists and dicts; `storages` by key, as the pickle asks for them."""

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def find_class(self, module, name):
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return _NAMES[module, name]

    def persistent_load(self, pid):
        _, dtype, key, _, size, *_ = pid
        return self.storages.setdefault(key, _Storage(dtype, size))


def _read_zip(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name, = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        unpickler = _Unpickler(io.BytesIO(archive.read(name)))
        state = unpickler.load()
        for key, storage in unpickler.storages.items():
            storage.fill(archive.read(f"{name.removesuffix('.pkl')}/{key}"))
    return state


def _read_legacy(data):
    file = io.BytesIO(data)
    if _Unpickler(file).load() != LEGACY_MAGIC:
        raise ValueError("it is no file of PyTorch")
    _version, _system = _Unpickler(file).load(), _Unpickler(file).load()
    unpickler = _Unpickler(file)
    state = unpickler.load()
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        file.read(8)  # the count of numbers again
        storage.fill(file.read(storage.size * storage.dtype.itemsize))
    return state


def _read_tfjs(data):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        name, = (n for n in tar.getnames() if n.endswith("/model.json"))
        (group,) = json.load(tar.extractfile(name))["weightsManifest"]
        folder = pathlib.PurePosixPath(name).parent
        shards = b"".join(tar.extractfile(str(folder / path)).read() for path in group["paths"])
    state, start = {}, 0
    for weight in group["weights"]:
        if weight["dtype"] != "float32" or "quantization" in weight:
            raise ValueError(f"{weight['name']} is not float32")
        count = math.prod(weight["shape"])
        state[weight["name"]] = np.frombuffer(shards, "<f4", count, start).reshape(weight["shape"])
        start += 4 * count
    if start != len(shards):
        raise ValueError(f"its shards have {len(shards)} bytes instead of {start}")
    return state


def _arrays(tree):
    """The tree with tensors as arrays; anything but arrays and dicts is left out."""
    found = {}
    for name, value in tree.items():
        value = value.array() if isinstance(value, _Tensor) else _arrays(value) if isinstance(value, dict) else value
        if isinstance(value, (np.ndarray, dict)):
            found[name] = value
    return found


def read(path):
    """The arrays of a weights file, by name; nested for a .ckpt."""
    data, kind = pathlib.Path(path).read_bytes(), pathlib.Path(path).suffix
    readers = {".pth": _read_zip if data.startswith(b"PK") else _read_legacy, ".tgz": _read_tfjs,
               ".ckpt": lambda data: _Unpickler(io.BytesIO(data)).load()}
    if kind not in readers:
        raise ValueError(f"`weights` (={path}) must be a {', '.join(readers)}")
    try:
        return _arrays(readers[kind](data))
    except Exception as e:  # a damaged pickle fails in as many ways as there are opcodes
        raise ValueError(f"`weights` (={path}) must be a whole file of weights: {type(e).__name__}: {e}") from e
