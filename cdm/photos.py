"""A folder of upscaled pictures: what `cdm upscale` writes, and resumes.

    OUT/<the same tree>/name.png         the pictures         OUT/upscaled.jsonl      how each was made, a line each
    OUT/<the same tree>/name.samples/    with samples=K: 1.png to K.png, mean.png, and their standard deviation as
                                         std.npy ([H, W] float32, in shares of the range) and std.png, a heat map
    OUT/<the same tree>/.name.frames/    what is there of a moving picture, until all its frames are

A picture is done when a line says so of the same input bytes, settings and stages; it is not made again. What lies in
OUT and was made otherwise is not touched unless `overwrite` says so. A file that can not be done is a line, and the
others go on. A line is written before a picture is, and after: what a kill left half done is known as our own.
"""

import contextlib
import datetime
import glob
import hashlib
import json
import math
import os
import pathlib
import shutil
import sys
from itertools import chain, repeat
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import cdm
from cdm import devices
from cdm.cascade import check_seed
from cdm.data.decode import SUFFIXES
from cdm.images import dicom
from cdm.images.files import hold, new_folder, replace, sha256, writing
from cdm.images.moving import NUMBERED, VIDEOS, Moving, assemble, frames, moving
from cdm.images.pictures import FORMATS, Picture, fit, header, read, write
from cdm.images.provenance import provenance
from cdm.images.signs import signs
from cdm.photo import enlarge_pixels, target
from cdm.upscaling import enlarge, estimate, pixels_shared

RECORD = "upscaled.jsonl"
TAKEN = (*SUFFIXES, *VIDEOS, dicom.SUFFIX)  # of a folder's files
MAX_PIXELS = 100_000_000
MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # bytes
# What the estimate depends on.
PLANNED = ("steps", "aug_level", "sampler", "guidance", "label", "samples", "fidelity", "consistent", "overlap")


class Job(NamedTuple):
    """A picture, or what moves, that is to be upscaled."""

    path: pathlib.Path
    file: str  # below OUT
    format: str
    shape: tuple  # (height, width) of the picture
    size: tuple  # and of its result
    work: str  # a hash of all that the result depends on
    cost: dict  # an estimate, of a frame
    moving: Moving | None = None

    @property
    def frames(self):
        return self.moving.frames if self.moving else 1


class Outcome(NamedTuple):
    """What became of all the inputs."""

    done: list  # files below OUT
    kept: list  # that were done before
    failed: dict  # {input: why}
    ignored: int  # files in folders that are no pictures by their names


def write_photos(inputs, out, stages, scale=None, size=None, format="png", max_pixels=MAX_PIXELS, metadata=True,
                 overwrite=False, seed=0, **options):
    """Upscale files, folders and globs into the folder `out`; returns an Outcome.

    scale, or size (height, width), of each; format: a key of FORMATS or "same", each picture's own; max_pixels: of a
    result; metadata: whether pictures say how they were made; options: those of cdm.upscaling.enlarge. Raises
    ValueError for bad arguments, or if there is no picture at all, before anything is written.
    """
    out = pathlib.Path(out)
    if format not in (*FORMATS, "same"):
        raise ValueError(f"`format` (={format}) must be one of {', '.join(FORMATS)}, same")
    check_seed(seed)
    target(1, 1, scale, size)
    estimate(1, 1, stages, (1, 1), **_planned(options))
    options |= {"seed": seed}
    found, wrong, ignored = find(inputs, out)
    if not found:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in wrong.items()))
    try:
        made = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ValueError(f"`out` (={out}) must be a folder that can be written: {e.strerror}") from e
    outcome = Outcome([], [], {}, ignored)
    try:
        with hold(out, "out"):
            for name, why in wrong.items():
                _fail(outcome, name, why)
            _write(outcome, found, out, stages, (scale, size, format, max_pixels, metadata), overwrite, options)
    finally:
        if made and not any(out.iterdir()):
            out.rmdir()
    return outcome


def find(inputs, out):
    """(the picture files by their places below `out`, {input: what is wrong}, how many files are no pictures by their
    names). Of a folder all pictures below it, but for hidden ones; of neither it nor a glob what is in an `out` below
    it, which an earlier run made; a file that is named counts whatever its name."""
    found, wrong, ignored, out = {}, {}, 0, out.resolve()
    for text in map(str, inputs):
        root, paths, none = pathlib.Path(text), [pathlib.Path(text)], "holds no picture"
        if not os.path.exists(root):  # nor can a name be that is too long, of which Path.exists makes an error
            wild = [bool(glob.has_magic(part)) for part in root.parts]
            if not any(wild):
                wrong[text] = "does not exist"
                continue
            root, none = pathlib.Path(*root.parts[:wild.index(True)]), "matches no picture"
            paths = [pathlib.Path(path) for path in sorted(glob.glob(text, recursive=True))]
            paths = [path for path in paths if not _made(path, root, out)]
        elif root.resolve() == out:
            wrong[text] = "is the folder to write"
            continue
        elif not root.is_dir():
            root = root.parent
        pictures = []
        for path in paths:
            if not path.is_dir():
                pictures.append(path)
                continue
            inside = [p for p in sorted(path.rglob("*")) if p.is_file() and not _made(p, root, out)
                      and not any(part.startswith(".") for part in p.relative_to(path).parts)]
            pictures += [p for p in inside if p.suffix.lower() in TAKEN]
            ignored += sum(p.suffix.lower() not in TAKEN for p in inside)
        for path in pictures:
            other = found.setdefault(path.relative_to(root), path)
            if other.resolve() != path.resolve():
                wrong[str(path)] = f"would be written where {other} is: give it another `out`"
        if not pictures:
            wrong[text] = none
    return found, wrong, ignored


def _made(path, root, out):
    """Whether a path below `root` is in `out`, where that is below `root` too."""
    return root.resolve() in out.parents and out in path.resolve().parents


def _fail(outcome, name, why):
    why = " ".join(str(why).split()) or type(why).__name__
    outcome.failed[str(name)] = why
    tqdm.write(f"cdm: {name}: {why}", file=sys.stderr)


def _planned(options):
    """The options that an estimate depends on."""
    return {name: options[name] for name in PLANNED if name in options}


def _write(outcome, found, out, stages, asked, overwrite, options):
    """Do what `write_photos` says in a folder that is held."""
    record, jobs, taken = Record(out / RECORD), [], {}
    for place, path in found.items():
        try:
            job = _plan(path, place, stages, asked, options)
            other = taken.setdefault(job.file, path)
            if other != path:
                raise ValueError(f"would become {job.file}, as {other} does: give it another `out`")
            if (out / job.file).resolve() == path.resolve():
                raise ValueError("would be written over itself: give another `out`")
            places = out / job.file, _samples(out / job.file)
            wanted = places[: 1 + (options.get("samples", 1) > 1)]
            if record.says(job, "done") and all(p.exists() for p in wanted):
                outcome.kept.append(job.file)
                continue
            ours = wanted if record.says(job, "begun", "done") else ()
            there = [p for p in places if p.exists() and p not in ours]
            if there and not overwrite:
                raise ValueError(f"{there[0]} is there, made otherwise: `overwrite` it, or give another `out`")
            jobs.append(job)
        except (ValueError, OSError) as e:
            _fail(outcome, path, e)
    if not jobs:
        return
    used = {one["stage"] for job in jobs for one in job.cost["passes"]}
    for stage in (stage for stage in stages if stage.name in used):
        # A row of windows, one a device where pictures have as many, twice: their time without compiling.
        most = max(one["windows"] for job in jobs for one in job.cost["passes"] if one["stage"] == stage.name)
        low, high, count = stage.lowres_size, stage.size, min(most, devices.mesh(most, stage.params).size)
        windows = np.zeros((low, low + (count - 1) * (low - pixels_shared(low)), 3), np.float32)
        label = options.get("label") if stage.classes else None
        try:
            enlarge(windows, [stage], (high, windows.shape[1] * high // low), steps=2, label=label)
        except jax.errors.JaxRuntimeError as e:
            raise ValueError(f"`stages` (={stage.name}) must fit into the device's memory with one window: {e}") from e
    costs = [_cost(job, stages, options) for job in jobs]
    tqdm.write(_in_words(jobs, costs), file=sys.stderr)
    planned = 0
    with tqdm(total=sum(cost["evaluations"] for cost in costs), unit="window", dynamic_ncols=True,
              desc="windows x steps") as bar:
        for job, cost in zip(jobs, costs):
            planned += cost["evaluations"]
            try:
                do = _upscale_moving if job.moving else _upscale
                do(job, out, record, stages, asked[-1], {**options, "progress": bar.update})
                outcome.done.append(job.file)
            except (ValueError, OSError, MemoryError, jax.errors.JaxRuntimeError) as e:
                _fail(outcome, job.path, e)
            bar.update(planned - bar.n)


def _plan(path, place, stages, asked, options):
    """The Job of a picture file; ValueError if it is none or its result would be too large."""
    scale, size, format, max_pixels, metadata = asked
    if one := moving(path):
        shape, digest, format = one.size, sha256(path), _moving_format(one, format, options)
    else:
        data = path.read_bytes()
        *shape, own = header(data)
        digest, format = hashlib.sha256(data).hexdigest(), own if format == "same" else format
    size = target(*shape, scale, size)
    if size[0] * size[1] > max_pixels:
        raise ValueError(f"`max_pixels` (={max_pixels}) must be at least the result's "
                         f"{size[1]}x{size[0]} = {size[0] * size[1]}")
    work = {"input": digest, "size": size, "format": format, "metadata": metadata,
            "stages": [[stage.sha256, stage.config.sample.to_dict()] for stage in stages], **options}
    work = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()
    cost = estimate(*shape, stages, size, **_planned(options))
    if cost["bytes"] > MEMORY:  # of a line that is to become a square the canvas is far larger than the result
        raise ValueError(f"`size` (={size[1]}x{size[0]}) of {shape[1]}x{shape[0]} must need no more memory than the "
                         f"{MEMORY / 2**30:.0f} GiB of this machine, and needs {cost['bytes'] / 2**30:.0f}")
    name = place.name if place.suffix[1:].isdecimal() else place.stem  # of 1.2.840.1 the number is no ending
    file = place.with_name(name + (format if one else FORMATS[format]))
    return Job(path, file.as_posix(), format, tuple(shape), size, work, cost, one)


def _moving_format(one, format, options):
    """The suffix of what becomes of a Moving; ValueError for what can not."""
    if options.get("samples", 1) > 1:
        raise ValueError(f"`samples` (={options['samples']}) must be 1 for what moves")
    if one.kind == "video" or format == "same":
        return one.suffix
    if format not in ("png", "webp"):
        raise ValueError(f"`format` (={format}) must be png, webp or same for its {one.frames} frames")
    return f".{format}"


def _cost(job, stages, options):
    """The estimate of a job, all its frames."""
    cost = estimate(*job.shape, stages, job.size, **_planned(options))
    return {**cost, **{name: job.frames * cost[name] for name in ("windows", "evaluations", "seconds")}}


def _in_words(jobs, costs):
    """The estimate of all jobs in a line."""
    windows, evaluations, seconds = (sum(cost[name] for cost in costs)
                                     for name in ("windows", "evaluations", "seconds"))
    return (f"{len(jobs)} pictures to {sum(math.prod(job.size) for job in jobs) / 1e6:.2f} megapixels: "
            f"{windows} windows, {evaluations} windows x steps, about {datetime.timedelta(seconds=math.ceil(seconds))} "
            f"and {max(cost['bytes'] for cost in costs) / 2**30:.2f} GiB of host memory")


def _samples(path):
    """The folder of a picture's versions."""
    return path.with_suffix(".samples")


def _upscale(job, out, record, stages, metadata, options):
    """Do one job."""
    data = job.path.read_bytes()
    picture = fit(read(data), job.format, job.size)
    first, seen = stages[0], signs(picture.pixels)
    if seen and first.config.degrade.kind == "bicubic":
        warning = (f"it shows {' and '.join(seen)}, and {first.name} was trained on clean pictures: it may enlarge "
                   "that too")
        picture = picture._replace(notes=(*picture.notes, warning))
    made = enlarge_pixels(picture.pixels, stages, job.size, **options)
    about = _about(job, hashlib.sha256(data).hexdigest(), stages, options)
    if record.says(job, "begun"):  # and cut short
        for partial in (out / job.file).parent.glob(f".{glob.escape((out / job.file).stem)}.*.partial"):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
    record.add({"file": job.file, "work": job.work, "state": "begun"})
    picture = picture._replace(xmp=provenance(about, picture.xmp) if metadata else picture.xmp)
    path, said = out / job.file, {}
    shutil.rmtree(_samples(path), ignore_errors=True)
    if made.versions is not None:
        with new_folder(_samples(path)) as folder:
            for i, version in enumerate(made.versions):
                write(folder / f"{i + 1}{FORMATS[job.format]}", picture._replace(pixels=version))
            write(folder / f"mean{FORMATS[job.format]}", picture._replace(pixels=made.mean))
            np.save(folder / "std.npy", made.std)
            said["std_white"] = float(made.std.max())
            write(folder / "std.png", Picture(heat(made.std / (said["std_white"] or 1))))
    write(path, picture._replace(pixels=made.image))
    record.add({"file": job.file, "work": job.work, "state": "done", "input": str(job.path), **about, **said,
                "notes": picture.notes, "cdm": cdm.__version__, "jax": jax.__version__})
    for note in picture.notes:
        tqdm.write(f"{job.path}: {note}", file=sys.stderr)


def _about(job, digest, stages, options):
    """What is said of how a job was done."""
    return {"input_sha256": digest, "size": [job.size[1], job.size[0]],
            "settings": {name: value for name, value in options.items() if name != "progress"},
            # A path's last name alone: pictures travel, and folders have the names of people.
            "stages": [{"name": stage.name, "sha256": stage.sha256,
                        "trained_on": pathlib.PurePath(stage.config.data.source).name,
                        "steps": one["steps"]}
                       for stage, one in zip(chain(stages, repeat(stages[-1])), job.cost["passes"])]}


def _upscale_moving(job, out, record, stages, metadata, options):
    """Do one job of many frames, all with one noise, so that what stands still does not flicker; those that are there
    are not made again."""
    path, about = out / job.file, _about(job, sha256(job.path), stages, options)
    folder = path.with_name(f".{path.name}.frames")
    if not record.says(job, "begun"):
        shutil.rmtree(folder, ignore_errors=True)
    record.add({"file": job.file, "work": job.work, "state": "begun"})
    folder.mkdir(parents=True, exist_ok=True)
    there = next(number for number in range(10**9) if not (folder / (NUMBERED % number)).exists())
    options["progress"](there * job.cost["evaluations"])
    for number, pixels in enumerate(frames(job.moving, there), there):
        write(folder / (NUMBERED % number), Picture(enlarge_pixels(pixels, stages, job.size, **options).image))
    said = (provenance(about), json.dumps({"made_by": f"cdm {cdm.__version__}", **about})) if metadata else ()
    replace(path, lambda partial: assemble(job.moving, folder, partial, job.format, *said))
    shutil.rmtree(folder)
    record.add({"file": job.file, "work": job.work, "state": "done", "input": str(job.path), **about,
                "frames": job.frames, "cdm": cdm.__version__, "jax": jax.__version__})


def heat(share):
    """[H, W] in [0, 1] as black, red, yellow and white: [H, W, 3] uint8."""
    return np.rint(255 * np.clip(3 * share[..., None] - [0, 1, 2], 0, 1)).astype(np.uint8)


class Record:
    """The lines of a folder's upscaled.jsonl; the last one of a file counts."""

    def __init__(self, path):
        self.path, self.last = path, {}
        try:
            lines = path.read_text().splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):  # one that a full disk cut short
                entry = json.loads(line)
                self.last[entry["file"]] = entry["work"], entry["state"]

    def says(self, job, *states):
        return self.last.get(job.file) in [(job.work, state) for state in states]

    def add(self, entry):
        with writing(self.path), open(self.path, "ab+") as f:
            if f.tell() and (f.seek(-1, 2), f.read(1))[1] != b"\n":
                f.write(b"\n")
            f.write(json.dumps(entry).encode() + b"\n")
        self.last[entry["file"]] = entry["work"], entry["state"]
