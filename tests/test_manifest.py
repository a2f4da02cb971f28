"""A run's manifest: what its examples show is settled when it starts, and no file that breaks later stops it."""

import io
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from cdm.config import validate
from cdm.data import manifest
from cdm.data.decode import HEAD, check_header
from cdm.data.pipeline import Order, batches
from cdm.data.sources import open_source
from cdm.stage import Stage
from cdm.training import loop

BROKEN = {"food/empty.png": b"", "food/text.jpg": b"no picture", "symbols/head.png": b"\x89PNG\r\n\x1a\n"}


@pytest.fixture
def folder(class_folder, tmp_path):
    """A copy of the class folder that a test may spoil."""
    return shutil.copytree(class_folder, tmp_path / "pictures")


def spoil(folder):
    for name, data in BROKEN.items():
        (folder / name).write_bytes(data)
    with open(folder / "animals" / "huge.png", "wb") as f:  # more pixels than Pillow will open
        Image.new("1", (20_000, 10_000)).save(f)


def cut(path):
    """Spoil a picture below its header, where only decoding finds it."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_files_that_are_no_pictures_are_left_out_and_listed(folder, class_folder, tmp_path):
    spoil(folder)
    frozen = manifest.freeze(open_source(str(folder)), tmp_path)
    whole = open_source(str(class_folder))
    assert frozen.names == whole.names and frozen.classes == whole.classes
    np.testing.assert_array_equal(frozen.labels, whole.labels)
    assert set(frozen.excluded) == {*BROKEN, "animals/huge.png"}
    assert "DecompressionBombError" in frozen.excluded["animals/huge.png"]
    (note,) = frozen.notes()
    assert note.startswith("4 files are left out, animals/huge.png first (DecompressionBombError: ")
    for i in range(len(whole)):
        np.testing.assert_array_equal(frozen.read(i), whole.read(i))


def test_a_header_that_is_long_or_at_the_end_is_no_bad_file(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    (tmp_path / "set").mkdir()
    Image.fromarray(noise).save(tmp_path / "set" / "end.tif")
    Image.fromarray(noise).save(tmp_path / "set" / "long.jpg", icc_profile=noise.tobytes()[:70_000])
    Image.fromarray(noise).save(tmp_path / "set" / "whole.webp", lossless=True)
    assert not manifest.freeze(open_source(str(tmp_path / "set")), tmp_path).excluded


def test_a_header_is_all_that_is_read_of_a_file():
    data, limits = io.BytesIO(), []
    Image.effect_noise((400, 400), 100).save(data, "jpeg", quality=100)
    assert len(data.getvalue()) > HEAD

    def read(limit):
        limits.append(limit)
        return data.getvalue()[: limit if limit >= 0 else None]

    check_header(read)
    assert limits == [HEAD]


def test_a_set_of_bad_files_alone_is_one_line(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"none of its 1 files .*a\.png") as caught:
        manifest.freeze(open_source(str(tmp_path / "set")), tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / manifest.FILE).exists()


def test_a_file_that_a_table_names_and_is_not_there_is_left_out(folder, tmp_path):
    (folder / "labels.csv").write_text("file,label\nfood/0.png,a\nfood/none.png,b\n")
    frozen = manifest.freeze(open_source(str(folder)), tmp_path)
    assert frozen.names == ["food/0.png"] and "FileNotFoundError" in frozen.excluded["food/none.png"]


def test_what_comes_after_the_start_is_not_in_the_set(folder, tiny_base, tmp_path):
    before = list(batches(manifest.freeze(open_source(str(folder)), tmp_path), tiny_base, 0, 40))
    shutil.copy(folder / "food" / "0.png", folder / "food" / "00.png")
    shutil.copytree(folder / "food", folder / "drink")  # a class more, before the others in the order
    for frozen in (manifest.freeze, manifest.resume):
        source = frozen(open_source(str(folder)), tmp_path)
        assert source.classes == ("animals", "food", "symbols")
        assert source.notes() == ["6 files came since the run began and are not in it"]
        for one, other in zip(before, batches(source, tiny_base, 0, 40), strict=True):
            np.testing.assert_array_equal(one["image"], other["image"])
            np.testing.assert_array_equal(one["label"], other["label"])


def test_a_folder_that_became_a_zip_is_the_same_set(folder, tmp_path):
    first = manifest.freeze(open_source(str(folder)), tmp_path)
    shutil.make_archive(str(tmp_path / "moved"), "zip", folder)
    moved = manifest.resume(open_source(str(tmp_path / "moved.zip")), tmp_path)
    assert moved.names == first.names
    for i in range(len(first)):
        np.testing.assert_array_equal(moved.read(i), first.read(i))


@pytest.mark.parametrize("spoilt", [cut, lambda path: path.unlink()], ids=["cut", "gone"])
def test_a_file_that_fails_later_is_replaced_and_listed_once_and_for_all(spoilt, folder, tiny_base, tmp_path):
    whole = manifest.freeze(open_source(str(folder)), tmp_path)
    spoilt(folder / "food" / "1.png")
    source = manifest.resume(open_source(str(folder)), tmp_path)
    at, after = whole.names.index("food/1.png"), whole.names.index("food/2.png")
    assert len(source.notes()) == (not (folder / "food" / "1.png").exists())
    spoilt_batches = list(batches(source, tiny_base, 0, 40, bad=source.bad))
    source.write_bad()
    listed = json.loads((tmp_path / manifest.BAD).read_text())
    assert list(listed) == ["food/1.png"]
    order = Order(source, tiny_base, 40, source.bad)
    replaced = [n for n in range(40) if order.record(n) == at]
    assert replaced
    for n in replaced:
        image = spoilt_batches[n // 4]["image"][n % 4]
        np.testing.assert_array_equal(image, Order(source, tiny_base, 40)._read(after)[1])
    assert manifest.resume(open_source(str(folder)), tmp_path).bad == listed


def test_what_one_process_finds_bad_no_process_reads_again(folder, tmp_path):
    sources = [manifest.freeze(open_source(str(folder)), tmp_path, process) for process in range(2)]
    for source, name in zip(sources, ("food/1.png", "food/2.png")):
        source.bad[name] = "OSError: broken"
        source.write_bad()
    for process in range(3):
        assert set(manifest.resume(open_source(str(folder)), tmp_path, process).bad) == {"food/1.png", "food/2.png"}


def test_a_damaged_list_of_bad_files_is_named_as_what_may_go(folder, tmp_path):
    manifest.freeze(open_source(str(folder)), tmp_path)
    (tmp_path / manifest.BAD).write_text("{")
    with pytest.raises(ValueError, match="bad_files.json is damaged; without it the files in it are tried again"):
        manifest.resume(open_source(str(folder)), tmp_path)


def test_files_that_go_bad_are_told_of_and_half_of_them_end_the_run(folder, tmp_path):
    source = manifest.freeze(open_source(str(folder)), tmp_path)
    assert source.write_bad() is None
    source.bad["food/1.png"] = "OSError: broken"
    assert source.write_bad() == "1 more files could not be read and are replaced, food/1.png first"
    assert source.write_bad() is None
    before = (tmp_path / manifest.BAD).read_bytes()
    source.bad.update(dict.fromkeys(source.names[:7], "FileNotFoundError: unplugged"))
    with pytest.raises(ValueError, match="`data.source`: [78] of its 12 files can not be read"):
        source.write_bad()
    assert (tmp_path / manifest.BAD).read_bytes() == before


def test_a_source_that_is_not_that_of_the_run_is_one_line(folder, tmp_path):
    manifest.freeze(open_source(str(folder)), tmp_path)
    shutil.rmtree(folder / "symbols")
    (folder / "food" / "0.png").unlink()
    (folder / "food" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"`data.source` .* 7 of its 12 .*food/0\.png"):
        manifest.resume(open_source(str(folder)), tmp_path)


DAMAGE = {"empty": lambda data: b"", "text": lambda data: b"no gzip", "half": lambda data: data[:40],
          "hole": lambda data: data[:40] + bytes(20) + data[60:]}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_manifest_is_one_line(damage, folder, tmp_path):
    manifest.freeze(open_source(str(folder)), tmp_path)
    path = tmp_path / manifest.FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="manifest.json.gz is damaged") as caught:
        manifest.resume(open_source(str(folder)), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_set_with_bad_files_trains_and_lists_them(folder, run_config, tmp_path):
    spoil(folder)
    cut(folder / "symbols" / "2.png")
    run_config.data.source = str(folder)
    run_config.log.grid = 16  # grids show records too
    loop.train(run_config, tmp_path / "run")
    assert list(json.loads((tmp_path / "run" / manifest.BAD).read_text())) == ["symbols/2.png"]
    frozen = manifest.resume(open_source(str(folder)), tmp_path / "run")
    assert set(frozen.excluded) == {*BROKEN, "animals/huge.png"}
    (folder / "drink").mkdir()  # a class that came later does not stop the run from going on
    shutil.copy(folder / "food" / "0.png", folder / "drink" / "0.png")
    run_config.train.images = 40
    assert loop.train(run_config, tmp_path / "run").classes == ("animals", "food", "symbols")


def test_pictures_without_labels_are_not_balanced_and_no_run_is_begun(class_folder, run_config, tmp_path):
    shutil.copytree(class_folder / "food", tmp_path / "set")
    run_config.data.source, run_config.data.balance = str(tmp_path / "set"), True
    with pytest.raises(ValueError, match="`data.balance`"):
        loop.train(run_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["base", "sr"])
def test_pictures_without_labels_train(kind, class_folder, tiny_base, tiny_sr, tmp_path):
    config = {"base": tiny_base, "sr": tiny_sr}[kind]
    for i, file in enumerate(class_folder.rglob("*.png")):
        shutil.copy(file, tmp_path / f"{i}.png")
    config.model.multipliers, config.model.attention = (1,), ()
    validate(config)
    source = open_source(str(tmp_path))
    stage = Stage(config, source.classes)
    batch = next(batches(source, config, 0, 40))
    step = jax.jit(jax.value_and_grad(lambda p: stage.loss(p, **batch, seed=0), has_aux=True))
    (loss, _), gradients = step(stage.init())
    assert np.isfinite(loss) and set(batch["label"]) == {stage.null_label}
    assert any(np.any(g != 0) for g in jax.tree.leaves(gradients))
