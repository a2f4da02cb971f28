"""Which class a picture file is of.

    labels.csv                   a header with `file` and `label`, a row a file
    labels.json, dataset.json    {"file": label, …}, or {"labels": [["file", label], …]} (StyleGAN, EDM), null for none
    samples.json                 what `cdm sample` writes beside its images
    cat/1.png, dog/2.png         otherwise class folders, if there are folders
    1.png, 2.png                 and no labels if there are none

A table beside the pictures says which of them are in the set; labels are texts or integers, and a class is named after
its label. Classes are sorted, a table's integers by value.
"""

import csv
import io
import json
import posixpath

import numpy as np

from cdm.data.decode import SUFFIXES

SAMPLES, UNCLASSED = "samples.json", "sample"  # what cdm.samples calls the class of an image that has none
TABLES = ("labels.csv", "labels.json", "dataset.json", SAMPLES)
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def label(files, spec):
    """(names, labels [N] int32, classes) of the pictures among `files`; `spec` is what errors call the source."""
    table = next((t for t in TABLES if t in files.names), None)
    pairs = _table(table, files.read(table), spec) if table else None
    names, values = [n for n in files.names if n.lower().endswith(SUFFIXES)], None
    if pairs is not None:
        names, values = [name for name, _ in pairs], [value for _, value in pairs]
        if table == SAMPLES and set(values) == {UNCLASSED}:
            values = None
    elif table is None and any("/" in n for n in names):
        values = _folders(names, spec)
    if not names:
        raise ValueError(f"`data.source` (={spec}) must hold pictures ({', '.join(SUFFIXES)}); it has none")
    if values is None:
        return sorted(names), np.zeros(len(names), np.int32), ()
    labels, classes = number(values)
    order = sorted(range(len(names)), key=lambda i: (labels[i], names[i]))
    return [names[i] for i in order], labels[order], classes


def samples(data, spec):
    """The samples.json of a folder or archive of samples, of a run that came to its end, as cdm.samples has it."""
    try:
        about = json.loads(data)
        if about["complete"]:
            return {"format": about["format"], "images": about["images"]}
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"`data.source` (={spec}): {SAMPLES} can not be read: {type(e).__name__}: {e}") from e
    raise ValueError(f"`data.source` (={spec}) must be whole; the sampling of it was stopped: run cdm sample again")


def number(values):
    """(labels [N] int32, classes) of a list of texts or integers, one a picture."""
    kinds = set(values)
    classes = sorted(kinds, key=None if all(isinstance(v, int) for v in kinds) else str)
    index = {value: i for i, value in enumerate(classes)}
    return np.array([index[v] for v in values], np.int32), tuple(map(str, classes))


def _folders(names, spec):
    """The first folder of each name."""
    loose = [n for n in names if "/" not in n]
    if loose:
        raise ValueError(f"`data.source` (={spec}) must hold pictures or class folders, not both: {loose[0]} lies "
                         f"beside {next(n for n in names if '/' in n).split('/')[0]}/")
    values = [n.split("/")[0] for n in names]
    if set(values) <= SPLITS:
        raise ValueError(f"`data.source` (={spec}) must be one split; it holds {', '.join(sorted(set(values)))}")
    return values


def _table(table, data, spec):
    """The pairs of file and label in a table, or None where it says that there are no labels."""
    def need(ok, rule):
        if not ok:
            raise ValueError(f"`data.source` (={spec}): {table} must {rule}")

    try:
        text = data.decode("utf-8-sig")
        if table.endswith(".csv"):
            rows = csv.DictReader(io.StringIO(text), strict=True)
            need({"file", "label"} <= set(rows.fieldnames or ()), "begin with a header that has file and label")
            pairs = [(row["file"], row["label"]) for row in rows]
            if all((text or "").isdecimal() for _, text in pairs):
                pairs = [(name, int(text)) for name, text in pairs]
        elif table == SAMPLES:
            pairs = [(image["file"], image["class"]) for image in samples(data, spec)["images"]]
        else:
            value = json.loads(text)
            need(isinstance(value, dict), "be an object")
            pairs = value["labels"] if isinstance(value.get("labels", ""), list | None) else list(value.items())
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as e:
        raise ValueError(f"`data.source` (={spec}): {table} can not be read: {e}") from e
    if pairs is None:
        return None
    for pair in pairs:
        need(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) and pair[0],
             f"hold pairs of a file and its label, not {pair!r}")
        need(isinstance(pair[1], str | int) and not isinstance(pair[1], bool) and pair[1] != "",
             f"label each file with a text or an integer; {pair[0]} has {pair[1]!r}")
    pairs = [(posixpath.normpath(name), value) for name, value in pairs]
    need(len(dict(pairs)) == len(pairs), "name each file once")
    return pairs
