"""A pack: the pictures of a source as squares of one size, in one ArrayRecord file that is read at random.

    index.json               schema_version, size, square (how a picture became one), classes, labels, names, and `bad`:
                             what could not be read, with the reason
    records.array_record     a lossless WebP each, in the order of `names`

WebP rather than PNG: of 256x256 photographs 36 % of the raw bytes against 50 %, decoded in two thirds of the time.
Pairs become two packs, `high` and `low`, of the same names: packed one by one, squares of partners could lie half a
low-res pixel apart.
"""

import io
import pathlib

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tqdm import tqdm

from cdm.data.decode import Unreadable, decode
from cdm.data.reading import read_pair, read_square
from cdm.data.threads import in_order
from cdm.images.files import new_folder, reading, write_json

SCHEMA_VERSION = 1
INDEX, RECORDS = "index.json", "records.array_record"


def is_pack(path):
    """Whether there is a pack at `path`."""
    return all((pathlib.Path(path) / name).is_file() for name in (INDEX, RECORDS))


class Pack:
    """The Source in a pack."""

    checked = True

    def __init__(self, path):
        with reading(path, INDEX, "pack", SCHEMA_VERSION) as index:
            self.size, self.classes, self.names = index["size"], tuple(index["classes"]), index["names"]
            self.labels = np.array(index["labels"], np.int32)
            try:
                self._records = ArrayRecordDataSource(str(pathlib.Path(path) / RECORDS))
            except RuntimeError as e:
                raise ValueError(f"{RECORDS}: {e}") from e
            if not len(self._records) == len(self.names) == len(self.labels):
                raise ValueError(f"{RECORDS} has {len(self._records)} records, {INDEX} {len(self.names)}")

    def __len__(self):
        return len(self.names)

    def encoded(self, i, limit=-1):
        return self._records[i]

    def read(self, i):
        return decode(self._records[i])


def encode(image):
    """[H, W, 3] uint8 as bytes of a lossless WebP."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, format="webp", lossless=True, quality=0, method=0)
    return data.getvalue()


def pack(source, out, size, how="center"):
    """Write the pictures of a source as the pack `out`, whole or not at all; returns its index. Pictures that can not
    be read are left out and listed; `out` must not exist yet."""
    with new_folder(out) as partial:
        return _write(source, {partial: size}, how, out, lambda i: [read_square(source, i, size, how)])


def pack_pairs(source, out, size, lowres_size):
    """Write the pairs of a source (cdm.data.pairs) as the packs `out`/high and `out`/low, as `pack` does, each pair cut
    alike; returns the index of the first. Partners of different shapes are an error."""
    with new_folder(out) as partial:
        sizes = {partial / "high": size, partial / "low": lowres_size}
        for folder in sizes:
            folder.mkdir()
        return _write(source, sizes, "center", out, lambda i: read_pair(source, i, size, lowres_size))


def _write(source, sizes, how, out, read):
    """Write a pack into each folder of {folder: size}, of what `read(i)` gives for each of them."""

    def record(i):
        try:
            return [encode(picture) for picture in read(i)], int(source.labels[i])
        except Unreadable as e:
            return e

    index = {"schema_version": SCHEMA_VERSION, "square": how, "classes": list(source.classes), "labels": [],
             "names": [], "bad": {}}
    try:
        # Grain wants groups of one record; the records are compressed already.
        writers = [ArrayRecordWriter(str(folder / RECORDS), "group_size:1,uncompressed") for folder in sizes]
        for i, found in enumerate(tqdm(in_order(record, len(source)), total=len(source), unit="img", disable=None)):
            if isinstance(found, Unreadable):
                index["bad"][found.name] = found.reason
                continue
            if not all(writer.ok() for writer in writers):
                break  # they say why when they are closed
            for writer, data in zip(writers, found[0]):
                writer.write(data)
            index["names"].append(source.names[i])
            index["labels"].append(found[1])
        for writer in writers:
            writer.close()
    except RuntimeError as e:
        raise ValueError(f"`out` (={out}) can not be written: {str(e).split(';')[0]}") from e
    if not index["names"]:
        raise ValueError(f"`data.source`: none of its {len(source)} pictures can be read; "
                         + ": ".join(next(iter(index["bad"].items()))))
    for folder, size in sizes.items():
        write_json(folder / INDEX, {**index, "size": size})
        if len(Pack(folder)) != len(index["names"]):
            raise ValueError(f"`out` (={out}) can not be written")
    return index
