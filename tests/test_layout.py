"""The house's plan: five floors, a room knows only those below; flax behind its wall; small files; a light import."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent / "cdm"
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = {
    "cli": 5, "__main__": 5,
    "training": 4, "evals": 4,
    "cascade": 3, "settings": 3, "upscaling": 3, "photo": 3, "photos": 3, "interop": 3, "samples": 3,
    "describe": 3, "starter": 3,
    "stage": 2, "data": 2, "devices": 2,
    "diffusion": 1, "images": 1, "nn": 1, "config": 1,
}
# Within a floor: pixels know the process, networks know the resize, a folder of samples knows the runner, the runner
# its settings, an enlarger those, the runner's keys and what a program needs of memory, a picture its enlarger, a
# folder of pictures those, and a classifier that is trained to evaluate is kept and stopped as any training.
NEIGHBOURS = {("images", "diffusion"), ("nn", "images"), ("samples", "cascade"), ("starter", "describe"),
              ("cascade", "settings"), ("upscaling", "cascade"), ("upscaling", "settings"), ("upscaling", "describe"),
              ("photo", "upscaling"), ("photos", "photo"), ("photos", "upscaling"), ("photos", "cascade"),
              ("evals", "training")}
FLAX_ROOMS = ("nn", "evals/networks")


def imports(path):
    """The dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floors"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def named(files):
    return pytest.mark.parametrize("path", files, ids=lambda path: path.relative_to(ROOT).as_posix())


@named([path for path in FILES if path != ROOT / "__init__.py"])
def test_a_room_knows_only_the_floors_below(path):
    for name in imports(path):
        other = name.split(".")[1] if name.startswith("cdm.") else None
        if other in FLOORS and other != room(path):
            assert FLOORS[other] < FLOORS[room(path)] or (room(path), other) in NEIGHBOURS, f"imports {name}"


@named(FILES)
def test_only_the_networks_know_flax(path):
    place = path.relative_to(ROOT).as_posix()
    if not place.startswith(FLAX_ROOMS):
        assert not [name for name in imports(path) if name.split(".")[0] == "flax"]


@named(FILES)
def test_no_file_is_long(path):
    assert len(path.read_text().splitlines()) <= 500


def test_files_are_short_as_a_rule():
    lengths = sorted(len(path.read_text().splitlines()) for path in FILES)
    assert lengths[len(lengths) // 2] < 200


def test_the_package_imports_nothing_heavy():
    code = "import sys, cdm, cdm.cli; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    heavy = {"jax", "jaxlib", "flax", "numpy", "grain", "orbax", "tensorflow", "torch"}
    assert not heavy & set(loaded.stdout.split())


def test_no_base_module_needs_tensorflow_or_torch():
    roots = {name.split(".")[0] for path in FILES for name in imports(path)}
    assert not roots & {"tensorflow", "torch", "torchvision", "clu"}


@named([path for path in FILES if path != ROOT / "data" / "tfds.py"])
def test_only_the_source_of_tfds_knows_it(path):
    names = set(imports(path))
    assert not {n for n in names if n.split(".")[0] == "tensorflow_datasets"}
    if path != ROOT / "data" / "sources.py":  # which asks for it when a set is named
        assert not {n for n in names if n.startswith("cdm.data.tfds")}


def test_the_public_names_are_there():
    import cdm

    for name in cdm.__all__:
        assert getattr(cdm, name) is not None
    with pytest.raises(AttributeError):
        cdm.nothing
