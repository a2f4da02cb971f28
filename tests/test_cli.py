"""Laws of the command line: what scripts rely on, in a process of its own where the process is the point."""

import ast
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

import jax
import pytest

from cdm import cli
from cdm import config as configs
from cdm.images.files import read_image
from cdm.stage import Stage

CONFIGS = pathlib.Path(__file__).parents[1] / "configs" / "demo"
CLASSES = {"tfds:imagenet2012": 1000, "ffhq": 70}  # of sources that are not at hand
EVERY = sorted(CONFIGS.parent.rglob("*.py"))


@pytest.fixture(scope="module")
def cascade_folder(cascade, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascades") / "tiny"
    cascade.save(folder)
    return folder


def call(*arguments):
    return cli.main([str(a) for a in arguments])


def test_sample_by_name_and_index_writes_the_folder(cascade_folder, tmp_path):
    assert call("sample", "--cascade", cascade_folder, "--class", "Food", "2", "-n", 1, "--seed", 3, "--out",
                tmp_path / "out", "--steps", "3,2,2", "--aug-level", "0.1,0.2", "--batch-size", 2) == 0
    about = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert [image["class"] for image in about["images"]] == ["food", "symbols"]
    assert [stage["steps"] for stage in about["stages"].values()] == [3, 2, 2]
    assert [stage["aug_level"] for stage in about["stages"].values()] == [None, 0.1, 0.2]


BAD = {
    "unknown class": ("--class", "zebra"),
    "no class": (),
    "n = 0": ("--class", "0", "-n", "0"),
    "steps per stage": ("--class", "0", "--steps", "3,3"),
    "aug level outside": ("--class", "0", "--aug-level", "0.7"),
    "unknown stage": ("--class", "0", "--start-at", "sr_1024"),
    "batch size": ("--class", "0", "--batch-size", "0"),
    "seed": ("--class", "0", "--seed", "-1"),
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD)
def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(arguments, cascade_folder, tmp_path, capsys):
    assert call("sample", "--cascade", cascade_folder, *arguments, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("cdm: `") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_cascade_and_an_unwritable_folder_are_mistakes(cascade_folder, tmp_path, capsys):
    assert call("sample", "--cascade", tmp_path / "none", "--class", 0, "--out", tmp_path / "out") == 2
    (tmp_path / "file").write_text("")
    assert call("sample", "--cascade", cascade_folder, "--class", 0, "--out", tmp_path / "file" / "out") == 2
    assert call("sample", "--cascade", cascade_folder, "--class", 0, "--out", tmp_path / "file") == 2
    lines = capsys.readouterr().err.splitlines()
    assert "cascade.json is missing" in lines[0] and "`out`" in lines[1] and "`out`" in lines[2] and len(lines) == 3


def test_train_resume_export_sample(class_folder, tmp_path):
    config = CONFIGS / "base_32.py"
    small = [f"--config.data.source={class_folder}", "--config.model.channels=8", "--config.model.multipliers=(1,2)",
             "--config.model.attention=()", "--config.model.blocks=1", "--config.train.batch_size=4",
             "--config.log.grid=1000000", "--config.sample.steps=2"]
    run, stage = tmp_path / "run", tmp_path / "cascade"
    assert call("train", f"--config={config}", f"--workdir={run}", *small, "--config.train.images=8") == 0
    assert call("train", f"--config={config}", f"--workdir={run}", *small, "--config.train.images=16") == 0
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["images"] for row in rows] == [8, 16]
    assert call("train", f"--config={config}", f"--workdir={run}", *small, "--config.train.learning_rate=0.1") == 2
    assert call("export", run, "--out", stage) == 0
    assert json.loads((stage / "stage.json").read_text())["facts"]["images"] == 16
    assert call("export", run, "--out", stage) == 2  # never overwrites


def test_describe_counts_the_parameters_of_every_demo_config(capsys):
    for path in sorted(CONFIGS.glob("*.py")):
        assert call("describe", f"--config={path}") == 0
        about = json.loads(capsys.readouterr().out)
        sizes = [shape for shape in about["shapes"]["parameters"].values()]
        assert about["params"] * 4 == about["memory"]["params"] > 0 and len(sizes) > 20
        assert about["flops_per_image"]["train"] > about["flops_per_image"]["denoise"] * (
            about["shapes"]["train_crop"] / about["shapes"]["output"][0]) ** 2 * 2


def test_describe_without_the_pictures_is_told_the_classes(capsys):
    away = ("describe", f"--config={CONFIGS / 'base_32.py'}", "--config.data.source=/not/here",
            "--config.model.multipliers=(1,)", "--config.model.attention=()", "--config.model.blocks=1")
    assert call(*away) == 2
    error = capsys.readouterr().err
    assert "--classes N" in error and error.count("\n") == 1
    assert call(*away, "--classes", 7) == 0
    assert json.loads(capsys.readouterr().out)["shapes"]["classes"] == 7


@pytest.mark.parametrize("path", EVERY, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_config_is_valid_and_its_docstring_tells_its_name_and_its_size(path):
    config, text = configs.load(path), ast.get_docstring(ast.parse(path.read_text()))
    assert f"cdm train --config=configs/{path.parent.name}/{path.name} --workdir=runs/{config.name}" in text
    if told := re.search(r"([\d.]+) M parameters", text):
        stage = Stage(config, map(str, range(CLASSES[config.data.source])))
        params = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(stage.init)))
        assert f"{params / 1e6:.1f}" == told[1]


@pytest.mark.parametrize("arguments", [("--config.train.imges=1",), ("--config.train.images=x",), ("--images=1",),
                                       ("--config.size=33",)])
def test_a_typo_in_a_config_value_is_a_mistake(arguments, tmp_path, capsys):
    assert call("train", f"--config={CONFIGS / 'base_32.py'}", f"--workdir={tmp_path / 'run'}", *arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_help_starts_no_backend():
    code = "import sys; from cdm import cli\ntry: cli.main(['--help'])\nexcept SystemExit: print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("False\n") and "sample" in out


@pytest.mark.slow
def test_demo_writes_a_picture_of_every_class(tmp_path):
    subprocess.run([sys.executable, "-m", "cdm.cli", "demo", "--out", tmp_path / "demo"], check=True)
    about = json.loads((tmp_path / "demo" / "samples.json").read_text())
    assert len({image["class"] for image in about["images"]}) >= 4
    for image in about["images"]:
        pixels = read_image(tmp_path / "demo" / image["file"])
        assert pixels.shape == (256, 256, 3) and pixels.std() > 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
@pytest.mark.parametrize("given, wanted", [
    (None, "glibc.malloc.hugetlb=1"), ("glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1"),
    ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0")])
def test_the_command_begins_anew_in_large_pages_once(given, wanted):
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    code = ("import os; from cdm import cli; cli.main = lambda: print(os.getpid(), os.environ['GLIBC_TUNABLES']) or 3\n"
            "cli.command()")
    env = env if given is None else {**env, "GLIBC_TUNABLES": given}
    done = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    said = done.communicate()[0]
    assert (said, done.returncode) == (f"{done.pid} {wanted}\n", 3)  # the same process, and its exit code


@pytest.mark.parametrize("given,wanted", [
    (None, "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution,-individual_dot"),
    ("--xla_a=1", "--xla_a=1 --xla_cpu_experimental_ynn_fusion_type=-individual_convolution,-individual_dot"),
    ("--xla_cpu_experimental_ynn_fusion_type=dot", "--xla_cpu_experimental_ynn_fusion_type=dot")])
def test_the_compiler_s_options_are_the_users_and_what_they_leave_open(given, wanted):
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    code = "import cdm, os, sys; print(os.environ['XLA_FLAGS'], 'jax' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], env=env if given is None else {**env, "XLA_FLAGS": given},
                          capture_output=True, text=True, check=True).stdout
    assert said == f"{wanted} False\n"
