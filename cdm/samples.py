"""A folder of samples: what `cdm sample` writes, and resumes.

    OUT/<class>_<count>.png     the images            OUT/samples.json    how each was made, enough to make it again
    OUT/grid.png                a row a class         OUT/<stage>/        what the stages below handed on
    OUT/previews/<stage>/       with --previews K: a strip an image made, what it looked like on the way

With format zip or npz the images end as OUT/samples.zip (with its own samples.json) or OUT/samples.npz (arr_0
[N, H, W, 3] uint8 and arr_1 [N] labels as in ADM's sample batches, their classes as `labels`, and their file names as
`files`), and nothing else. samples.json is written first, with the settings, and again at the end; images are written
one by one and renamed when whole. So a run that was stopped goes on where it was, and more classes or a larger n add
to the folder.
"""

import json
import math
import pathlib
import shutil
import zipfile

import jax
import numpy as np
from tqdm import tqdm

import cdm
from cdm.cascade import check_seed
from cdm.data.labels import UNCLASSED
from cdm.images.files import hold, read_image, replace, write_grid, write_image, write_json
from cdm.images.resize import to_float
from cdm.stage import slug

FORMATS = ("png", "zip", "npz")
GRID = (16, 8)  # rows (classes) and columns at the most


def write_samples(cascade, out, labels, n, seed=0, batch_size=None, start_at=None, stop_at=None, format="png",
                  previews=0, **changes):
    """Sample n images of each of `labels` (indices) into the folder `out`; returns the contents of samples.json.

    `changes` are those of Cascade.settings. Raises ValueError for bad arguments, or a folder that holds samples made
    otherwise, before anything is written.
    """
    out = pathlib.Path(out)
    if n < 1:
        raise ValueError(f"`n` (={n}) must be at least 1")
    if format not in FORMATS:
        raise ValueError(f"`format` (={format}) must be one of {', '.join(FORMATS)}")
    if start_at and format != "png":
        raise ValueError(f"`format` (={format}) must be png with `start_at` (={start_at})")
    if previews < 0:
        raise ValueError(f"`previews` (={previews}) must be at least 0")
    check_seed(seed)
    settings = cascade.settings(**changes)
    first, last, _ = cascade.check(settings, batch_size, start_at, stop_at)
    labels = list(dict.fromkeys(labels))
    classes = cascade.classes or (UNCLASSED,)
    wanted = [{"file": file_name(cascade.classes, label, count), "class": classes[label], "label": label,
               "count": count, "start_at": start_at} for count in range(n) for label in labels]
    about = {
        "cdm": cdm.__version__, "jax": jax.__version__, "backend": jax.default_backend(), "seed": seed,
        "stop_at": cascade.stages[last].name, "format": format,
        "stages": {stage.name: {"sha256": stage.sha256, "dtype": stage.dtype, **settings[i].as_json()}
                   for i, stage in enumerate(cascade.stages) if first <= i <= last},
    }
    try:
        made = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ValueError(f"`out` (={out}) must be a folder that can be written: {e.strerror}") from e
    try:
        with hold(out, "out"):
            _write(cascade, out, about, wanted, settings, batch_size, cascade.stages[first - 1].name if first else None,
                   previews)
    except ValueError:
        if made and not any(out.iterdir()):
            out.rmdir()
        raise
    return about


def file_name(classes, label, count):
    """The file of the image `count` of a label."""
    return f"{slug(classes[label]) if classes else UNCLASSED}_{count:05d}.png"


def _write(cascade, out, about, wanted, settings, batch_size, below, previews):
    """Do what `write_samples` says in a folder that is held; `below` is the stage whose images are gone on from."""
    png, start_at, stop_at = about["format"] == "png", wanted[0]["start_at"], about["stop_at"]
    had, below_in_out = _agree(out, about, wanted, below)
    folder, archive = out if png else out / "images.partial", out / f"samples.{about['format']}"
    packed = set() if png else set(_names(archive))
    todo = [image for image in wanted
            if below_in_out or not (image["file"] in packed or (folder / image["file"]).exists())]
    place = out if below_in_out else out / below if below else None
    missing = [image["file"] for image in todo if below and not (place / image["file"]).exists()]
    if missing:
        raise ValueError(f"`start_at` (={start_at}) must find {below}'s images in {place}: {missing[0]} is missing")
    if below_in_out:  # a run that stopped there left them as its own
        (out / below).mkdir(exist_ok=True)
        for image in had:
            if (out / image["file"]).exists():
                (out / image["file"]).replace(out / below / image["file"])
        had = []
    known = {image["file"]: image for image in had}
    # What an earlier command had meant to make and did not is not in the folder.
    there = [i for i in had if i["file"] in packed or (folder / i["file"]).exists()]
    about["images"] = [image for image in there if image["file"] not in {i["file"] for i in wanted}]
    about["images"] += [known.get(i["file"], i) if i not in todo else i for i in wanted]
    write_json(out / "samples.json", {**about, "complete": False})

    if todo:
        # A state handed on truncated is noisy and no picture.
        shown = {stop_at} | {stage.name for stage, above in zip(cascade.stages, settings[1:])
                             if png and above.hand_over != "truncated"}
        indices = [np.array([image[name] for image in todo]) for name in ("label", "count")]
        with tqdm(total=len(todo), unit="img", dynamic_ncols=True, desc="compiling, then sampling") as bar:
            for part, images, ways in cascade.run(
                    *indices, about["seed"], settings, batch_size, start_at, stop_at,
                    lambda index: to_float(np.stack([read_image(out / below / todo[i]["file"]) for i in index])),
                    previews):
                for name in shown & images.keys():
                    for image, pixels in zip(todo[part], images[name]):
                        write_image((folder if name == stop_at else out / name) / image["file"], pixels)
                for name, strips in ways.items():
                    for image, strip in zip(todo[part], strips):
                        write_image(out / "previews" / name / image["file"], np.concatenate(strip, axis=1))
                bar.update(part.stop - part.start)
    if png:
        _grid(out, wanted)
    elif folder.exists():
        _pack(about, folder, archive)
    about["complete"] = True
    write_json(out / "samples.json", about)
    if not png:
        shutil.rmtree(folder, ignore_errors=True)


def _agree(out, about, wanted, below):
    """(images the folder holds, whether they are those of the stage `below`); ValueError if they were made otherwise.

    `about` takes over the stages that made what the folder holds.
    """
    path = out / "samples.json"
    if not path.exists():
        strange = [image["file"] for image in wanted if (out / image["file"]).exists()]
        if strange:
            raise ValueError(f"`out` (={out}) holds {strange[0]} but no samples.json to tell how it was made")
        return [], False
    try:
        old = json.loads(path.read_text())
        go_on = below is not None and old["stop_at"] == below
        names = ("seed", "format") if go_on else ("seed", "format", "stop_at")
        differ = [name for name in names if old[name] != about[name]]
        differ += [f"{stage}.{name}" for stage, settings in about["stages"].items() if stage in old["stages"]
                   for name, value in settings.items() if old["stages"][stage].get(name) != value]
        if differ:
            raise ValueError(f"`out` (={out}) holds samples made otherwise; these differ: {', '.join(differ)}")
        about["stages"] = {**old["stages"], **about["stages"]}
        return old["images"], go_on
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"`out` (={out}) has a damaged samples.json: {type(e).__name__}: {e}") from e


def _grid(out, wanted):
    """grid.png: a row a class, its first counts in columns; one image of each class makes a square."""
    rows = {}
    for image in wanted:
        rows.setdefault(image["label"], []).append(image["file"])
    files = [row[: GRID[1]] for row in list(rows.values())[: GRID[0]]]
    images = np.stack([[to_float(read_image(out / file)) for file in row] for row in files])
    if images.shape[1] == 1:
        side = math.ceil(len(images) ** 0.5)
        blank = np.ones((-len(images) % side, *images.shape[1:]), np.float32)
        images = np.concatenate([images, blank]).reshape(-1, side, *images.shape[2:])
    write_grid(out / "grid.png", images)


def _names(archive):
    """The files that an archive of samples holds, in order."""
    if not archive.exists():
        return []
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as z:
            return [name for name in z.namelist() if name != "samples.json"]
    with np.load(archive) as arrays:
        return list(arrays["files"])


def _pack(about, folder, archive):
    """Gather what the archive holds already and the images of `folder` in a new archive, in the order of samples.json.

    Arrays lie on disk while they are gathered, as a sample set may be larger than memory.
    """
    images = about["images"]
    old = {name: i for i, name in enumerate(_names(archive))}
    files = [image["file"] for image in images]
    if archive.suffix == ".zip":
        def write(path):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
                for file in files:
                    if (folder / file).exists():
                        z.write(folder / file, file)
                    else:
                        with zipfile.ZipFile(archive) as before:
                            z.writestr(file, before.read(file))
                z.writestr("samples.json", json.dumps({**about, "complete": True}))
    else:
        def write(path):
            before = None
            if old:
                with zipfile.ZipFile(archive) as z:
                    before = np.load(z.extract("arr_0.npy", folder / "before"), mmap_mode="r")
            shape = before.shape[1:] if old else read_image(folder / files[0]).shape
            array = np.lib.format.open_memmap(folder / "arr_0.npy", "w+", np.uint8, (len(files), *shape))
            for row, file in zip(array, files):
                row[:] = read_image(folder / file) if (folder / file).exists() else before[old[file]]
            array.flush()
            np.save(folder / "arr_1.npy", np.array([image["label"] for image in images]))
            np.save(folder / "files.npy", np.array(files))
            names = ["arr_0.npy", "arr_1.npy", "files.npy"]
            if any(image["class"] != UNCLASSED for image in images):
                np.save(folder / "labels.npy", np.array([image["class"] for image in images]))
                names.append("labels.npy")
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
                for name in names:
                    z.write(folder / name, name)
    replace(archive, write)
