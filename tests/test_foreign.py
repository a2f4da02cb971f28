"""Weights files are read as arrays and nothing else; what is fetched is the published file or nothing."""

import io
import json
import pathlib
import pickle
import subprocess
import tarfile

import numpy as np
import pytest

from cdm.cli import main
from cdm.evals import weights
from cdm.interop import foreign

GOLDEN = pathlib.Path(__file__).with_name("golden")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("CDM_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["tensors.pth", "tensors_old.pth"])
def test_both_formats_of_pytorch_are_read(name):
    found, base = foreign.read(GOLDEN / name), np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = {"base": base, "turned": base.T, "row": base[1], "count": np.array(7), "half": np.float32(0.5)}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)
        assert found[key].shape == value.shape and found[key].dtype == value.dtype


def test_pickled_numpy_is_read(tmp_path):
    tree = {"net": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "note": "left out"}
    # As older NumPy spelt itself, which is how such files were written.
    data = pickle.dumps(tree, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "a.ckpt").write_bytes(data)
    found = foreign.read(tmp_path / "a.ckpt")
    assert found.keys() == {"net"}
    np.testing.assert_array_equal(found["net"]["kernel"], tree["net"]["kernel"])


def tfjs(path, dtype="float32", spare=b""):
    """An npm package with one matrix in two shards."""
    data = np.arange(6, dtype=np.float32).tobytes() + spare
    manifest = [{"paths": ["a.bin", "b.bin"], "weights": [{"name": "fc/kernel", "shape": [2, 3], "dtype": dtype}]}]
    with tarfile.open(path, "w:gz") as tar:
        for name, value in (("model.json", json.dumps({"weightsManifest": manifest}).encode()),
                            ("a.bin", data[:7]), ("b.bin", data[7:])):
            info = tarfile.TarInfo(f"package/Net/{name}")
            info.size = len(value)
            tar.addfile(info, io.BytesIO(value))
    return path


def test_a_tfjs_model_is_read(tmp_path):
    found = foreign.read(tfjs(tmp_path / "a.tgz"))
    np.testing.assert_array_equal(found["fc/kernel"], np.arange(6, dtype=np.float32).reshape(2, 3))
    for bad in (dict(dtype="uint8"), dict(spare=b"....")):
        with pytest.raises(ValueError, match="must be a whole file of weights"):
            foreign.read(tfjs(tmp_path / "b.tgz", **bad))


class Call:
    """Runs a command when it is unpickled."""

    def __init__(self, *command):
        self.command = command

    def __reduce__(self):
        return subprocess.check_call, (list(self.command),)


def test_a_pickle_that_is_a_program_is_refused_unrun(tmp_path):
    trace = tmp_path / "trace"
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"w": Call("touch", str(trace))}))
    with pytest.raises(ValueError, match="asks for subprocess.check_call, which is no array"):
        foreign.read(tmp_path / "a.ckpt")
    assert not trace.exists()


def test_a_damaged_file_is_one_line(tmp_path):
    for name in ("tensors.pth", "tensors_old.pth"):
        data = (GOLDEN / name).read_bytes()
        for end in range(0, len(data), 97):
            (tmp_path / "a.pth").write_bytes(data[:end])
            with pytest.raises(ValueError, match=r"`weights` \(=.*a.pth\) must be a whole file of weights"):
                foreign.read(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="must be a .pth, .tgz, .ckpt"):
        foreign.read(GOLDEN / "make.py")


def test_a_tensor_beyond_its_storage_is_refused():
    storage = foreign._Storage("<f4", 6)
    storage.fill(np.arange(6, dtype=np.float32).view(np.uint8))
    np.testing.assert_array_equal(foreign.Tensor(storage, 1, (2, 2), (3, 1)).array(), [[1, 2], [4, 5]])
    for offset, shape, strides in ((3, (2, 2), (3, 1)), (-1, (2,), (1,)), (5, (2,), (-6,)), (0, (2, 2), (1,))):
        with pytest.raises(ValueError):
            foreign.Tensor(storage, offset, shape, strides).array()


def test_weights_that_are_not_here_say_how_to_get_them():
    with pytest.raises(ValueError, match="lite0 is not here yet: cdm eval weights lite0"):
        weights.load("lite0")
    with pytest.raises(ValueError, match=r"`weights` \(=nowhere.pth\) must be a file"):
        weights.load("lite0", "nowhere.pth")
    with pytest.raises(ValueError, match=r"`weights` \(=vgg\) must be one of lite0, rn50"):
        weights.load("vgg")


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="must be those of lite0: they have no '_"):
        weights.load("lite0", GOLDEN / "tensors.pth")


def test_a_wrong_file_in_the_cache_is_not_taken(cache):
    cache.mkdir()
    (cache / "lite0.pth").write_bytes((GOLDEN / "tensors.pth").read_bytes())
    with pytest.raises(ValueError, match="must have the SHA-256 5793.*get it again: cdm eval weights lite0"):
        weights.load("lite0")


def at(monkeypatch, path, digest):
    """Have lite0 published at a path."""
    source = weights.Source(weights._web, path.as_uri(), None, ".pth", digest)
    monkeypatch.setitem(weights.SOURCES, "lite0", source)


def test_fetching_stores_the_published_file_or_nothing(cache, tmp_path, monkeypatch, capsys):
    file = GOLDEN / "tensors.pth"
    at(monkeypatch, file, "0" * 64)
    assert main(["eval", "weights", "lite0"]) == 2
    assert "what came from file:" in capsys.readouterr().err and not cache.exists()
    at(monkeypatch, tmp_path / "nothing", weights.sha256(file))
    assert main(["eval", "weights", "lite0"]) == 2
    error = capsys.readouterr().err
    assert "`weights` (=lite0) must be fetched from file:" in error and error.count("\n") == 1
    at(monkeypatch, file, weights.sha256(file))
    assert main(["eval", "weights", "lite0"]) == 0
    assert (cache / "lite0.pth").read_bytes() == file.read_bytes()
    assert [path.name for path in cache.iterdir()] == ["lite0.pth"]
    at(monkeypatch, tmp_path / "nothing", weights.sha256(file))
    assert weights.fetch("lite0") == cache / "lite0.pth"  # which is there
