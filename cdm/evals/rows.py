"""What an evaluation keeps on disk, so that one that was stopped goes on where it was: what it is for, and what it has
measured, a JSON line each.

    {...}            of a card, beside it as CARD.rows.jsonl: the first line is what was asked,
    {...}            then a line a picture, in order
"""

import json
import pathlib

from tqdm import tqdm

from cdm.images.files import hold, replace, write_json
from cdm.training.run import differences


def agree(path, about, argument):
    """Write what a folder of work is for into its file `path`, or check that an old one is for the same; ValueError
    names what differs."""
    path = pathlib.Path(path)
    if path.exists():
        differ = differences(json.loads(path.read_text()), json.loads(json.dumps(about)))
        if differ:
            raise ValueError(f"`{argument}` (={path.parent}) holds work with other arguments; these differ: "
                             f"{', '.join(differ)}")
    else:
        write_json(path, about)


def read(path):
    """The rows in a file, as far as they are whole; none without one."""
    rows = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # the last line of a process that was killed
                break
    return rows


def write(path, rows):
    """A file of these rows alone."""
    replace(path, lambda partial: partial.write_text("".join(json.dumps(row) + "\n" for row in rows)))


def collect(card, asked, total, batch_size, measure):
    """The rows of `total` pictures for what will be the file `card`: those that a run which was asked the same and did
    not end left beside it, and of the others `measure(range)`, a list of rows, in batches; each is kept as soon as it
    is there."""
    card = pathlib.Path(card)
    path, busy = card.with_suffix(".rows.jsonl"), card.with_name(f"{card.name}.partial")
    busy.mkdir(parents=True, exist_ok=True)
    with hold(busy, "out"):
        try:
            first, *rows = read(path) or [None]
            # Measured to the end, and told: whoever asks again wants it measured again.
            told = len(rows) == total and card.exists() and card.stat().st_mtime_ns >= path.stat().st_mtime_ns
            if first != json.loads(json.dumps(asked)) or told:
                rows = []
            write(path, (asked, *rows))
            with path.open("a") as f, tqdm(total=total, initial=len(rows), unit="img", disable=None) as bar:
                for begin in range(len(rows), total, batch_size):
                    found = measure(range(begin, min(begin + batch_size, total)))
                    f.writelines(json.dumps(row) + "\n" for row in found)
                    f.flush()
                    rows += found
                    bar.update(len(found))
        finally:
            busy.rmdir()
    return rows
