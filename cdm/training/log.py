"""The log of a run: metrics.jsonl, one row at a time, and the progress bar."""

import json
import math
import pathlib

from tqdm import tqdm


class Log:
    """Rows of RUN/metrics.jsonl and a bar on standard error. Opened at `images`, rows past it are cut: they belong to
    work that was lost with the process and will be done again."""

    def __init__(self, run, images, total):
        self._path = pathlib.Path(run) / "metrics.jsonl"
        rows = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:  # the last line of a process that was killed
                    break
                if row["images"] <= images:
                    rows.append(line + "\n")
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(rows))
        partial.replace(self._path)
        self._bar = tqdm(total=total, initial=images, unit="img", smoothing=0.1, dynamic_ncols=True)

    def advance(self, count):
        self._bar.update(count)

    def row(self, **values):
        """Append a row; `images` and `loss` are among its values."""
        finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
        with self._path.open("a") as f:
            f.write(json.dumps(finite) + "\n")
        self._bar.set_postfix(loss=f"{values['loss']:.4f}")

    def say(self, text):
        self._bar.write(text)

    def close(self):
        self._bar.close()
