"""Laws of the folder that `cdm sample` writes: complete, resumable, repeatable, in every format."""

import json
import shutil
import zipfile

import numpy as np
import pytest

from cdm.cascade import Cascade
from cdm.data.sources import open_source
from cdm.images.files import hold, read_image, write_json
from cdm.samples import write_samples


def pictures(folder):
    return {path.name: read_image(path) for path in folder.glob("*.png") if path.name != "grid.png"}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def unpacked(folder, format):
    """The images of an archive by file name."""
    if format == "zip":
        with zipfile.ZipFile(folder / "samples.zip") as z:
            z.extractall(folder / "unpacked")
        return pictures(folder / "unpacked")
    with np.load(folder / "samples.npz") as arrays:
        return dict(zip(arrays["files"], arrays["arr_0"]))


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


def test_previews_lead_to_the_image_and_change_nothing(whole, cascade, tmp_path):
    write_samples(cascade, tmp_path, [0, 2], 1, seed=5, batch_size=2, previews=3)
    for name, image in pictures(tmp_path).items():
        np.testing.assert_array_equal(image, read_image(whole / name))
        for folder, side in (("base_8", 8), ("sr_16", 16), ("sr_32", 32)):
            first, *_, last = np.split(read_image(tmp_path / "previews" / folder / name).astype(int), 3, axis=1)
            made = read_image((tmp_path if folder == "sr_32" else tmp_path / folder) / name)
            np.testing.assert_array_equal(last, made)
            assert first.shape == (side, side, 3) and np.abs(first - last).mean() > 1


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


def test_pictures_that_nothing_accounts_for_are_not_taken_for_samples(whole, cascade, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / "samples.json").unlink()
    with pytest.raises(ValueError, match="animals_00000.png but no samples.json"):
        write_samples(cascade, tmp_path / "out", [0, 2], 2, seed=5)


def test_a_refused_command_leaves_the_folder_as_it_was(whole, cascade, tmp_path):
    write_samples(cascade, tmp_path, [0], 1, seed=5, stop_at="base_8", batch_size=2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for change in (dict(seed=6), dict(n=2), dict(hand_over="truncated")):
        with pytest.raises(ValueError):
            write_samples(cascade, tmp_path, [0], **{"n": 1, "seed": 5, "start_at": "sr_16", **change})
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("format", ["png", "npz", "zip"])
def test_a_run_that_was_stopped_may_be_finished_with_fewer_images(cascade, tmp_path, monkeypatch, format):
    """samples.json tells of what there is, not of what an earlier command had meant to make."""
    def stopped(self, *arguments, run=Cascade.run, **named):
        batches = run(self, *arguments, **named)
        yield next(batches)
        batches.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Cascade, "run", stopped)
        write_samples(cascade, tmp_path, [0], 6, stop_at="base_8", batch_size=2, format=format)
    about = write_samples(cascade, tmp_path, [0], 3, stop_at="base_8", batch_size=2, format=format)
    files = [image["file"] for image in about["images"]]
    assert files == [f"animals_{i:05d}.png" for i in range(3)]
    if format == "png":
        assert sorted(path.name for path in tmp_path.glob("animals_*")) == files
    else:
        assert len(open_source(str(tmp_path))) == 3


def test_two_processes_do_not_write_one_folder(cascade, tmp_path):
    with hold(tmp_path, "out"), pytest.raises(ValueError, match="`out` .*one process at a time"):
        write_samples(cascade, tmp_path, [0], 1)


def test_states_handed_on_noisy_are_not_shown_as_pictures(cascade, tmp_path):
    write_samples(cascade, tmp_path, [0], 1, hand_over=["truncated", "non_truncated"], aug_level=0.2, batch_size=2)
    assert not (tmp_path / "base_8").exists() and (tmp_path / "sr_16" / "animals_00000.png").exists()


@pytest.mark.parametrize("change", [dict(seed=6), dict(steps=3), dict(stop_at="sr_16"), dict(format="zip")])
def test_a_folder_of_other_settings_is_refused_by_the_name_of_what_differs(change, whole, cascade):
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"`out` .*differ.*{name}"):
        write_samples(cascade, whole, [0, 2], 2, **{"seed": 5, **change})


def test_a_later_start_goes_on_from_an_earlier_stop_and_says_so(whole, cascade, tmp_path):
    write_samples(cascade, tmp_path, [0, 2], 2, seed=5, batch_size=2, stop_at="base_8")
    about = write_samples(cascade, tmp_path, [0, 2], 2, seed=5, batch_size=2, start_at="sr_16")
    assert all(image["start_at"] == "sr_16" for image in about["images"])
    assert all(image["start_at"] is None for image in json.loads((whole / "samples.json").read_text())["images"])
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
    assert same(unpacked(tmp_path, format), pictures(whole))
    if format == "npz":
        with np.load(tmp_path / "samples.npz") as arrays:
            assert list(arrays["arr_1"]) == [0, 2, 0, 2]


@pytest.mark.parametrize("format", ["zip", "npz"])
def test_a_killed_archive_is_finished_by_the_same_command(format, whole, cascade, tmp_path):
    write_samples(cascade, tmp_path, [0], 1, seed=5, batch_size=2, format=format)
    # As a process leaves it that is killed while it adds to the folder: listed, some images there, not packed.
    about = json.loads((tmp_path / "samples.json").read_text())
    more = [{"file": f"{name}.png", "class": name[:-6], "label": label, "count": int(name[-1]), "start_at": None}
            for name, label in (("symbols_00000", 2), ("animals_00001", 0), ("symbols_00001", 2))]
    write_json(tmp_path / "samples.json", {**about, "images": about["images"] + more, "complete": False})
    (tmp_path / "images.partial").mkdir()
    shutil.copy(whole / "symbols_00000.png", tmp_path / "images.partial")
    write_samples(cascade, tmp_path, [0, 2], 2, seed=5, batch_size=2, format=format)
    assert same(unpacked(tmp_path, format), pictures(whole))
    assert not (tmp_path / "images.partial").exists()


@pytest.mark.parametrize("bad", [dict(n=0), dict(previews=-1), dict(seed=-1), dict(format="gif"), dict(steps=0), dict(aug_level=0.9),
                                 dict(batch_size=0), dict(stop_at="sr_64"), dict(guidance=-1.0)])
def test_bad_arguments_are_one_line_and_nothing_is_written(bad, cascade, tmp_path):
    name = next(iter(bad))
    with pytest.raises(ValueError, match=f"^`{name}` \\(={bad[name]}\\)[^\n]*must[^\n]*$"):
        write_samples(cascade, tmp_path / "out", [0], **{"n": 1, **bad})
    assert not (tmp_path / "out").exists()
