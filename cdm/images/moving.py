"""Pictures that move: animated GIF, WebP and PNG, and video where ffmpeg is installed.

Frames are read one after the other and are whole pictures; what becomes of them lies in a folder of numbered PNG files
until all are there, and is then put together: an animation with the durations and loops of the first, a video with its
rate and, copied as it is, its sound.
"""

import contextlib
import io
import json
import pathlib
import shutil
import subprocess
import tempfile
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageSequence

from cdm.images.pictures import Unreadable, reason

ANIMATED = ("GIF", "WEBP", "PNG")
VIDEOS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}  # muxers
NUMBERED = "%08d.png"
QUALITY = "16"  # of x264's constant rate factor: hard to tell from lossless


class Moving(NamedTuple):
    """`path` of the file and the `suffix` of its kind; `size` (height, width), upright; `frames`, how many, as the file
    says; `kind`: animation or video; `rate` of a video, frames a second as in 30000/1001."""

    path: pathlib.Path
    suffix: str
    size: tuple
    frames: int
    kind: str
    rate: str | None = None


def moving(path):
    """The Moving in a file, or None if it holds a single picture, or none; ValueError for a video without ffmpeg, or a
    broken one."""
    path = pathlib.Path(path)
    if path.suffix.lower() in VIDEOS:
        return _video(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what is repaired, and large
            with Image.open(path) as image:
                count = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
                kind = f".{image.format.lower()}"
                return Moving(path, kind, image.size[::-1], count, "animation") if count > 1 else None
    except Exception:  # decoders of broken files raise anything: whoever reads it as a picture tells
        return None


def _run(*command, **options):
    """A program of ffmpeg; ValueError with the last line of what it says if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, **options)
    except FileNotFoundError as e:
        raise ValueError(f"is a video, and {command[0]} is not installed") from e
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it does not say why"]
        raise ValueError(f"{command[0]}: {said[-1]}")
    return done.stdout


def _video(path):
    found = json.loads(_run("ffprobe", "-v", "error", "-select_streams", "v:0", "-show_streams", "-count_packets",
                            "-of", "json", path))["streams"]
    if not found:
        raise ValueError("holds no video")
    first = _run("ffmpeg", "-v", "error", "-i", path, "-frames:v", "1", "-f", "image2pipe", "-c:v", "png", "-")
    with Image.open(io.BytesIO(first)) as image:  # turned upright, as every frame will be
        size = image.size[::-1]
    return Moving(path, path.suffix.lower(), size, int(found[0]["nb_read_packets"]), "video",
                  found[0]["avg_frame_rate"])


def times(one):
    """(milliseconds of each frame, how often it is shown, 0 without end) of an animation."""
    with Image.open(one.path) as image:
        durations = []
        for frame in ImageSequence.Iterator(image):
            frame.load()  # before that a WebP does not say
            durations.append(int(frame.info.get("duration", 0)))
        return durations, image.info.get("loop", 1)


def frames(one, start=0):
    """Iterate the frames of a Moving from number `start`: [H, W, C] uint8, C 3 or 4."""
    if one.kind == "animation":
        try:
            with Image.open(one.path) as image:
                for number, frame in enumerate(ImageSequence.Iterator(image)):
                    if number >= start:
                        opaque = frame.mode in ("RGB", "L") and "transparency" not in frame.info
                        yield np.asarray(frame.convert("RGB" if opaque else "RGBA"))
        except Exception as e:  # decoders of broken files raise anything
            raise Unreadable(f"can not be read ({reason(e)})") from e
        return
    height, width = one.size
    command = ("ffmpeg", "-v", "error", "-i", one.path, "-map", "0:v:0", "-r", one.rate, "-f", "rawvideo",
               "-pix_fmt", "rgb24", "-")
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as decoder:
        try:
            for number in range(10**9):
                data = decoder.stdout.read(height * width * 3)
                if len(data) < height * width * 3:
                    break
                if number >= start:
                    yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
            if decoder.wait():
                said.seek(0)
                raise ValueError(f"ffmpeg: {said.read().decode(errors='replace').strip().splitlines()[-1]}")
        finally:
            decoder.kill()


def assemble(one, folder, path, suffix, xmp=None, comment=None):
    """Put the numbered files in `folder` together as the file `path`, of an animation as a lossless .webp, .gif or
    .png, of a video as one of VIDEOS. `xmp` goes into a WebP, `comment` into a video."""
    folder = pathlib.Path(folder)
    files = sorted(folder.glob("*.png"))
    if not files:
        raise ValueError(f"{one.path.name} holds no frame that can be read")
    if one.kind == "video":
        with Image.open(files[0]) as image:
            even = all(side % 2 == 0 for side in image.size)
        codec = ("libvpx-vp9", "-b:v", "0") if suffix == ".webm" else ("libx264",)
        told = ("-metadata", f"comment={comment}") if comment else ()
        _run("ffmpeg", "-v", "error", "-y", "-framerate", one.rate, "-i", folder / NUMBERED, "-i", one.path,
             "-map", "0:v", "-map", "1:a?", "-map_metadata", "1", *told, "-c:a", "copy", "-c:v",
             *codec, "-crf", QUALITY, "-pix_fmt", "yuv420p" if even else "yuv444p", "-f", VIDEOS[suffix], path)
        return
    kind = {".webp": {"format": "webp", "lossless": True, **({"xmp": xmp} if xmp else {})},
            ".gif": {"format": "gif", "disposal": 2}, ".png": {"format": "png"}}[suffix]
    durations, loop = times(one)
    with contextlib.ExitStack() as opened:
        first, *rest = (opened.enter_context(Image.open(file)) for file in files)
        first.save(path, save_all=True, append_images=rest, duration=durations[: len(files)], loop=loop, **kind)


def installed():
    """Whether videos can be read and written here."""
    return all(shutil.which(name) for name in ("ffmpeg", "ffprobe"))
