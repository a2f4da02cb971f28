"""The records of a run, frozen in its folder when it starts: what example n shows does not change with the source.

    manifest.json.gz   names, labels and classes of the records, and `bad`: files that were no pictures then, and why
    bad_files.json     names of records that failed since, and why; each is replaced by the next good one. Process p of
                       a job of several writes bad_files.p.json, but for the first; a resumed run heeds them all

A resumed run looks the names up in its source. Files that came since are not in the set; one that is gone is like one
that fails. Where less than half is left, the source is not that of the run: an error.
"""

import gzip
import json
import pathlib
import zlib

import numpy as np
from tqdm import tqdm

from cdm.data.decode import reason
from cdm.data.reading import patiently
from cdm.data.squares import Misfit
from cdm.data.threads import in_order
from cdm.images.files import replace, write_json

SCHEMA_VERSION = 1
FILE, BAD = "manifest.json.gz", "bad_files.json"


def freeze(source, run, process=0):
    """The source restricted to the records of the run folder: those in its manifest, or, in a new run, those whose
    header can be opened, of which the manifest is written. In a job of several processes the first freezes, then the
    others resume. Partners that are of different shapes are an error (Misfit), and no manifest is written."""
    run = pathlib.Path(run)
    frozen = resume(source, run, process)
    if frozen is not source:
        return frozen
    bad = {} if source.checked else _bad(source)
    good = [i for i, name in enumerate(source.names) if name not in bad]
    if not good:
        name, why = next(iter(bad.items()))
        raise ValueError(f"`data.source` must hold pictures; none of its {len(source)} files can be read; "
                         f"{name}: {why}")
    # Labels that lie in their records (TFDS) stay there: reading them is reading the set.
    labels = source.labels[good].tolist() if isinstance(source.labels, np.ndarray) else None
    _write(run / FILE, {"schema_version": SCHEMA_VERSION, "classes": list(source.classes), "labels": labels,
                        "names": [source.names[i] for i in good], "bad": bad})
    return resume(source, run, process)


def resume(source, run, process=0):
    """The source restricted to the manifest of the run folder; the source itself if it has none yet."""
    path = pathlib.Path(run) / FILE
    if not path.exists():
        return source
    try:
        about = json.loads(gzip.decompress(path.read_bytes()))
        if about["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {about['schema_version']}, this version of cdm reads {SCHEMA_VERSION}")
        return Manifest(source, about, path.parent, process)
    except (OSError, EOFError, zlib.error, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise ValueError(f"`workdir` (={run}): {FILE} is damaged: {type(e).__name__}: {e}") from e


class Manifest:
    """A Source of the records of a manifest, in its order, with its labels and classes. `excluded` are the names left
    out when it was made and `bad` those that failed since, each with the reason: `read_good` adds to them."""

    def __init__(self, source, about, run, process=0):
        self._source, self.size = source, getattr(source, "size", None)  # of a pack's pictures
        self.names, self.classes, self.excluded = about["names"], tuple(about["classes"]), about["bad"]
        index = {name: i for i, name in enumerate(source.names)}
        self._index = np.array([index.get(name, -1) for name in self.names])
        self._gone = [self.names[i] for i in np.flatnonzero(self._index < 0)]
        if 2 * len(self._gone) > len(self):
            raise ValueError(f"`data.source` must be that of the run: {len(self._gone)} of its {len(self)} files are "
                             f"not there; the first is {self._gone[0]}")
        self._added = len(index) + len(self._gone) - len(self) - sum(name in index for name in self.excluded)
        if about["labels"] is not None:
            self.labels = np.array(about["labels"], np.int32)
        else:  # they lay in the records, in whose order the manifest is; or the records were packed since
            lazy = not isinstance(source.labels, np.ndarray)
            self.labels = source.labels if lazy else source.labels[self._index]
        self.bad = {}
        for path in sorted(run.glob("bad_files*.json")):
            try:
                self.bad.update(json.loads(path.read_text()))
            except ValueError as e:
                raise ValueError(f"`workdir` (={run}): {path.name} is damaged; without it the files in it are tried "
                                 f"again ({e})") from e
        self._written, self._bad_path = len(self.bad), run / (f"bad_files.{process}.json" if process else BAD)

    def __len__(self):
        return len(self.names)

    def read(self, i):
        return self._source.read(self._place(i))

    def partner(self, i):
        """The low-res picture of record i, of a source of pairs."""
        return self._source.partner(self._place(i))

    def _place(self, i):
        if self._index[i] < 0:
            raise FileNotFoundError("gone since the run began")
        return int(self._index[i])

    def notes(self):
        """What the user should know before the run goes on: a few lines, or none."""
        told = []
        if self.excluded:
            name, why = next(iter(self.excluded.items()))
            told.append(f"{len(self.excluded)} files are left out, {name} first ({why})")
        if self._gone:
            told.append(f"{len(self._gone)} files are gone since the run began and replaced, {self._gone[0]} first")
        if self.bad:
            told.append(f"{len(self.bad)} files could not be read and are replaced, {next(iter(self.bad))} first; "
                        "delete bad_files*.json to try them again")
        if self._added:
            told.append(f"{self._added} files came since the run began and are not in it")
        return told

    def write_bad(self):
        """Bring the process's list of bad files up to date; returns a line on it if there was anything to add. Where
        more than half of the set is bad nothing is written: it is the disk's fault, or the network's, and an error."""
        bad = dict(self.bad)  # the loader's threads may add to it meanwhile
        if 2 * len(bad) > len(self):
            name, why = list(bad.items())[-1]
            raise ValueError(f"`data.source`: {len(bad)} of its {len(self)} files can not be read; {name}: {why}")
        if len(bad) > self._written:
            write_json(self._bad_path, bad)
            added, self._written = len(bad) - self._written, len(bad)
            return f"{added} more files could not be read and are replaced, {list(bad)[-added]} first"


def _bad(source):
    def check(i):
        try:
            patiently(lambda: source.check(i))
        except Misfit:
            raise
        except Exception as e:  # Pillow may raise anything at a broken file
            return reason(e)

    bar = tqdm(in_order(check, len(source)), total=len(source), unit="file", desc="headers", leave=False,
               disable=None)
    return {source.names[i]: why for i, why in enumerate(bar) if why}


def _write(path, value):
    replace(path, lambda p: p.write_bytes(gzip.compress(json.dumps(value).encode(), mtime=0)))
