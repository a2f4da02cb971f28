"""Sets of images to measure: strict, the same set however it is stored, and their features kept on disk."""

import shutil

import numpy as np
import pytest
from PIL import Image

from cdm.data.packs import pack
from cdm.data.sources import FluentEmoji, open_source
from cdm.evals import sets
from cdm.evals.extract import extract
from cdm.evals.sets import ImageSet
from cdm.samples import write_samples


def folder(path, pixels):
    path.mkdir(parents=True)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return path


def name(spec, size=None):
    one = ImageSet(spec, size)
    return sets.sha256(np.concatenate([sets.digests(batch) for batch in one.batches(3)]))


def test_a_set_is_known_by_its_pixels_however_it_is_stored(tmp_path, smooth):
    pixels = smooth(10)
    stored = [folder(tmp_path / "folder", pixels), folder(tmp_path / "turned", pixels[::-1])]
    stored.append(shutil.make_archive(str(tmp_path / "zip"), "zip", tmp_path / "folder"))
    for save in (np.savez, np.savez_compressed):
        stored.append(tmp_path / f"{save.__name__}.npz")
        save(stored[-1], arr_0=pixels, arr_1=np.zeros(10, int))
    pack(open_source(tmp_path / "folder"), tmp_path / "pack", 16)
    assert len({name(spec) for spec in [*stored, tmp_path / "pack"]}) == 1
    pixels[3, 0, 0, 0] ^= 1
    assert name(folder(tmp_path / "other", pixels)) != name(stored[0])


def test_batches_are_the_images_in_order_from_anywhere(tmp_path, smooth):
    pixels = smooth(10)
    one = ImageSet(folder(tmp_path / "a", pixels))
    assert [len(batch) for batch in one.batches(4)] == [4, 4, 2] and one.size == [16, 16] and len(one) == 10
    np.testing.assert_array_equal(np.concatenate(list(one.batches(4, start=3))), pixels[3:])


def test_a_stored_array_stays_on_disk(tmp_path, smooth):
    np.savez(tmp_path / "a.npz", arr_0=smooth(4), arr_1=np.arange(4))
    source = open_source(tmp_path / "a.npz")
    assert isinstance(source._images, np.memmap) and list(source.labels) == [0, 1, 2, 3]
    np.testing.assert_array_equal(np.stack([source.read(i) for i in range(4)]), smooth(4))


@pytest.mark.parametrize("format", ["png", "zip", "npz"])
def test_a_folder_of_samples_is_its_images_and_no_others(format, cascade, tmp_path):
    write_samples(cascade, tmp_path / "out", [2, 0], 2, batch_size=2, format=format)
    source = open_source(tmp_path / "out")
    found = sorted((n, source.classes[label]) for n, label in zip(source.names, source.labels))
    assert found == [(f"{c}_{i:05d}.png", c) for c in ("animals", "symbols") for i in range(2)]
    assert all(source.read(i).shape == (32, 32, 3) for i in range(4))
    if format == "zip":  # the archive tells of itself
        assert open_source(tmp_path / "out" / "samples.zip").classes == source.classes


def test_samples_without_classes_have_no_labels_and_unfinished_ones_are_refused(tmp_path, smooth):
    out = folder(tmp_path / "out", smooth(3))
    shutil.copy(out / "000.png", out / "grid.png")

    def write(complete):
        rows = ", ".join(f'{{"file": "{i:03d}.png", "class": "sample", "label": 0}}' for i in range(3))
        (out / "samples.json").write_text(f'{{"format": "png", "complete": {complete}, "images": [{rows}]}}')

    write("true")
    source = open_source(out)
    assert source.classes == () and source.names == ["000.png", "001.png", "002.png"]
    write("false")
    with pytest.raises(ValueError, match="`data.source` .*whole.*cdm sample"):
        open_source(out)
    (out / "samples.json").write_text('{"complete": true}')
    with pytest.raises(ValueError, match="samples.json can not be read: KeyError"):
        open_source(out)


def test_the_embedded_set_by_its_splits():
    assert len(open_source("fluent_emoji:heldout")) == len(FluentEmoji("heldout"))
    with pytest.raises(ValueError, match="`split` .*=dev.*heldout"):
        open_source("fluent_emoji:dev")


def corrupt(path, smooth):
    (folder(path, smooth(3)) / "001.png").write_bytes(b"no picture")


def mixed(path, smooth):
    Image.fromarray(smooth(1, size=8)[0]).save(folder(path, smooth(3)) / "9.png")


def floats(path, smooth):
    data = np.full((16, 16), np.nan, np.float32)
    Image.fromarray(data).save(folder(path, smooth(2)) / "9.tif")


BAD = {"corrupt": (corrupt, "001.png can not be read"), "mixed": (mixed, "of one size.*16x16, 9.png 8x8"),
       "NaN": (floats, "9.tif can not be read .*floats"),
       "empty": (lambda path, smooth: path.mkdir(), "must hold pictures"),
       "not there": (lambda path, smooth: None, "there is none")}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_set_is_one_line(kind, tmp_path, smooth):
    make, line = BAD[kind]
    make(tmp_path / "x", smooth)
    with pytest.raises(ValueError, match=f"`images` .*=.*x.*{line}") as caught:
        list(ImageSet(tmp_path / "x").batches(2))
    assert "\n" not in str(caught.value)


def test_arrays_of_floats_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", arr_0=np.full((2, 8, 8, 3), np.nan))
    with pytest.raises(ValueError, match="`images` .*uint8, not .*float64"):
        ImageSet(tmp_path / "x.npz")


def test_a_given_size_makes_squares_of_one(tmp_path, smooth):
    mixed(tmp_path / "x", smooth)
    one = ImageSet(tmp_path / "x", 8)
    assert one.size == [8, 8] and [batch.shape for batch in one.batches(9)] == [(4, 8, 8, 3)]


def test_features_go_on_where_they_were_stopped(extractor, tmp_path, monkeypatch, smooth):
    monkeypatch.setattr("cdm.evals.extract.BATCH", 4)
    pixels = smooth(30)
    one = ImageSet(folder(tmp_path / "a", pixels))
    straight = extract(one, extractor, tmp_path / "straight", ["pool", "logits"])
    np.testing.assert_allclose(straight.parts["pool"], extractor(pixels)["pool"], atol=1e-5)
    assert straight.sha256 == name(tmp_path / "a") and straight.parts.keys() == {"pool", "logits"}

    class Stops(type(extractor)):
        def __call__(self, images):
            if self.images >= 16:
                raise KeyboardInterrupt
            return super().__call__(images)

    with pytest.raises(KeyboardInterrupt):
        extract(one, Stops(), tmp_path / "b", ["pool", "logits"])
    extractor.images = 0
    resumed = extract(one, extractor, tmp_path / "b", ["pool", "logits"])
    assert extractor.images == 30 - 16 and resumed.sha256 == straight.sha256
    np.testing.assert_array_equal(resumed.parts["pool"], straight.parts["pool"])
    extract(ImageSet(tmp_path / "a", 8), extractor, tmp_path / "b")  # asked for otherwise
    assert extractor.images == 30 - 16 + 30


def test_features_that_are_not_finite_are_an_error_by_the_name_of_the_image(extractor, tmp_path, smooth):
    class Breaks(type(extractor)):
        def __call__(self, images):
            found = super().__call__(images)
            found["pool"][1, 2] = np.nan
            return found

    with pytest.raises(ValueError, match="`features` .*finite.*001.png"):
        extract(ImageSet(folder(tmp_path / "a", smooth(3))), Breaks(), tmp_path / "b")


@pytest.mark.parametrize("store", ["classes", "zip", "pack"])
def test_features_of_pictures_that_changed_are_made_again(store, tmp_path, extractor, smooth):
    """Whatever it is that was written to: a file deep in a folder, in place, under its old name."""
    pixels, place = smooth(8), tmp_path / "set"
    folder(place / "a", pixels[:4]), folder(place / "b", pixels[4:])

    def spec():
        if store == "zip":
            return shutil.make_archive(str(tmp_path / "zip"), "zip", place)
        if store == "pack":
            shutil.rmtree(tmp_path / "pack", ignore_errors=True)
            pack(open_source(place), tmp_path / "pack", 16)
            return tmp_path / "pack"
        return place

    one = spec()
    first = [extract(ImageSet(one), extractor, tmp_path / "features").sha256 for _ in range(2)]
    assert extractor.images == 8 and first[0] == first[1]
    with (place / "b" / "002.png").open("r+b") as file:
        Image.fromarray(255 - pixels[6]).save(file, format="png")
        file.truncate()
    assert extract(ImageSet(spec()), extractor, tmp_path / "features").sha256 != first[0] and extractor.images == 16


def test_chosen_images_are_in_the_order_that_was_asked_for(tmp_path, smooth):
    pixels = smooth(5)
    one = ImageSet(folder(tmp_path / "set", pixels), chosen=["003.png", "000.png"])
    np.testing.assert_array_equal(next(one.batches(9)), pixels[[3, 0]])
    assert len(one) == 2 and len(one.labels) == 2
