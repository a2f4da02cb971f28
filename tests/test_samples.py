"""Laws of the folder that `cdm sample` writes: complete, resumable, repeatable, in every format."""

import json
import zipfile

import numpy as np
import pytest

from cdm.images.files import read_image
from cdm.samples import write_samples


def pictures(folder):
    return {path.name: read_image(path) for path in folder.glob("*.png") if path.name != "grid.png"}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(cascade, tmp_path_factory):
    """Two images of two classes through the whole chain."""
    out = tmp_path_factory.mktemp("whole")
    write_samples(cascade, out, [0, 2], 2, seed=5, batch_size=2)
    return out


def test_the_folder_has_an_image_each_a_grid_and_what_every_stage_handed_on(whole):
    names = {"animals_00000.png", "animals_00001.png", "symbols_00000.png", "symbols_00001.png"}
    found = pictures(whole)
    assert found.keys() == names and all(image.shape == (32, 32, 3) for image in found.values())
    assert read_image(whole / "grid.png").shape == (64, 64, 3)
    assert {p.name for p in (whole / "base_8").iterdir()} == names == {p.name for p in (whole / "sr_16").iterdir()}
    assert not list(whole.rglob("*.partial"))


def test_samples_json_is_enough_to_make_the_images_again(whole, cascade, tmp_path):
    about = json.loads((whole / "samples.json").read_text())
    settings = about["stages"].values()
    labels = list(dict.fromkeys(image["label"] for image in about["images"]))
    count = 1 + max(image["count"] for image in about["images"])
    write_samples(cascade, tmp_path / "again", labels, count, about["seed"], batch_size=2,
                  steps=[s["steps"] for s in settings], guidance=[s["guidance"] for s in settings],
                  sampler=[s["sampler"] for s in settings], aug_level=[s["aug_level"] for s in settings][1:],
                  hand_over=[s["hand_over"] for s in settings][1:])
    assert same(pictures(whole), pictures(tmp_path / "again"))


def test_what_is_there_is_not_made_again_and_what_is_missing_is(whole, cascade, tmp_path):
    out = tmp_path / "out"
    write_samples(cascade, out, [0, 2], 1, seed=5, batch_size=2)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*_0*.png")}
    (out / "symbols_00000.png").unlink()
    about = write_samples(cascade, out, [2, 0], 2, seed=5, batch_size=2)  # more of each, in another order
    assert same(pictures(whole), pictures(out)) and len(about["images"]) == 4
    assert (out / "animals_00000.png").stat().st_mtime_ns == before[out / "animals_00000.png"]


def test_other_classes_add_to_the_folder(cascade, tmp_path):
    write_samples(cascade, tmp_path, [0], 1, stop_at="base_8")
    about = write_samples(cascade, tmp_path, [1], 1, stop_at="base_8")
    assert {image["class"] for image in about["images"]} == {"animals", "food"}


@pytest.mark.parametrize("change", [dict(seed=6), dict(steps=3), dict(stop_at="sr_16"), dict(format="zip")])
def test_a_folder_of_other_settings_is_refused_by_the_name_of_what_differs(change, whole, cascade):
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"`out` .*differ.*{name}"):
        write_samples(cascade, whole, [0, 2], 2, **{"seed": 5, **change})


def test_a_later_start_goes_on_from_an_earlier_stop_and_says_so(whole, cascade, tmp_path):
    write_samples(cascade, tmp_path, [0, 2], 2, seed=5, batch_size=2, stop_at="base_8")
    about = write_samples(cascade, tmp_path, [0, 2], 2, seed=5, batch_size=2, start_at="sr_16")
    assert about["restarted_from_8_bit"] and not json.loads((whole / "samples.json").read_text())["restarted_from_8_bit"]
    assert set(about["stages"]) == {"base_8", "sr_16", "sr_32"}
    straight, resumed = pictures(whole), pictures(tmp_path)
    for name in straight:  # the same noise on an input rounded to 8 bits
        assert np.mean(np.abs(straight[name].astype(int) - resumed[name])) < 2


def test_a_start_without_its_input_is_refused_and_writes_nothing(cascade, tmp_path):
    with pytest.raises(ValueError, match="`start_at` .*base_8.*animals_00000.png is missing"):
        write_samples(cascade, tmp_path / "out", [0], 1, start_at="sr_16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["zip", "npz"])
def test_an_archive_holds_the_same_images_and_grows(format, whole, cascade, tmp_path):
    for n in (1, 2):
        write_samples(cascade, tmp_path, [0, 2], n, seed=5, batch_size=2, format=format)
    assert {p.name for p in tmp_path.iterdir()} == {"samples.json", f"samples.{format}"}
    names = [image["file"] for image in json.loads((tmp_path / "samples.json").read_text())["images"]]
    if format == "zip":
        with zipfile.ZipFile(tmp_path / "samples.zip") as z:
            z.extractall(tmp_path / "images")
        found = pictures(tmp_path / "images")
    else:
        with np.load(tmp_path / "samples.npz") as z:
            found = dict(zip(names, z["arr_0"]))
            assert list(z["arr_1"]) == [0, 2, 0, 2]
    assert same(found, pictures(whole))


@pytest.mark.parametrize("bad", [dict(n=0), dict(seed=-1), dict(format="gif"), dict(steps=0), dict(aug_level=0.9),
                                 dict(batch_size=0), dict(stop_at="sr_64"), dict(guidance=-1.0)])
def test_bad_arguments_are_one_line_and_nothing_is_written(bad, cascade, tmp_path):
    name = next(iter(bad))
    with pytest.raises(ValueError, match=f"^`{name}` \\(={bad[name]}\\)[^\n]*must[^\n]*$"):
        write_samples(cascade, tmp_path / "out", [0], **{"n": 1, **bad})
    assert not (tmp_path / "out").exists()
