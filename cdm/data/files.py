"""Where picture files lie: a folder, a zip or an uncompressed tar, each a set of names that are read at random.

    names                  of all files but hidden ones, as posix paths, sorted
    read(name, limit=-1)   the bytes of a file, or the first `limit` of them, from any thread

Names in an archive start below the folders that all of them share, so that an archive of a folder is that folder. In a
tar of tars (ImageNet's training images) `n01440764.tar` is the folder n01440764. An archive is indexed once, when it is
opened.
"""

import bz2
import contextlib
import gzip
import lzma
import os
import pathlib
import posixpath
import shutil
import tarfile
import tempfile
import weakref
import zipfile
import zlib

COMPRESSED = {".tar.gz": gzip.open, ".tgz": gzip.open, ".tar.bz2": bz2.open, ".tbz2": bz2.open, ".tar.xz": lzma.open,
              ".txz": lzma.open}


def open_files(path):
    """The Folder, Zip or Tar at `path`."""
    path = pathlib.Path(path)
    name = path.name.lower()
    if path.is_dir():
        return Folder(path)
    if not path.is_file():
        raise ValueError(f"`data.source` (={path}) must be fluent_emoji, tfds:NAME, a folder, .zip, .tar or .npz; "
                         "there is none")
    if name.endswith(tuple(COMPRESSED)):
        raise ValueError(f"`data.source` (={path}) must be read at random, which a compressed tar can not be: "
                         f"pack it first, cdm data pack {path} --size SIZE --out PACK")
    if name.endswith(".zip"):
        return Zip(path)
    if name.endswith(".tar"):
        return Tar(path)
    raise ValueError(f"`data.source` (={path}) must be a folder, a pack, .zip, .tar or .npz")


@contextlib.contextmanager
def unpacked(spec, out):
    """The path of a source that may be a compressed tar: that of the plain tar, which lies beside `out` for a while."""
    unpack = next((f for end, f in COMPRESSED.items() if str(spec).lower().endswith(end)), None)
    if not unpack or not os.path.isfile(spec):
        yield spec
        return
    if os.path.exists(out):  # said before the hours that unpacking may take
        raise ValueError(f"`out` (={out}) must not exist yet")
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=pathlib.Path(out).parent, prefix=".unpacked-") as folder:
        plain = os.path.join(folder, "plain.tar")
        try:
            with unpack(spec) as packed, open(plain, "wb") as f:
                shutil.copyfileobj(packed, f, 1 << 20)
        except (EOFError, lzma.LZMAError, zlib.error, OSError) as e:
            if isinstance(e, OSError) and e.errno:  # of the disk; what bz2 and gzip say of their data has no number
                raise
            raise ValueError(f"`data.source` (={spec}) must be a whole compressed tar: {e}") from e
        yield plain


def _hidden(name):
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _fail(error):
    """What os.walk would pass over in silence: a folder that may not be read."""
    raise error


def _below(names):
    """{name below the folders that all share: name}, without hidden files."""
    clean = {posixpath.normpath(n).lstrip("/"): n for n in names}
    clean = {n: clean[n] for n in sorted(clean) if not _hidden(n)}
    shared = posixpath.commonpath([posixpath.dirname(n) or "." for n in clean]) if clean else ""
    start = len(shared) + 1 if shared not in ("", ".") else 0
    return {n[start:]: member for n, member in clean.items()}


class Folder:
    """The files under a folder, through symbolic links too."""

    def __init__(self, path):
        self._path = pathlib.Path(path)
        self.names, seen = [], set()
        for folder, inner, files in os.walk(path, onerror=_fail, followlinks=True):
            inner[:] = [d for d in inner if not d.startswith(".")]
            if (real := os.path.realpath(folder)) in seen:  # a link back up
                inner.clear()
                continue
            seen.add(real)
            relative = os.path.relpath(folder, path)
            prefix = "" if relative == "." else pathlib.PurePath(relative).as_posix() + "/"
            self.names += [prefix + file for file in files if not file.startswith(".")]
        self.names.sort()

    def read(self, name, limit=-1):
        with open(self._path / name, "rb") as f:
            return f.read(limit)


class Zip:
    """The files in a zip."""

    def __init__(self, path):
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as e:
            raise ValueError(f"`data.source` (={path}) must be a zip: {e}") from e
        self._members = _below(i.filename for i in self._zip.infolist() if not i.is_dir())
        self.names = list(self._members)

    def __reduce__(self):
        return Zip, (self._path,)

    def read(self, name, limit=-1):
        try:
            with self._zip.open(self._members[name]) as f:
                return f.read(limit)
        except KeyError as e:
            raise FileNotFoundError(f"no {name} in {self._path}") from e


class Tar:
    """The files in an uncompressed tar, or in the tars in it, read by their offsets."""

    def __init__(self, path):
        self._path, self._places = path, {}
        try:
            with tarfile.open(path, "r:") as tar:
                self._index(tar, "", 0, nested=True)
        except tarfile.TarError as e:
            raise ValueError(f"`data.source` (={path}) must be a whole, uncompressed tar: {e}") from e
        below = _below(self._places)
        self._places = {name: self._places[member] for name, member in below.items()}
        self.names = list(self._places)
        self._open()

    def _open(self):
        self._handle = os.open(self._path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)

    def _index(self, tar, prefix, start, nested):
        while (member := tar.next()) is not None:
            tar.members = []  # which tarfile would keep: gigabytes for a million files
            name, offset = prefix + posixpath.normpath(member.name), start + member.offset_data
            if member.islnk() and (target := prefix + posixpath.normpath(member.linkname)) in self._places:
                self._places[name] = self._places[target]  # a hard link: tar stores a file's second name so
            if not member.isreg():
                continue
            if nested and name.lower().endswith(".tar"):
                with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                    self._index(inner, name[: -len(".tar")] + "/", offset, nested=False)
            else:
                self._places[name] = offset, member.size

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def read(self, name, limit=-1):
        if name not in self._places:
            raise FileNotFoundError(f"no {name} in {self._path}")
        offset, size = self._places[name]
        # At an offset of its own: a position in the file is what threads would share.
        return os.pread(self._handle, size if limit < 0 else min(limit, size), offset)
