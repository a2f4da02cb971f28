"""A folder of samples: what `cdm sample` writes, and resumes.

    OUT/<class>_<count>.png     the images            OUT/samples.json    how each was made, enough to make it again
    OUT/grid.png                the first of each     OUT/<stage>/        what the stages below handed on

With format zip or npz the images end as OUT/samples.zip or OUT/samples.npz (arr_0 [N, H, W, 3] uint8 and arr_1 [N]
labels, as in ADM's sample batches), and nothing else. Images are written one by one and renamed when whole: a run that
was stopped goes on where it was, and more classes or a larger n add to the folder.
"""

import json
import pathlib
import shutil
import zipfile

import numpy as np
from tqdm import tqdm

import cdm
from cdm.cascade import check_seed
from cdm.images.files import read_image, replace, write_grid, write_image, write_json
from cdm.images.resize import to_float
from cdm.stage import slug

FORMATS = ("png", "zip", "npz")
GRID = (16, 8)  # rows (classes) and columns at the most


def _file(cascade, label, count):
    return f"{slug(cascade.classes[label]) if cascade.classes else 'image'}_{count:05d}.png"


def _claim(out, about, start_at, below):
    """Read what the folder holds already; refuse it if it was made otherwise. Returns its list of images."""
    path = out / "samples.json"
    if not path.exists():
        return []
    try:
        old = json.loads(path.read_text())
        if start_at and old["stop_at"] == below:  # go on from a run that stopped there
            for image in old["images"]:
                if (out / image["file"]).exists():
                    (out / below).mkdir(exist_ok=True)
                    (out / image["file"]).replace(out / below / image["file"])
            old["stop_at"] = about["stop_at"]
        differ = [name for name in ("seed", "stop_at", "format") if old[name] != about[name]]
        differ += [f"{stage}.{name}" for stage, settings in about["stages"].items() if stage in old["stages"]
                   for name, value in settings.items() if old["stages"][stage].get(name) != value]
        if differ:
            raise ValueError(f"`out` (={out}) holds samples made otherwise; these differ: {', '.join(differ)}")
        about["stages"] = {**old["stages"], **about["stages"]}
        about["restarted_from_8_bit"] |= old["restarted_from_8_bit"]
        return old["images"]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"`out` (={out}) has a damaged samples.json: {type(e).__name__}: {e}") from e


def write_samples(cascade, out, labels, n, seed=0, batch_size=None, start_at=None, stop_at=None, format="png",
                  **changes):
    """Sample n images of each of `labels` (indices) into the folder `out`; returns the contents of samples.json.

    `changes` are those of Cascade.settings. Raises ValueError for bad arguments before anything is written.
    """
    out = pathlib.Path(out)
    if n < 1:
        raise ValueError(f"`n` (={n}) must be at least 1")
    if format not in FORMATS:
        raise ValueError(f"`format` (={format}) must be one of {', '.join(FORMATS)}")
    check_seed(seed)
    settings = cascade.settings(**changes)
    first, last, _ = cascade.check(settings, batch_size, start_at, stop_at)
    below = cascade.stages[first - 1].name if first else None
    if first and format != "png":
        raise ValueError(f"`format` (={format}) must be png with --start-at")
    labels = list(dict.fromkeys(labels))
    wanted = [{"file": _file(cascade, label, count), "label": label, "count": count,
               "class": cascade.classes[label] if cascade.classes else None}
              for count in range(n) for label in labels]
    about = {
        "cdm": cdm.__version__, "seed": seed, "start_at": start_at, "stop_at": cascade.stages[last].name,
        "format": format, "restarted_from_8_bit": bool(first),
        "stages": {stage.name: {"sha256": stage.sha256, **settings[first + i]._asdict()}
                   for i, stage in enumerate(cascade.stages[first : last + 1])},
    }
    run = dict(seed=seed, settings=settings, batch_size=batch_size, start_at=start_at, stop_at=stop_at)
    had = _claim(out, about, start_at, below)
    known = {image["file"] for image in wanted}
    about["images"] = [image for image in had if image["file"] not in known] + wanted

    folder = out if format == "png" else out / "images.partial"
    archive = out / f"samples.{format}"
    todo = [image for image in wanted if not (folder / image["file"]).exists()]
    if format != "png" and archive.exists() and {i["file"] for i in had} >= known:
        todo = []
    lowres = None
    if first and todo:
        missing = [image["file"] for image in todo if not (out / below / image["file"]).exists()]
        if missing:
            raise ValueError(f"`start_at` (={start_at}) must find {below}'s images in {out / below}: "
                             f"{missing[0]} is missing")
        lowres = to_float(np.stack([read_image(out / below / image["file"]) for image in todo]))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ValueError(f"`out` (={out}) must be a folder that can be written: {e.strerror}") from e
    write_json(out / "samples.json", about)
    if todo:
        indices = [np.array([image[name] for image in todo]) for name in ("label", "count")]
        with tqdm(total=len(todo), unit="img", dynamic_ncols=True, desc="compiling, then sampling") as bar:
            for part, images in cascade.run(*indices, lowres=lowres, **run):
                for name, batch in images.items():
                    if name != cascade.stages[last].name and format != "png":
                        continue
                    place = folder if name == cascade.stages[last].name else out / name
                    for image, pixels in zip(todo[part], batch):
                        write_image(place / image["file"], pixels)
                bar.update(part.stop - part.start)
    if format != "png" and todo:
        _pack(about["images"], folder, archive, format)
    if format == "png":
        _grid(out, about["images"], labels)
    return about


def _grid(out, images, labels):
    """grid.png: a row a class, its first counts in columns."""
    rows = [[i["file"] for i in images if i["label"] == label][: GRID[1]] for label in labels[: GRID[0]]]
    columns = min(len(row) for row in rows)
    write_grid(out / "grid.png", np.stack([[to_float(read_image(out / f)) for f in row[:columns]] for row in rows]))


def _pack(images, folder, archive, format):
    """Gather the images of `folder` in one archive, then remove the folder. An older archive of fewer gives its own."""
    if archive.exists():
        _unpack(archive, images, folder, format)
    if format == "zip":
        def write(path):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
                for image in images:
                    z.write(folder / image["file"], image["file"])
    else:
        def write(path):
            shape = read_image(folder / images[0]["file"]).shape
            raw = folder / "arr_0.npy"  # on disk, as a sample set may be larger than memory
            array = np.lib.format.open_memmap(raw, "w+", np.uint8, (len(images), *shape))
            for row, image in zip(array, images):
                row[:] = read_image(folder / image["file"])
            array.flush()
            np.save(folder / "arr_1.npy", np.array([image["label"] for image in images]))
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
                z.write(raw, "arr_0.npy")
                z.write(folder / "arr_1.npy", "arr_1.npy")
    replace(archive, write)
    shutil.rmtree(folder)


def _unpack(archive, images, folder, format):
    """Put the images of an archive back into the folder, for those that are not there."""
    if format == "zip":
        with zipfile.ZipFile(archive) as z:
            for image in images:
                if not (folder / image["file"]).exists() and image["file"] in z.namelist():
                    replace(folder / image["file"], lambda p: p.write_bytes(z.read(image["file"])))
        return
    with np.load(archive) as old:
        for image, pixels in zip(images, old["arr_0"]):
            if not (folder / image["file"]).exists():
                write_image(folder / image["file"], to_float(pixels))
