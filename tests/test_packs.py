"""Packs hold the squares that training would make, whole or not at all; a check tells what is odd."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from cdm import cli
from cdm.data import manifest
from cdm.data.check import check, summary
from cdm.data.packs import INDEX, RECORDS, pack
from cdm.data.pipeline import batches
from cdm.data.reading import read_square
from cdm.data.sources import open_source
from cdm.training.loop import warnings


def call(*arguments):
    return cli.main([str(a) for a in arguments])


@pytest.mark.parametrize("square", ["center", "adm"])
def test_a_pack_is_the_squares_of_its_source(square, class_folder, tmp_path):
    source = open_source(str(class_folder))
    pack(source, tmp_path / "pack", 8, square)
    packed = pickle.loads(pickle.dumps(open_source(str(tmp_path / "pack"))))
    assert packed.names == source.names and packed.classes == source.classes
    np.testing.assert_array_equal(packed.labels, source.labels)
    for i in range(len(source)):
        np.testing.assert_array_equal(packed.read(i), read_square(source, i, 8, square))


def test_a_stage_that_is_larger_than_its_pack_is_told_so(class_folder, tiny_sr, tmp_path):
    pack(open_source(str(class_folder)), tmp_path / "pack", 8)
    source = manifest.freeze(open_source(str(tmp_path / "pack")), tmp_path / "run")
    assert any("are 8 px and enlarged to `size` (=16)" in line for line in warnings(tiny_sr, source))
    with tiny_sr.unlocked():
        tiny_sr.size = 8
    assert not any("enlarged" in line for line in warnings(tiny_sr, source))


def test_training_from_a_pack_sees_what_it_would_without(class_folder, tiny_base, tmp_path):
    source = open_source(str(class_folder))
    pack(source, tmp_path / "pack", 8)
    packed = batches(open_source(str(tmp_path / "pack")), tiny_base, 0, 40)
    for one, other in zip(batches(source, tiny_base, 0, 40), packed, strict=True):
        for name in ("image", "label", "index"):
            np.testing.assert_array_equal(one[name], other[name])


def test_bad_files_are_left_out_and_listed(class_folder, tmp_path, capsys):
    folder = shutil.copytree(class_folder, tmp_path / "set")
    (folder / "animals" / "bad.png").write_bytes(b"no picture")
    assert call("data", "pack", folder, "--size", 8, "--out", tmp_path / "pack") == 0
    assert "animals/bad.png" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "pack" / INDEX).read_text())["bad"]) == ["animals/bad.png"]
    assert open_source(str(tmp_path / "pack")).names == open_source(str(class_folder)).names


def test_a_compressed_tar_is_packed_and_leaves_nothing_beside(class_folder, tmp_path, capsys):
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(class_folder, "set")
    assert call("data", "check", tmp_path / "set.tar.gz") == 2
    assert "cdm data pack" in capsys.readouterr().err
    assert call("data", "pack", tmp_path / "set.tar.gz", "--size", 8, "--out", tmp_path / "pack") == 0
    assert sorted(os.listdir(tmp_path)) == ["pack", "set.tar.gz"]
    assert open_source(str(tmp_path / "pack")).names == open_source(str(class_folder)).names


def test_a_cut_compressed_tar_is_one_line_and_leaves_nothing(class_folder, tmp_path, capsys):
    with tarfile.open(tmp_path / "set.tgz", "w:gz") as archive:
        archive.add(class_folder, "set")
    whole = (tmp_path / "set.tgz").read_bytes()
    for name, data in (("set.tgz", whole[:500]), ("set.tar.bz2", b"no archive")):
        (tmp_path / "set.tgz").unlink(missing_ok=True)
        (tmp_path / name).write_bytes(data)
        assert call("data", "pack", tmp_path / name, "--size", 8, "--out", tmp_path / "pack") == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and name in told and os.listdir(tmp_path) == [name]


def test_what_is_there_is_not_overwritten(class_folder, tmp_path, capsys):
    (tmp_path / "pack").mkdir()
    assert call("data", "pack", class_folder, "--size", 8, "--out", tmp_path / "pack") == 2
    assert "`out`" in capsys.readouterr().err and not os.listdir(tmp_path / "pack")


def test_a_set_without_a_good_file_makes_no_pack(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "bad.png").write_bytes(b"no picture")
    assert call("data", "pack", tmp_path / "set", "--size", 8, "--out", tmp_path / "pack") == 2
    assert "bad.png" in capsys.readouterr().err and os.listdir(tmp_path) == ["set"]


@pytest.fixture
def noise(tmp_path):
    """A folder of pictures that do not compress."""
    (tmp_path / "noise").mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (128, 128, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "noise" / f"{i}.png", compress_level=0)
    return tmp_path / "noise"


def test_a_full_disk_is_one_line_and_leaves_nothing(noise, tmp_path):
    """A limit of the size of files stands for the disk: the write fails alike."""
    command = [sys.executable, "-m", "cdm.cli", "data", "pack", noise, "--size", "128", "--out", tmp_path / "pack"]
    before = sorted(os.listdir(tmp_path))
    limited = ["bash", "-c", 'ulimit -f 512 && exec "$@"', "bash", *command]
    done = subprocess.run(limited, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("cdm: ") and done.stderr.count("\n") == 1
    assert "too large" in done.stderr and sorted(os.listdir(tmp_path)) == before


def test_killed_in_the_middle_there_is_no_pack(noise, tmp_path):
    for i in range(40, 400):
        os.link(noise / "0.png", noise / f"{i}.png")
    command = [sys.executable, "-m", "cdm.cli", "data", "pack", noise, "--size", "128", "--out", tmp_path / "pack"]
    process = subprocess.Popen(command)
    while not [p for p in tmp_path.glob(".pack.*/*") if p.stat().st_size]:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "pack").exists()
    assert call("data", "pack", noise, "--size", 8, "--out", tmp_path / "pack") == 0


DAMAGE = {
    "cut": (RECORDS, lambda data: data[: len(data) // 2]),
    "empty": (RECORDS, lambda data: b""),
    "a name short": (INDEX, lambda data: data.replace(b'"animals/0.png",', b"")),
    "half an index": (INDEX, lambda data: data[:100]),
    "another version": (INDEX, lambda data: data.replace(b'version": 1', b'version": 2')),
}


@pytest.mark.parametrize("name, change", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_pack_is_one_line(name, change, class_folder, tmp_path):
    pack(open_source(str(class_folder)), tmp_path / "pack", 8)
    path = tmp_path / "pack" / name
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    with pytest.raises(ValueError, match="`pack`") as caught:
        open_source(str(tmp_path / "pack"))
    assert "\n" not in str(caught.value)


def test_a_check_lists_what_is_odd_and_what_becomes_of_it(class_folder, tmp_path, capsys):
    folder = shutil.copytree(class_folder, tmp_path / "set")
    Image.new("CMYK", (40, 40)).save(folder / "food" / "print.jpg")
    Image.new("RGBA", (2, 3)).save(folder / "food" / "dot.png")
    (folder / "food" / "phone.heic").write_bytes(b"what Pillow does not read")
    whole = (folder / "food" / "0.png").read_bytes()
    (folder / "food" / "0.png").write_bytes(whole[: len(whole) // 2])
    assert call("data", "check", folder, "--size", 16, "--out", tmp_path / "report.json") == 0
    report, text = json.loads((tmp_path / "report.json").read_text()), capsys.readouterr().out
    assert report["pictures"] == 14 and report["classes"] == {"animals": 3, "food": 6, "symbols": 5}
    assert {name: sorted(kinds) for name, kinds in report["files"].items()} == {
        "food/0.png": ["corrupt"], "food/dot.png": ["alpha", "tiny"], "food/print.jpg": ["CMYK"]}
    assert "left out" in report["files"]["food/0.png"]["corrupt"] and "2x3" in report["files"]["food/dot.png"]["tiny"]
    assert all(name in text for name in report["files"])
    assert report["others"] == ["food/phone.heic"] and "1 files with .heic" in text


def test_a_check_reads_sources_that_are_no_files(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 4, 4, 3), np.uint8))
    report = check(open_source(str(tmp_path / "x.npz")), size=8)
    assert [sorted(kinds) for kinds in report["files"].values()] == [["tiny"]] * 3 and not report["classes"]
    assert "without labels" in summary(report)


MISTAKES = ["check", "show .", "check . --size -1", "pack . --out x", "pack . --size 0 --out x", "pack . --size 8"]


@pytest.mark.parametrize("arguments", [text.split() for text in MISTAKES], ids=MISTAKES)
def test_a_mistake_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        call("data", *arguments)
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
