"""What was measured of each picture, a JSON line each, so that an evaluation that was stopped goes on where it was.

    {...}            the first line: what was asked
    {...}            then a line a picture, in order
"""

import json
import pathlib

from tqdm import tqdm

from cdm.images.files import replace


def collect(path, asked, total, batch_size, measure):
    """The rows of `total` pictures: those that a run which was asked the same and did not end left in the file `path`,
    and of the others `measure(range)`, a list of rows, in batches; each is kept as soon as it is there."""
    path = pathlib.Path(path)
    rows = _read(path, asked)
    if len(rows) == total:  # measured to the end: whoever asks again wants it measured again
        rows = []
    lines = "".join(json.dumps(row) + "\n" for row in (asked, *rows))
    replace(path, lambda partial: partial.write_text(lines))
    with path.open("a") as f, tqdm(total=total, initial=len(rows), unit="img", disable=None) as bar:
        for begin in range(len(rows), total, batch_size):
            found = measure(range(begin, min(begin + batch_size, total)))
            f.writelines(json.dumps(row) + "\n" for row in found)
            f.flush()
            rows += found
            bar.update(len(found))
    return rows


def _read(path, asked):
    rows = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # the last line of a process that was killed
                break
    return rows[1:] if rows and rows[0] == json.loads(json.dumps(asked)) else []
