"""The log of a run: metrics.jsonl, one row at a time, the progress bar, and whoever else is asked to listen."""

import json
import math
import pathlib
import uuid

from tqdm import tqdm

from cdm.images.files import replace, write_json, writing


def _tensorboard(run, images):
    from tensorboardX import SummaryWriter  # writes its event files without TensorFlow

    # A process a file: their names tell the second and the host, and one of the same name would be written over.
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=images + 1, filename_suffix=f".{images}")

    def write(images, values):
        for name, value in values.items():
            writer.add_scalar(name, value, images)
        writer.flush()

    return write, writer.close


def _wandb(run, images):
    import wandb

    path = run / "wandb.json"  # one run of theirs for one of ours
    if not path.exists():
        write_json(path, {"id": uuid.uuid4().hex[:12]})
    about = json.loads(path.read_text())
    try:
        session = wandb.init(project="cdm", name=run.absolute().name, id=about["id"], dir=str(run), resume="allow")
    except wandb.Error as e:
        raise ValueError(f"`log.writers` (=wandb) must be able to begin a run there: {e}") from e
    session.define_metric("*", step_metric="images")
    return lambda images, values: session.log({"images": images, **values}), session.finish


WRITERS = {"tensorboard": _tensorboard, "wandb": _wandb}


def _flat(values, prefix=""):
    """The numbers in a row, by slash-joined names; those of a list by place."""
    for name, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, (dict, list)):
            yield from _flat(value, f"{prefix}{name}/")
        elif value is not None:
            yield f"{prefix}{name}", value


class Log:
    """Rows of RUN/metrics.jsonl and a bar on standard error. Opened at `images`, rows past it are cut: they belong to
    work that was lost with the process and will be done again. `writers`, of WRITERS, get the same numbers. Without a
    run, as in all processes of a job but one, it keeps quiet."""

    def __init__(self, run, images, total, writers=()):
        self._path, self._writers = None, []
        self._bar = tqdm(total=total, initial=images, unit="img", smoothing=0.1, dynamic_ncols=True,
                         disable=run is None)
        if run is None:
            return
        run = pathlib.Path(run)
        self._path = run / "metrics.jsonl"
        rows = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:  # the last line of a process that was killed
                    break
                if row["images"] <= images:
                    rows.append(line + "\n")
        replace(self._path, lambda partial: partial.write_text("".join(rows)))
        try:
            self._writers = [WRITERS[name](run, images) for name in writers]
        except ImportError as e:
            raise ValueError(f"`log.writers` (={', '.join(writers)}) must be installed: pip install '.[loggers]' "
                             f"({e})") from e

    def advance(self, count):
        self._bar.update(count)

    def row(self, **values):
        """Append a row; `images` and `loss` are among its values."""
        if self._path is None:
            return
        finite = _finite(values)
        text = json.dumps(finite)
        with writing(self._path), self._path.open("a") as f:
            f.write(text + "\n")
        numbers = dict(_flat(finite))
        images = numbers.pop("images")
        for write, _ in self._writers:
            write(images, numbers)
        self._bar.set_postfix(loss=f"{values['loss']:.4f}")

    def say(self, text):
        if self._path is not None:
            self._bar.write(text)

    def close(self):
        for _, close in self._writers:
            close()
        self._bar.close()


def _finite(value):
    """JSON has no infinity and no NaN: they are null."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
