"""Arrays in other people's weight files, read with NumPy alone.

    .pth    a state dict of PyTorch (.pt), in the zip or the older format: {name: array}
    .ckpt   a pickled nested dict of NumPy arrays
    .tgz    an npm package that holds a tfjs layers model: {name: array}

A pickle is a program. This reader knows the few names that arrays are made of, and refuses any other before it runs.
The numbers of PyTorch's files are mapped into memory, so that a reader of some of them does not hold all.
"""

import collections
import io
import json
import math
import pathlib
import pickle
import tarfile
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class _Storage:
    """The flat numbers that tensors are views of; the older format has them after the tensors."""

    def __init__(self, dtype, size):
        self.dtype, self.size, self.values = np.dtype(dtype), size, None

    def fill(self, data):
        """data: [bytes] uint8."""
        self.values = data.view(self.dtype)
        if len(self.values) != self.size:
            raise ValueError(f"a storage has {len(self.values)} numbers instead of {self.size}")


class Tensor(NamedTuple):
    """One of PyTorch's: `strides`, in numbers, over a storage that it may share."""

    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple

    def array(self):
        """It, as a view of its storage."""
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) == 0 or min(self.offset, *self.strides, 0) < 0 or last >= self.storage.size:
            raise ValueError("a tensor reaches beyond its storage")
        values, width = self.storage.values[self.offset:], self.storage.dtype.itemsize
        return np.lib.stride_tricks.as_strided(values, self.shape, [s * width for s in self.strides])


_NAMES = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
    ("torch._utils", "_rebuild_tensor_v2"):
        lambda storage, offset, shape, strides, *_: Tensor(storage, offset, shape, strides),
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


def _read_zip(path):
    data = np.memmap(path, np.uint8, "r")
    with zipfile.ZipFile(path) as archive:
        name, = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        unpickler = _Unpickler(io.BytesIO(archive.read(name)))
        state = unpickler.load()
        for key, storage in unpickler.storages.items():
            member = archive.getinfo(f"{name.removesuffix('.pkl')}/{key}")
            head = member.header_offset  # of 30 bytes, the last four the lengths of the name and of what follows it
            start = head + 30 + int(data[head + 26 : head + 30].view("<u2").sum())
            numbers = data[start : start + member.file_size]
            if member.compress_type != zipfile.ZIP_STORED or zlib.crc32(numbers) != member.CRC:
                raise ValueError(f"{member.filename} is damaged")
            storage.fill(numbers)
    return state


def _read_legacy(path):
    data = np.memmap(path, np.uint8, "r")
    with open(path, "rb") as file:
        if _Unpickler(file).load() != LEGACY_MAGIC:
            raise ValueError("it is no file of PyTorch")
        _version, _system = _Unpickler(file).load(), _Unpickler(file).load()
        unpickler = _Unpickler(file)
        state = unpickler.load()
        for key in _Unpickler(file).load():
            storage = unpickler.storages[key]
            start = file.tell() + 8  # after the count of numbers again
            end = start + storage.size * storage.dtype.itemsize
            storage.fill(data[start:end])
            file.seek(end)
    return state


def _read_torch(path):
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    return (_read_zip if zipped else _read_legacy)(path)


def _read_pickle(path):
    with open(path, "rb") as file:
        return _Unpickler(file).load()


def _read_tfjs(path):
    with tarfile.open(path, "r:gz") as tar:
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
        value = value.array().copy() if isinstance(value, Tensor) else value
        value = _arrays(value) if isinstance(value, dict) else value
        if isinstance(value, (np.ndarray, dict)):
            found[name] = value
    return found


def _whole(argument, path, reader):
    try:
        return reader(path)
    except Exception as e:  # a damaged pickle fails in as many ways as there are opcodes
        raise ValueError(f"`{argument}` (={path}) must be a whole file of weights: {type(e).__name__}: {e}") from e


def read(path):
    """The arrays of a weights file, by name; nested for a .ckpt."""
    kind, readers = pathlib.Path(path).suffix, {".pth": _read_torch, ".tgz": _read_tfjs, ".ckpt": _read_pickle}
    if kind not in readers:
        raise ValueError(f"`weights` (={path}) must be a {', '.join(readers)}")
    return _whole("weights", path, lambda path: _arrays(readers[kind](path)))


def state_dict(path):
    """{name: Tensor} of a file of PyTorch, whatever its name; what is no tensor is left out. The numbers stay in the
    file until they are asked for."""
    return _whole("checkpoint", path, lambda path: {
        name: value for name, value in _read_torch(path).items() if isinstance(value, Tensor)})
