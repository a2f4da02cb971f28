"""Moving pictures: frames come out as they went in, and go together again with their times and their sound."""

import json
import subprocess
import warnings

import numpy as np
import pytest
from PIL import Image

from cdm.images.moving import NUMBERED, assemble, frames, installed, moving, times

video = pytest.mark.skipif(not installed(), reason="ffmpeg is not installed")
DURATIONS, SIZE = [40, 120, 80], (20, 16)  # width, height


def pictures(mode="RGB", colours=256):
    """Three pictures of few colours, so that GIF keeps them."""
    random = np.random.default_rng(0)
    small = [Image.fromarray(random.integers(0, 4, (2, 4, 3), np.uint8) * 85) for _ in DURATIONS]
    return [image.resize(SIZE, Image.Resampling.NEAREST).convert(mode) for image in small]


def animation(path, **options):
    first, *rest = pictures()
    first.save(path, save_all=True, append_images=rest, duration=DURATIONS, loop=3, **options)
    return path


@pytest.mark.parametrize("suffix,options", [(".gif", {}), (".webp", {"lossless": True}), (".png", {})])
def test_an_animation_goes_apart_and_together(tmp_path, suffix, options):
    one = moving(animation(tmp_path / f"a{suffix}", **options))
    assert (one.size, one.frames, one.kind) == (SIZE[::-1], 3, "animation")
    assert times(one) == (DURATIONS, 3)
    whole = list(frames(one))
    for frame, picture in zip(whole, pictures(), strict=True):
        np.testing.assert_array_equal(frame[..., :3], picture)
    np.testing.assert_array_equal(next(frames(one, start=2)), whole[2])
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(whole):
        Image.fromarray(frame).resize((40, 32), Image.Resampling.NEAREST).save(tmp_path / "frames" / (NUMBERED % i))
    assemble(one, tmp_path / "frames", tmp_path / f"b{suffix}", suffix)
    again = moving(tmp_path / f"b{suffix}")
    assert (again.size, again.frames, times(again)) == ((32, 40), 3, (DURATIONS, 3))
    for frame, before in zip(frames(again), whole, strict=True):
        np.testing.assert_array_equal(frame[::2, ::2, :3], before[..., :3])


def test_a_single_picture_does_not_move(tmp_path):
    for name in ("a.png", "a.gif", "a.webp", "a.jpg"):
        pictures()[0].save(tmp_path / name)
        assert moving(tmp_path / name) is None
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    assert moving(tmp_path / "broken.gif") is None


def test_looking_whether_a_picture_moves_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    pictures()[0].save(tmp_path / "a.png")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert moving(tmp_path / "a.png") is None
    assert not told


@pytest.mark.parametrize("suffix,options", [(".gif", {}), (".webp", {"lossless": True}), (".png", {})])
def test_a_broken_animation_is_an_error_of_one_line_wherever_it_breaks(tmp_path, suffix, options):
    data = animation(tmp_path / f"a{suffix}", **options).read_bytes()
    told = 0
    for cut in range(len(data) // 4, len(data), 7):
        for broken in (data[:cut], data[:cut] + bytes([data[cut] ^ 0xFF]) + data[cut + 1 :]):
            (tmp_path / f"b{suffix}").write_bytes(broken)
            one = moving(tmp_path / f"b{suffix}")
            if one:
                try:
                    list(frames(one))
                except ValueError as e:
                    told += "can not be read" in str(e) and "\n" not in str(e)
    assert told


def test_what_has_no_frame_is_a_line(tmp_path):
    one = moving(animation(tmp_path / "a.png"))
    with pytest.raises(ValueError, match="no frame"):
        assemble(one, tmp_path / "none", tmp_path / "b.png", ".png")


@pytest.fixture
def film(tmp_path):
    """Half a second of a moving picture, with a tone."""
    path = tmp_path / "film.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=48x32:rate=12:duration=0.5", "-f",
                    "lavfi", "-i", "sine=duration=0.5", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", path],
                   check=True)
    return path


def streams(path, show="codec_name,avg_frame_rate,width,height"):
    out = subprocess.run(["ffprobe", "-v", "error", "-show_entries", f"stream={show}", "-of", "json", path],
                         capture_output=True, check=True).stdout
    return json.loads(out)["streams"]


def sound(path):
    return subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-map", "0:a", "-c", "copy", "-f", "adts", "-"],
                          capture_output=True, check=True).stdout


@video
def test_a_video_keeps_its_rate_and_its_sound_is_copied(film, tmp_path):
    one = moving(film)
    assert (one.size, one.frames, one.kind, one.rate) == ((32, 48), 6, "video", "12/1")
    whole = list(frames(one))
    assert len(whole) == 6 and whole[0].shape == (32, 48, 3)
    np.testing.assert_array_equal(next(frames(one, start=4)), whole[4])
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(whole):
        Image.fromarray(frame.repeat(2, 0).repeat(2, 1)).save(tmp_path / "frames" / (NUMBERED % i))
    assemble(one, tmp_path / "frames", tmp_path / "large.mp4", ".mp4", comment="made")
    picture, tone = streams(tmp_path / "large.mp4")
    assert (picture["width"], picture["height"], picture["avg_frame_rate"]) == (96, 64, "12/1")
    assert tone["codec_name"] == "aac" and sound(tmp_path / "large.mp4") == sound(film)
    for frame, before in zip(frames(moving(tmp_path / "large.mp4")), whole, strict=True):
        small = frame.reshape(32, 2, 48, 2, 3).mean((1, 3))
        assert np.abs(small - before.astype(float)).mean() < 6  # colours at half the size, twice


@video
def test_what_is_no_video_is_one_line(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(ValueError, match="^ffprobe: ") as told:
        moving(tmp_path / "a.mp4")
    assert "\n" not in str(told.value)


def test_without_ffmpeg_a_video_is_refused_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="ffprobe is not installed"):
        moving(tmp_path / "a.mp4")
