"""Laws of upscaled pictures: what a file holds goes through a stage, and a folder of them is resumed, never harmed."""

import hashlib
import json
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from test_pictures import SRGB, camera, encoded, inner, malformed, outer, smooth

import cdm
from cdm import cli
from cdm import config as configs
from cdm.images.files import hold
from cdm.images.moving import NUMBERED, frames, installed, moving, times
from cdm.images.pictures import Picture, fit, read, write
from cdm.images.provenance import SOURCE
from cdm.photos import RECORD, find, heat, write_photos
from cdm.stage import Stage


@pytest.fixture(scope="module")
def stage(sr_stage):
    """8 to 16 px, trained with and without classes."""
    return sr_stage


@pytest.fixture
def photos(tmp_path):
    """A folder of three pictures, one of them deeper."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.jpg", "deep/c.webp")):
        smooth((6 + i, 9), seed=i).save(tmp_path / "in" / name)
    return tmp_path / "in"


def call(*arguments):
    return cli.main(["upscale", *map(str, arguments), "--steps", "2"])


def tree(folder):
    """{file: hash} of all that a folder holds."""
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def records(out):
    return [json.loads(line) for line in (out / RECORD).read_text().splitlines()]


# --------------------------------------------------------------------------------------------------- one file, the verb


@pytest.mark.parametrize("format", ("png", "tiff", "webp", "jpeg"))
@pytest.mark.parametrize("channels", (1, 2, 3, 4))
def test_all_that_a_file_says_goes_through_the_verb(format, channels, stage_folder, tmp_path):
    if format == "jpeg" and channels in (2, 4) or format == "tiff" and channels == 2:
        return
    dtype = np.uint16 if format in ("png", "tiff") else np.uint8
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (6, 9, channels), dtype, endpoint=True)
    write(tmp_path / "in", fit(Picture(pixels, format, SRGB, camera(1)[6:], b"", (96.0, 96.0)), format, (6, 9)))
    assert call(tmp_path / "in", "--out", tmp_path / "out", "--stage", stage_folder, "--scale", 2, "--format",
                "same") == 0
    made, = [p for p in (tmp_path / "out").iterdir() if p.name != RECORD]
    back = read(made.read_bytes())
    kept = channels if format != "webp" else channels + 2 * (channels < 3)
    assert back.pixels.shape == (12, 18, kept) and back.pixels.dtype == dtype and back.format == format
    assert back.icc == SRGB and SOURCE.encode() in back.xmp
    assert outer(back.exif)[0x010F] == "Maker" and inner(back.exif)[0x927C] == b"\x01\x02note"
    assert (inner(back.exif)[0xA002], inner(back.exif)[0xA003]) == (18, 12) and inner(back.exif, 0x8825)[1] == "N"
    if format != "webp":
        np.testing.assert_allclose(back.dpi, (96, 96), rtol=1e-3)


@pytest.mark.parametrize("orientation", (3, 6))
def test_a_camera_held_otherwise(orientation, stage_folder, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(smooth((12, 20)), "JPEG", exif=camera(orientation), quality=95))
    arguments = "--stage", stage_folder, "--scale", 2
    assert call(tmp_path / "a.jpg", "--out", tmp_path / "out", *arguments) == 0
    picture = read((tmp_path / "out" / "a.png").read_bytes())
    assert picture.pixels.shape == ((24, 40, 3) if orientation == 3 else (40, 24, 3))
    assert outer(picture.exif)[0x0112] == 1
    Image.fromarray(read((tmp_path / "a.jpg").read_bytes()).pixels).save(tmp_path / "upright.png")
    assert call(tmp_path / "upright.png", "--out", tmp_path / "out", *arguments) == 0
    assert (read((tmp_path / "out" / "upright.png").read_bytes()).pixels == picture.pixels).all()


def test_a_picture_says_how_it_was_made_unless_told_not_to(stage, stage_folder, photos, tmp_path):
    arguments = photos / "a.png", "--stage", stage_folder, "--size", "20x15", "--seed", 7
    assert call(*arguments, "--out", tmp_path / "out") == 0
    xmp = read((tmp_path / "out" / "a.png").read_bytes()).xmp.decode()
    made = json.loads(xmp.partition("<cdm:made>")[2].partition("</cdm:made>")[0])
    assert SOURCE in xmp and made["settings"]["seed"] == 7 and made["size"] == [20, 15]
    assert [s["sha256"] for s in made["stages"]] == [stage.sha256] * 2 and made["stages"][0]["steps"] == 2
    assert made["input_sha256"] == hashlib.sha256((photos / "a.png").read_bytes()).hexdigest()
    assert call(*arguments, "--out", tmp_path / "plain", "--no-metadata") == 0
    data = (tmp_path / "plain" / "a.png").read_bytes()
    assert read(data).xmp is None and b"cdm" not in data and b"iTXt" not in data
    assert (read(data).pixels == read((tmp_path / "out" / "a.png").read_bytes()).pixels).all()


def test_samples_are_a_folder_beside_the_picture(stage_folder, photos, tmp_path):
    assert call(photos / "a.png", "--stage", stage_folder, "--scale", 2, "--samples", 3, "--out", tmp_path / "out") == 0
    folder = tmp_path / "out" / "a.samples"
    assert {p.name for p in folder.iterdir()} == {"1.png", "2.png", "3.png", "mean.png", "std.png", "std.npy"}
    std, made = np.load(folder / "std.npy"), records(tmp_path / "out")[-1]
    assert std.shape == (12, 18) and std.dtype == np.float32 and made["std_white"] == std.max()
    assert (read((folder / "std.png").read_bytes()).pixels == heat(std / std.max())).all()
    assert (heat(np.array([[0, 1 / 3, 2 / 3, 1]])) == [[[0, 0, 0], [255, 0, 0], [255, 255, 0], [255] * 3]]).all()
    assert b"trainedAlgorithmic" not in (folder / "std.png").read_bytes()
    assert SOURCE.encode() in (folder / "2.png").read_bytes()


@pytest.mark.parametrize("asked, said", [
    (("--scale", "2"), "photo_x2_bicubic: a window of 128 px to 256, trained on photos, made small by bicubic"),
    (("--scale", "2.5"), "photo_x4_bicubic: a window of 64 px to 256, trained on photos, made small by bicubic"),
    (("--size", "12x12"), "photo_x4_bicubic: a window of 64 px to 256, trained on photos, made small by bicubic")])
def test_without_a_stage_the_one_in_the_package_is_named(asked, said, photos, tmp_path, capfd):
    assert cli.main(["upscale", str(photos / "a.png"), "--out", str(tmp_path / "out"), *asked]) == 0
    assert said in capfd.readouterr().err


def test_stages_of_the_package_go_by_name_unless_a_folder_has_it(photos, stage_folder, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["upscale", str(photos / "a.png"), "--scale", "1", "--stage", "photo_x4", "--out"]
    assert cli.main([*command, str(tmp_path / "out")]) == 0
    assert "photo_x4: a window of 64 px to 256, trained on photos, made small by photo" in capfd.readouterr().err
    shutil.copytree(stage_folder, tmp_path / "photo_x4")
    assert cli.main([*command, str(tmp_path / "own")]) == 0
    assert "sr_16: a window of 8 px" in capfd.readouterr().err


def test_a_base_stage_is_refused_in_one_line(photos, tmp_path, base_stage, capfd):
    base_stage.save(tmp_path / "base_8")
    assert call(photos, "--out", tmp_path / "out", "--stage", tmp_path / "base_8", "--scale", 2) == 2
    assert capfd.readouterr().err.startswith("cdm: `stages` (=base_8) must be super-resolution stages")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------------ a batch


def test_a_picture_that_looks_otherwise_than_those_a_stage_learnt_from_is_told(stage, tmp_path, capfd):
    noisy = np.random.default_rng(0).normal(128, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    for name, image in (("noisy.png", Image.fromarray(noisy)), ("clean.png", smooth((64, 64)))):
        image.save(tmp_path / name)
        write_photos([tmp_path / name], tmp_path / "out", [stage], scale=1)
    notes = [entry["notes"] for entry in records(tmp_path / "out") if entry["state"] == "done"]
    assert len(notes[0]) == 1 and "noise" in notes[0][0] and "clean pictures" in notes[0][0] and notes[1] == []
    assert "noisy.png: it shows noise" in capfd.readouterr().err


def test_of_several_stages_the_first_sees_the_picture(stage, tiny_sr, tmp_path):
    noise = np.random.default_rng(0).normal(128, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    tiny_sr.degrade.kind = "photo"
    photo = Stage(tiny_sr, ())
    for name, stages, told in (("photo", [photo, stage], 0), ("clean", [stage, photo], 1)):
        write_photos([tmp_path / "a.png"], tmp_path / name, stages, scale=1)
        assert len(records(tmp_path / name)[-1]["notes"]) == told


def test_two_stages_of_one_name_are_told_apart(stage, tmp_path):
    other = Stage(stage.config, stage.classes)
    other.params, other.sha256 = stage.params, "another"
    smooth((8, 8)).save(tmp_path / "a.png")
    write_photos([tmp_path / "a.png"], tmp_path / "out", [stage, other], scale=4, steps=1)
    assert [one["sha256"] for one in records(tmp_path / "out")[-1]["stages"]] == [stage.sha256, "another"]


def test_pictures_do_not_tell_where_a_stage_had_its_pictures_from(stage, tmp_path):
    tree = stage.config.to_dict()
    tree["data"]["source"] = "/home/somebody/pictures"
    local = Stage(configs.from_dict(tree), stage.classes, stage.params)
    smooth((8, 8)).save(tmp_path / "a.png")
    write_photos([tmp_path / "a.png"], tmp_path / "out", [local], scale=2, steps=1)
    assert records(tmp_path / "out")[-1]["stages"][0]["trained_on"] == "pictures"
    assert b"somebody" not in (tmp_path / "out" / "a.png").read_bytes()


def test_a_number_at_the_end_of_a_name_is_no_ending(stage, tmp_path):
    """As in the names of medical pictures, which are UIDs."""
    for name in ("1.2.840.1", "1.2.840.2", "1.2.840.2.PNG"):
        smooth((8, 8)).save(tmp_path / name, "PNG")
    made = write_photos([tmp_path / "1.2.840.?"], tmp_path / "out", [stage], scale=1, steps=1)
    assert made.done == ["1.2.840.1.png", "1.2.840.2.png"] and not made.failed
    made = write_photos([tmp_path / "1.2.840.2.PNG"], tmp_path / "other", [stage], scale=1, steps=1)
    assert made.done == ["1.2.840.2.png"]


def test_an_input_is_never_overwritten_by_what_becomes_of_it(stage, tmp_path):
    smooth((8, 8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    made = write_photos([tmp_path / "a.png"], tmp_path, [stage], scale=2, overwrite=True)
    assert "over itself" in made.failed[str(tmp_path / "a.png")] and (tmp_path / "a.png").read_bytes() == before


def animation(path, count=3):
    """Frames of which the first and the last are the same."""
    first, *rest = (smooth((9, 7), seed=i % (count - 1)) for i in range(count))
    first.save(path, save_all=True, append_images=rest, duration=[40, 120, 80], loop=0)


def test_an_animation_keeps_its_times_and_what_stands_still_does_not_flicker(stage, tmp_path):
    animation(tmp_path / "a.png")
    made = write_photos([tmp_path / "a.png"], tmp_path / "out", [stage], scale=2, steps=2)
    assert made.done == ["a.png"] and not made.failed
    large = moving(tmp_path / "out" / "a.png")
    assert (large.size, large.frames, times(large)) == ((18, 14), 3, ([40, 120, 80], 0))
    first, second, third = frames(large)
    assert np.array_equal(first, third) and not np.array_equal(first, second)
    np.testing.assert_array_equal(first, cdm.upscale(np.asarray(smooth((9, 7), seed=0)), stage, scale=2, steps=2))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.png", RECORD}
    entry = records(tmp_path / "out")[-1]
    assert (entry["state"], entry["frames"], entry["size"]) == ("done", 3, [14, 18])
    assert write_photos([tmp_path / "a.png"], tmp_path / "out", [stage], scale=2, steps=2).kept == ["a.png"]


def test_frames_that_are_there_are_not_made_again(stage, tmp_path):
    animation(tmp_path / "a.png")
    arguments = [tmp_path / "a.png"], tmp_path / "out", [stage], 2
    write_photos(*arguments, steps=2)
    lines = (tmp_path / "out" / RECORD).read_text().splitlines()
    (tmp_path / "out" / RECORD).write_text(lines[0] + "\n")  # begun, and stopped after a frame
    (tmp_path / "out" / "a.png").unlink()
    (tmp_path / "out" / ".a.png.frames").mkdir()
    Image.new("RGB", (14, 18), "red").save(tmp_path / "out" / ".a.png.frames" / (NUMBERED % 0))
    assert write_photos(*arguments, steps=2).done == ["a.png"]
    first, _, third = frames(moving(tmp_path / "out" / "a.png"))
    assert np.all(first == (255, 0, 0)) and not np.array_equal(first, third)
    (tmp_path / "out" / "a.png").unlink()
    (tmp_path / "out" / ".a.png.frames").mkdir()  # of other settings
    Image.new("RGB", (14, 18), "red").save(tmp_path / "out" / ".a.png.frames" / (NUMBERED % 0))
    assert write_photos(*arguments, steps=1).done == ["a.png"]
    assert not np.all(next(frames(moving(tmp_path / "out" / "a.png"))) == (255, 0, 0))


@pytest.mark.parametrize("changes", [{"samples": 2}, {"format": "jpeg"}, {"format": "tiff"}])
def test_what_moving_pictures_can_not_become(stage, tmp_path, changes):
    animation(tmp_path / "a.png")
    made = write_photos([tmp_path / "a.png"], tmp_path / "out", [stage], scale=2, **changes)
    assert re.match(r"`(samples|format)` \(=", made.failed[str(tmp_path / "a.png")])
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not installed(), reason="ffmpeg is not installed")
def test_a_video_goes_through_a_stage(stage_folder, tmp_path):
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=16x8:rate=4:duration=0.5",
                    tmp_path / "film.mkv"], check=True)
    assert call(tmp_path, "--stage", stage_folder, "--size", "32x16", "--out", tmp_path / "out") == 0
    large = moving(tmp_path / "out" / "film.mkv")
    assert (large.size, large.frames, large.rate) == ((16, 32), 2, "4/1")
    told = subprocess.run(["ffprobe", "-v", "error", "-show_entries", "format_tags", tmp_path / "out" / "film.mkv"],
                          capture_output=True, check=True).stdout.decode()
    assert records(tmp_path / "out")[-1]["stages"][0]["sha256"] in told


def test_a_tree_is_mirrored_and_done_work_is_skipped(stage_folder, photos, tmp_path, capfd):
    (photos / "notes.txt").write_text("no picture")
    arguments = photos, "--stage", stage_folder, "--scale", 2, "--out", tmp_path / "out"
    before = tree(photos)
    assert call(*arguments) == 0
    captured = capfd.readouterr()
    assert "3 upscaled, 0 done before, 0 failed" in captured.out and "1 other files ignored" in captured.out
    assert "3 pictures to 0.00 megapixels: " in captured.err and "windows x steps, about 0:00:0" in captured.err
    first = tree(tmp_path / "out")
    assert set(first) == {"a.png", "b.png", "deep/c.png", RECORD} and tree(photos) == before
    assert call(*arguments) == 0 and tree(tmp_path / "out") == first
    assert "0 upscaled, 3 done before, 0 failed" in capfd.readouterr().out
    smooth((30, 9), seed=9).save(photos / "new.png")
    assert call(*arguments) == 0 and "1 upscaled, 3 done before" in capfd.readouterr().out


def test_a_picture_does_not_depend_on_the_others(stage_folder, photos, tmp_path):
    for out, which in (("all", (photos,)), ("one", (photos / "b.jpg",)), ("glob", (photos / "*.jpg",))):
        assert call(*which, "--stage", stage_folder, "--scale", 2, "--out", tmp_path / out) == 0
    assert {(tmp_path / out / "b.png").read_bytes() for out in ("all", "one", "glob")} == {
        (tmp_path / "all" / "b.png").read_bytes()}


def test_nothing_is_overwritten_unasked(stage_folder, photos, tmp_path, capfd):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_text("mine")
    (out / "b.samples").mkdir()
    arguments = photos, "--stage", stage_folder, "--scale", 2, "--out", out
    assert call(*arguments) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cdm: ")]
    assert len(lines) == 2 and all("is there, made otherwise" in line for line in lines)
    assert (out / "a.png").read_text() == "mine" and (out / "deep" / "c.png").exists()
    assert call(*arguments, "--overwrite") == 0
    first = tree(out)
    assert call(*arguments, "--seed", 1) == 1 and tree(out) == first  # made with another seed
    smooth((6, 9), seed=5).save(photos / "a.png")
    assert call(*arguments) == 1 and tree(out) == first  # of another picture
    assert call(*arguments, "--seed", 1, "--overwrite") == 0 and tree(out)["a.png"] != first["a.png"]


def test_the_folder_of_the_pictures_can_be_written_to_beside_them(stage_folder, photos, tmp_path):
    before = tree(photos)
    for _ in range(2):
        assert call(photos, "--stage", stage_folder, "--scale", 2, "--out", photos / "large") == 0
    assert set(tree(photos)) - set(before) == {f"large/{name}" for name in ("a.png", "b.png", "deep/c.png", RECORD)}
    assert call(photos / "a.png", "--stage", stage_folder, "--scale", 2, "--out", photos) == 1
    assert {name: tree(photos)[name] for name in before} == before


def test_two_pictures_never_become_one_file(stage_folder, photos, tmp_path, capfd):
    smooth(seed=8).save(photos / "a.bmp")
    (tmp_path / "other").mkdir()
    smooth(seed=7).save(tmp_path / "other" / "a.png")
    arguments = "--stage", stage_folder, "--scale", 2, "--out", tmp_path / "out"
    assert call(photos, tmp_path / "other", *arguments) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cdm: ")]
    assert len(lines) == 2 and all("give it another `out`" in line for line in lines)
    assert set(tree(tmp_path / "out")) == {"a.png", "b.png", "deep/c.png", RECORD}


def test_globs_folders_and_hidden_files(photos, tmp_path):
    (photos / ".hidden.png").write_text("")
    out = tmp_path / "out"
    assert sorted(map(str, find([photos], out)[0])) == ["a.png", "b.jpg", "deep/c.webp"]
    assert sorted(map(str, find([photos / "**" / "*.webp"], out)[0])) == ["deep/c.webp"]
    assert sorted(map(str, find([photos / "*"], out)[0])) == ["a.png", "b.jpg", "deep/c.webp"]
    assert find([photos / "*.gif", photos / "none.png", photos], photos)[1] == {
        str(photos / "*.gif"): "matches no picture", str(photos / "none.png"): "does not exist",
        str(photos): "is the folder to write"}
    assert find([9999 * "a", photos], out)[1] == {9999 * "a": "does not exist"}
    (photos / "deep" / "large.png").write_text("")
    for own in (photos / "**" / "*", photos / "*" / "*", photos):  # what an earlier run made is no input
        assert not {pathlib.Path("deep/large.png"), pathlib.Path("large.png")} & find([own], photos / "deep")[0].keys()
    assert list(find([photos / "deep"], photos)[0].values()) == sorted((photos / "deep").iterdir())


def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(stage_folder, photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    base = "--stage", stage_folder, "--out", tmp_path / "out"
    for arguments in ((tmp_path / "empty", *base, "--scale", 2), (tmp_path / "none.jpg", *base, "--scale", 2),
                      (photos, *base, "--scale", 0.5), (photos, *base, "--scale", 2, "--format", "bmp"),
                      (photos, *base, "--scale", 2, "--fidelity", 2), (photos, *base, "--scale", 2, "--seed", -1),
                      (photos, *base, "--scale", 2, "--class", "zebra"),
                      (photos, "--stage", tmp_path / "none", "--out", tmp_path / "out", "--scale", 2)):
        assert call(*arguments) == 2
        error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("sr_16:")]
        assert len(error) == 1 and error[0].startswith("cdm: ") and not (tmp_path / "out").exists()
    for size in (("--size", "20"), ("--size", "0x5"), ("--scale", "2", "--size", "9x9"), ()):
        with pytest.raises(SystemExit):
            call(photos, *base, *size)


def test_the_limit_of_pixels_is_of_the_result_and_known_from_the_header(stage_folder, photos, tmp_path, capfd):
    large = encoded(Image.new("L", (10_000, 10_000)), "PNG")
    (photos / "large.png").write_bytes(large[:2000])  # the header and little more
    assert call(photos, "--stage", stage_folder, "--scale", 4, "--out", tmp_path / "out") == 1
    line, = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cdm: ")]
    assert "`max_pixels` (=100000000) must be at least the result's 40000x40000 = 1600000000" in line
    assert call(photos, "--stage", stage_folder, "--scale", 2, "--out", tmp_path / "small", "--max-pixels", 250) == 1
    assert set(tree(tmp_path / "small")) == {"a.png", RECORD}


def test_sizes_without_end_and_canvases_that_no_machine_holds_are_a_line(stage_folder, photos, tmp_path, capfd):
    smooth((1, 2000)).save(photos / "line.png")
    for size, rule in ((f"{10**18}x{10**18}", "`max_pixels` (=100000000) must be at least"),
                       ("2000x2000", "`size` (=2000x2000) of 2000x1 must need no more memory")):
        assert call(photos / "line.png", "--stage", stage_folder, "--size", size, "--out", tmp_path / "out") == 1
        line, = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cdm: ")]
        assert rule in line


def test_200_malformed_files_are_lines_and_the_rest_goes_on(stage_folder, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    for name, data in malformed(200, seed=1):
        (tmp_path / "in" / name).write_bytes(data)
    smooth((6, 9)).save(tmp_path / "in" / "zzz.png")
    arguments = tmp_path / "in", "--stage", stage_folder, "--size", "24x24", "--max-pixels", 576, "--format", "tiff"
    assert cli.main(["upscale", *map(str, arguments), "--steps", "1", "--out", str(tmp_path / "out")]) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cdm: ")]
    made = {p.relative_to(tmp_path / "out").name for p in (tmp_path / "out").rglob("*") if p.is_file()} - {RECORD}
    assert len(lines) + len(made) == 201 and len(lines) > 60 and len(made) > 40
    assert "zzz.tif" in made and all(name.endswith(".tif") for name in made)
    for name in made:
        read((tmp_path / "out" / name).read_bytes())


def test_a_full_disk_is_a_line_and_the_rest_goes_on(stage_folder, photos, tmp_path, capfd):
    """The limit of a file's size stands in for the disk's end."""
    smooth((60, 60), seed=3).save(photos / "large.png")
    arguments = photos, "--stage", stage_folder, "--scale", 2, "--out", tmp_path / "out", "--no-metadata"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    cdm.upscale(np.zeros((8, 8, 3), np.uint8), stage_folder, scale=2, steps=2)  # compiled, whose cache is a file too
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
    try:
        assert call(*arguments) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line, = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cdm: ")]
    assert "large.png" in line and "File too large" in line
    assert set(tree(tmp_path / "out")) == {"a.png", "b.png", "deep/c.png", RECORD}
    assert call(*arguments) == 0 and "large.png" in tree(tmp_path / "out")


def test_what_was_cut_short_between_picture_and_record_is_done_again(stage_folder, photos, tmp_path, capfd):
    arguments = photos, "--stage", stage_folder, "--scale", 2, "--samples", 2, "--out", tmp_path / "out"
    assert call(*arguments) == 0
    first, lines = tree(tmp_path / "out"), (tmp_path / "out" / RECORD).read_text().splitlines(keepends=True)
    for cut in ("".join(lines[:-1]), "".join(lines[:-1]) + lines[-1][:20]):
        (tmp_path / "out" / RECORD).write_text(cut)
        assert call(*arguments) == 0 and "1 upscaled, 2 done before" in capfd.readouterr().out
        assert {**tree(tmp_path / "out"), RECORD: 0} == {**first, RECORD: 0}
        assert call(*arguments) == 0 and "0 upscaled, 3 done before" in capfd.readouterr().out


def test_what_a_kill_left_of_a_file_is_taken_away(stage, photos, tmp_path):
    out, job = tmp_path / "out", {"steps": 2, "samples": 2}
    write_photos([photos / "a.png"], out, [stage], scale=2, **job)
    lines = (out / RECORD).read_text().splitlines(keepends=True)
    (out / RECORD).write_text("".join(lines[:-1]))
    (out / ".a.png.0123.partial").write_text("half")
    (out / ".a.samples.0123.partial").mkdir()
    (out / ".b.png.0123.partial").write_text("another's")
    write_photos([photos / "a.png"], out, [stage], scale=2, **job)
    assert {p.name for p in out.iterdir()} == {"a.png", "a.samples", RECORD, ".b.png.0123.partial"}


def test_what_was_taken_out_of_a_result_is_made_again_and_versions_go_with_their_picture(stage, photos, tmp_path):
    out, job = tmp_path / "out", dict(stages=[stage], scale=2, steps=2)
    write_photos([photos / "a.png"], out, samples=2, **job)
    first = tree(out)
    for take in (lambda: (out / "a.png").unlink(), lambda: shutil.rmtree(out / "a.samples")):
        take()
        assert write_photos([photos / "a.png"], out, samples=2, **job).done == ["a.png"]
        assert {**tree(out), RECORD: 0} == {**first, RECORD: 0}
    assert write_photos([photos / "a.png"], out, **job).failed  # made otherwise
    assert write_photos([photos / "a.png"], out, overwrite=True, **job).done and set(tree(out)) == {"a.png", RECORD}
    (out / "a.png").unlink()
    (out / "a.samples").mkdir()  # another's
    assert "a.samples is there" in str(write_photos([photos / "a.png"], out, **job).failed)


def test_one_process_at_a_time(stage, stage_folder, photos, tmp_path):
    (tmp_path / "out").mkdir()
    with hold(tmp_path / "out", "out"), pytest.raises(ValueError, match="one process at a time"):
        write_photos([photos], tmp_path / "out", [stage], scale=2, steps=2)
    assert not tree(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("sign, code", ((signal.SIGTERM, 75), (signal.SIGKILL, -9)))
def test_an_interrupted_batch_is_resumed(sign, code, stage_folder, photos, tmp_path):
    for i in range(10):
        smooth((20, 20), seed=i).save(photos / f"z{i:02d}.png")
    out, stages = tmp_path / "out", [cdm.load_stage(stage_folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "cdm.cli", "upscale", photos, "--stage", stage_folder, "--scale", "2", "--steps", "20",
         "--out", out], cwd=pathlib.Path(__file__).parents[1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / "z01.png").exists() and process.poll() is None:
        time.sleep(0.01)
    with pytest.raises(ValueError, match="one process at a time"):
        write_photos([photos], out, stages, scale=2, steps=20)
    process.send_signal(sign)
    assert process.wait() == code
    if sign == signal.SIGTERM:
        assert not list(out.rglob(".*"))
    options = dict(aug_level=None, label=None, fidelity=0.0, samples=1, consistent=False, colour_lock=True)  # as there
    made = write_photos([photos], out, stages, scale=2, steps=20, **options)
    assert not made.failed and len(made.kept) > 2 and len(made.done) + len(made.kept) == 13
    write_photos([photos], tmp_path / "straight", stages, scale=2, steps=20, **options)
    assert {**tree(out), RECORD: 0} == {**tree(tmp_path / "straight"), RECORD: 0}
