"""Sources: however the same pictures are stored, they are the same set; what is no set is one line that says why."""

import errno
import io
import json
import os
import pickle
import re
import shutil
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from cdm.data import manifest, reading
from cdm.data.decode import decode, oddities
from cdm.data.packs import pack
from cdm.data.reading import read_good, read_square
from cdm.data.sources import open_source
from cdm.stage import Stage


def contents(source):
    """{name: (class or None, pixels)} of a source."""
    classes = source.classes or (None,)
    return {name: (classes[source.labels[i]], source.read(i).tobytes()) for i, name in enumerate(source.names)}


def zipped(folder, path, prefix="", compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in folder.rglob("*"):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def tarred(folder, path, arcname=".", mode="w"):
    with tarfile.open(path, mode) as archive:
        archive.add(folder, arcname)
    return path


def tar_of_tars(folder, path):
    """As ImageNet's training images come: a tar a class, of its files, in one tar."""
    with tarfile.open(path, "w") as outer:
        for inner in sorted(folder.iterdir()):
            data = io.BytesIO()
            with tarfile.open(fileobj=data, mode="w") as archive:
                for file in sorted(inner.iterdir()):
                    archive.add(file, file.name)
            member = tarfile.TarInfo(f"{inner.name}.tar")
            member.size = data.tell()
            data.seek(0)
            outer.addfile(member, data)
    return path


ARCHIVES = {
    "zip": lambda f, p: zipped(f, p / "x.zip"),
    "zip in a folder": lambda f, p: zipped(f, p / "x.zip", "all/of it/", zipfile.ZIP_STORED),
    "tar": lambda f, p: tarred(f, p / "x.tar"),
    "tar in a folder": lambda f, p: tarred(f, p / "x.tar", "pictures"),
    "tar of tars": lambda f, p: tar_of_tars(f, p / "x.tar"),
}


@pytest.mark.parametrize("archive", ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_of_a_folder_is_that_folder(archive, class_folder, tmp_path):
    source, folder = open_source(str(archive(class_folder, tmp_path))), open_source(str(class_folder))
    assert source.classes == folder.classes and source.names == folder.names
    np.testing.assert_array_equal(source.labels, folder.labels)
    assert contents(source) == contents(folder)


@pytest.mark.parametrize("archive", [None, *ARCHIVES.values()], ids=["folder", *ARCHIVES])
def test_a_source_travels_to_another_process(archive, class_folder, tmp_path):
    source = open_source(str(archive(class_folder, tmp_path) if archive else class_folder))
    copy = pickle.loads(pickle.dumps(source))
    assert contents(copy) == contents(source)


def test_a_hard_link_in_a_tar_is_a_picture_too(class_folder, tmp_path):
    """GNU tar stores the second name of a file as a link to the first."""
    folder = shutil.copytree(class_folder, tmp_path / "pictures")
    os.link(folder / "food" / "0.png", folder / "food" / "twin.png")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(folder, "pictures")
    source = open_source(str(tmp_path / "set.tar"))
    assert contents(source) == contents(open_source(str(folder))) and "food/twin.png" in source.names


@pytest.mark.parametrize("archive", [None, "zip", "tar"])
def test_the_beginning_of_a_file_is_read_alone(archive, class_folder, tmp_path):
    source = open_source(str(ARCHIVES[archive](class_folder, tmp_path) if archive else class_folder))
    assert source.encoded(3, 10) == source.encoded(3)[:10] != b""


def test_many_threads_read_what_one_does(class_folder, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    for kind in ("zip", "tar"):
        source = open_source(str(ARCHIVES[kind](class_folder, tmp_path)))
        wanted = [source.encoded(i) for i in range(len(source))]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(source.encoded, list(range(len(source))) * 20)) == wanted * 20


@pytest.fixture
def flat(class_folder, tmp_path):
    """The files of the class folders in one folder, and {file: class}."""
    folder, labels = tmp_path / "flat", {}
    folder.mkdir()
    for file in sorted(class_folder.rglob("*.png")):
        name = f"{file.parent.name} – {file.name}"  # a space, and what is not ASCII
        shutil.copy(file, folder / name)
        labels[name] = file.parent.name
    return folder, labels


def csv_table(folder, labels):
    rows = "".join(f'"{name}",{label},x\n' for name, label in labels.items())
    (folder / "labels.csv").write_text("file,label,other\n" + rows, encoding="utf-8-sig")


def json_table(folder, labels):
    (folder / "labels.json").write_text(json.dumps(labels))


def edm_table(folder, labels):
    (folder / "dataset.json").write_text(json.dumps({"labels": list(labels.items())}))


@pytest.mark.parametrize("table", [csv_table, json_table, edm_table])
@pytest.mark.parametrize("archive", [None, "zip in a folder", "tar"])
def test_a_table_labels_as_folders_do(table, archive, flat, class_folder, tmp_path):
    folder, labels = flat
    table(folder, labels)
    source = open_source(str(ARCHIVES[archive](folder, tmp_path) if archive else folder))
    wanted = sorted(contents(open_source(str(class_folder))).values())
    assert source.classes == ("animals", "food", "symbols") and sorted(contents(source).values()) == wanted
    assert all(labels[name] == source.classes[label] for name, label in zip(source.names, source.labels))


@pytest.mark.parametrize("table", [csv_table, json_table, edm_table])
def test_numbers_are_classes_in_the_order_of_their_values(table, flat):
    folder, labels = flat
    table(folder, {name: {"animals": 10, "food": 9, "symbols": 2}[label] for name, label in labels.items()})
    source = open_source(str(folder))
    assert source.classes == ("2", "9", "10")
    assert {name.split()[0]: source.classes[i] for name, i in zip(source.names, source.labels)} == {
        "animals": "10", "food": "9", "symbols": "2"}


def test_a_table_says_which_pictures_are_in_the_set(flat):
    folder, labels = flat
    json_table(folder, dict(list(labels.items())[:5]))
    assert open_source(str(folder)).names == sorted(list(labels)[:5])


@pytest.mark.parametrize("table", [None, {"labels": None}])
def test_pictures_beside_each_other_have_no_labels(table, flat):
    folder, labels = flat
    if table:
        (folder / "dataset.json").write_text(json.dumps(table))
    source = open_source(str(folder))
    assert source.classes == () and source.names == sorted(labels) and not source.labels.any()


TABLES = {
    "no header": ("labels.csv", "a.png,1\n"),
    "a missing label": ("labels.csv", "file,label\na.png\n"),
    "an empty label": ("labels.csv", "file,label\na.png,\n"),
    "an empty file": ("labels.csv", ""),
    "not text": ("labels.csv", b"file,label\n\xff\xfe,1\n"),
    "a quote left open": ("labels.csv", 'file,label\n"a.png,1\n'),
    "a file twice": ("labels.csv", "file,label\na.png,1\n./a.png,2\n"),
    "a list": ("labels.json", '["a.png"]'),
    "half of it": ("labels.json", '{"a.png": '),
    "a fraction": ("labels.json", '{"a.png": 0.5}'),
    "a truth": ("labels.json", '{"a.png": true}'),
    "null": ("labels.json", '{"a.png": null}'),
    "a vector": ("dataset.json", '{"labels": [["a.png", [0, 1]]]}'),
    "no pair": ("dataset.json", '{"labels": ["a.png"]}'),
    "no file": ("dataset.json", '{"labels": [[3, 1]]}'),
}


@pytest.mark.parametrize("name, text", TABLES.values(), ids=TABLES)
def test_a_wrong_table_is_one_line_that_names_it(name, text, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=re.escape(name)) as caught:
        open_source(str(tmp_path))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def picture(path, size=(6, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path, **options)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


WRONG = {
    "nothing": lambda p: p / "none",
    "no kind of file": lambda p: picture(p / "a.png"),
    "an empty folder": lambda p: p,
    "no zip": lambda p: (p / "x.zip").write_text("no zip") and p / "x.zip",
    "an empty zip": lambda p: zipped(p / "none", p / "x.zip"),
    "a zip in a zip": lambda p: zipped(zipped(p / "none", p / "in" / "x.zip").parent, p / "x.zip"),
    "no tar": lambda p: (p / "x.tar").write_text("no tar") and p / "x.tar",
    "half a tar": lambda p: cut(tarred(picture(p / "in" / "a" / "a.bmp", (60, 60)).parents[1], p / "x.tar")),
    "half a tar in a tar": lambda p: cut(tar_of_tars(picture(p / "in" / "a" / "a.bmp", (60, 60)).parents[1],
                                                     p / "x.tar")),
    "a compressed tar": lambda p: tarred(picture(p / "in" / "a.png").parent, p / "x.tar.gz", mode="w:gz"),
    "pictures beside folders": lambda p: picture(p / "a.png") and picture(p / "b" / "b.png").parents[1],
    "splits": lambda p: picture(p / "val" / "b" / "b.png") and picture(p / "train" / "a" / "a.png").parents[2],
    "no arrays": lambda p: (p / "x.npz").write_text("no npz") and p / "x.npz",
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_what_is_no_source_is_one_line_that_names_it(make, tmp_path):
    (tmp_path / "in").mkdir()
    path = make(tmp_path)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        open_source(str(path))
    assert str(caught.value).startswith("`data.source`") and "\n" not in str(caught.value)


def test_hidden_files_and_those_of_macos_are_no_pictures(class_folder, tmp_path):
    shutil.copytree(class_folder, tmp_path / "in" / "set")
    (tmp_path / "in" / "set" / "food" / "._0.png").write_text("a resource fork")
    (tmp_path / "in" / "__MACOSX").mkdir()
    (tmp_path / "in" / "__MACOSX" / "0.png").write_text("a resource fork")
    source = open_source(str(zipped(tmp_path / "in", tmp_path / "x.zip")))
    assert source.names == open_source(str(class_folder)).names
    assert open_source(str(tmp_path / "in" / "set")).names == source.names


def test_a_link_back_up_ends(class_folder, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "food").symlink_to(class_folder / "food")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set")
    assert open_source(str(tmp_path / "set")).names == [f"food/{i}.png" for i in range(4)]


RANDOM = np.random.default_rng(0)
STACK = RANDOM.integers(0, 256, (5, 4, 6, 3), np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("images", "labels"), ("arr_0", "arr_1")])
@pytest.mark.parametrize("labels", [[7, 0, 7, 2, 0], ["b", "a", "b", "c", "a"], None], ids=["int", "text", "none"])
def test_arrays_are_what_was_saved(save, names, labels, tmp_path):
    save(tmp_path / "x.npz", **dict(zip(names, [STACK] if labels is None else [STACK, np.array(labels)])))
    source = pickle.loads(pickle.dumps(open_source(str(tmp_path / "x.npz"))))
    np.testing.assert_array_equal(np.stack([source.read(i) for i in range(len(source))]), STACK)
    assert source.classes == (() if labels is None else tuple(map(str, sorted(set(labels)))))
    assert [source.classes[i] for i in source.labels if source.classes] == [str(v) for v in labels or ()]


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 1)])
def test_grey_arrays_are_grey_pictures(shape, tmp_path):
    grey = STACK[..., :1].reshape(shape)
    np.savez(tmp_path / "x.npz", images=grey)
    read = open_source(str(tmp_path / "x.npz")).read(2)
    assert read.shape == (4, 6, 3) and all(np.array_equal(read[..., c], grey[2].reshape(4, 6)) for c in range(3))


ARRAYS = {
    "no images": {"pictures": STACK},
    "floats": {"images": STACK / 255},
    "channels first": {"images": STACK.transpose(0, 3, 1, 2)},
    "none": {"images": STACK[:0]},
    "labels of others": {"images": STACK, "labels": np.arange(4)},
    "labels one-hot": {"images": STACK, "labels": np.eye(5)},
    "labels of another kind": {"images": STACK, "labels": np.linspace(0, 1, 5)},
    "objects": {"images": np.array([None])},
}


@pytest.mark.parametrize("arrays", ARRAYS.values(), ids=ARRAYS)
def test_other_arrays_are_one_line(arrays, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "x.npz"))) as caught:
        open_source(str(tmp_path / "x.npz"))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def tfds_set(tmp_path_factory):
    """A tiny set, prepared by TFDS itself (which needs no TensorFlow for pictures that are files), and its labels."""
    import tensorflow_datasets as tfds

    labels = [1, 0, 0, 1, 1]

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["cat", "dog"])}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(range(3)), "test": self._generate_examples(range(3, 5))}

        def _generate_examples(self, which):
            for i in which:
                data = io.BytesIO()
                Image.fromarray(STACK[i]).save(data, "png")
                data.seek(0)
                yield i, {"image": data, "label": labels[i]}

    builder = Tiny(data_dir=str(tmp_path_factory.mktemp("tfds")), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path, labels


def test_a_tfds_set_is_read_without_tensorflow(tfds_set):
    folder, labels = tfds_set
    source = pickle.loads(pickle.dumps(open_source(f"tfds:{folder}")))
    wanted = sorted((("cat", "dog")[labels[i]], STACK[i].tobytes()) for i in range(3))
    assert sorted(contents(source).values()) == wanted and source.classes == ("cat", "dog")
    np.testing.assert_array_equal(source.labels, [source.labels[i] for i in range(3)])
    np.testing.assert_array_equal(source.labels[np.array([2, 0])], np.asarray(source.labels)[[2, 0]])
    for other in (open_source(f"tfds:{folder}:test"), open_source(f"tfds:{folder}", "test")):
        assert sorted(pixels for _, pixels in contents(other).values()) == sorted(STACK[i].tobytes() for i in (3, 4))
    assert "tensorflow" not in sys.modules


def test_a_run_that_moves_from_tfds_to_a_pack_keeps_its_labels(tfds_set, tmp_path):
    """Of a pack that could not read a record, whose records so lie elsewhere."""
    source = open_source(f"tfds:{tfds_set[0]}")
    frozen = manifest.freeze(source, tmp_path / "run")
    wanted = {name: int(frozen.labels[i]) for i, name in enumerate(frozen.names)}
    assert set(wanted.values()) == {0, 1}
    pack(source, tmp_path / "whole", 8)
    index = json.loads((tmp_path / "whole" / "index.json").read_text())

    class Turned:
        """The records from the last to the second."""

        names, labels, classes = source.names[:0:-1], np.asarray(source.labels)[:0:-1], source.classes

        def read(self, i):
            return source.read(len(source) - 1 - i)

        def __len__(self):
            return len(self.names)

    pack(Turned(), tmp_path / "pack", 8)
    moved = manifest.resume(open_source(str(tmp_path / "pack")), tmp_path / "run")
    assert moved.names == index["names"] == source.names
    for i, name in enumerate(moved.names[1:], 1):
        assert moved.labels[i] == wanted[name]


def test_without_tfds_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"pip install '.\[tfds\]'"):
        open_source("tfds:mnist")


@pytest.mark.parametrize("spec", ["no_such_set", "/no/such/folder", "{}:dev"])
def test_no_such_tfds_set_is_one_line(spec, tfds_set):
    with pytest.raises(ValueError, match="`data.source`") as caught:
        open_source("tfds:" + spec.format(tfds_set[0]))
    assert "\n" not in str(caught.value)


def test_classes_that_are_written_alike_are_refused_by_the_stage(tiny_base, tmp_path):
    for name in ("Food & Drink", "food-drink"):
        picture(tmp_path / name / "a.png")
    with pytest.raises(ValueError, match="`classes`"):
        Stage(tiny_base, open_source(str(tmp_path)).classes)


def cmyk(path):
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(path, format="jpeg")


def sixteen(path):
    Image.fromarray(np.full((4, 6), 30000, np.uint16)).save(path, format="png")


def palette(path):
    Image.new("RGB", (6, 4), "red").quantize(4).save(path, format="png", transparency=0)


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (4, 6)).save(path, format="jpeg", exif=exif)


def animated(path):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].save(path, format="gif", save_all=True, append_images=frames[1:])


def broken_exif(path):
    exif = b"Exif\0\0II*\0\xff\xff\xff\xff"
    Image.new("RGB", (6, 4), "red").save(path, format="jpeg", exif=exif)


ODD = {"CMYK": (cmyk, (254, 0, 0)), "16-bit": (sixteen, (117, 117, 117)), "palette": (palette, (255, 255, 255)),
       "EXIF-rotated": (turned, (0, 0, 0)), "animated": (animated, (255, 0, 0)), None: (broken_exif, (254, 0, 0))}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so, and it is
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_is_told_and_read(kind, tmp_path):
    write, colour = ODD[kind]
    write(tmp_path / "odd")
    data = (tmp_path / "odd").read_bytes()
    assert kind in oddities(data) if kind else not oddities(data)
    read = decode(data)
    assert read.shape == (4, 6, 3) and np.abs(read.astype(int) - colour).max() <= 2


def test_a_disk_that_stumbles_spoils_no_picture(class_folder, tmp_path, monkeypatch):
    """The first reads of a file fail as those of a network folder do; the file itself is well."""
    source, left = open_source(str(class_folder)), 2
    monkeypatch.setattr(reading, "WAITS", (0.0, 0.0, 0.0))

    class Stumbling(type(source)):
        def encoded(self, i, limit=-1):
            nonlocal left
            left -= 1
            if left >= 0:
                raise OSError(errno.ESTALE, "stale file handle")
            return super().encoded(i, limit)

    wanted, bad = read_square(source, 0, 8), {}
    source.__class__ = Stumbling
    assert not manifest.freeze(source, tmp_path / "run").excluded
    left = 2
    record, image = read_good(source, 0, 8, bad=bad)
    assert record == 0 and not bad
    np.testing.assert_array_equal(image, wanted)
    left = 2
    assert not pack(source, tmp_path / "pack", 8)["bad"]
    left = 99  # and one that does not recover is passed over
    assert "can be read" in pytest.raises(ValueError, read_good, source, 0, 8).value.args[0]
