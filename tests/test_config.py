"""Configs: what is wrong is refused by name, what is right survives JSON."""

import dataclasses
import json
import pathlib

import pytest

from cdm import config as configs

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").rglob("*.py"))
FILE = """
from cdm.config import {kind}_stage

def get_config():
    config = {kind}_stage({arguments})
    {change}
    return config
"""


@pytest.fixture
def write(tmp_path):
    """write(change) -> the path of a config file with that line in it."""

    def write(change="", kind="base", arguments="'base_32', 32"):
        path = tmp_path / "config.py"
        path.write_text(FILE.format(change=change, kind=kind, arguments=arguments))
        return path

    return write


def one_line_error(function, *arguments):
    with pytest.raises(ValueError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_config_of_the_project_is_valid(path):
    configs.load(path)


def test_overrides_are_read_as_the_type_of_what_they_replace(write):
    config = configs.load(write(), ["--config.train.images=1000", "--config.train.learning_rate=1",
                                    "--config.data.balance=true", "--config.model.attention=(8, 16)"])
    assert config.train.images == 1000
    assert config.train.learning_rate == 1.0 and isinstance(config.train.learning_rate, float)
    assert config.data.balance is True
    assert config.model.attention == (8, 16)


@pytest.mark.parametrize("change, overrides, schedule", [
    ("", [], {"name": "cosine", "logsnr_min": -20.0, "logsnr_max": 20.0}),
    ("", ["--config.diffusion.schedule.shift=-1"],
     {"name": "cosine", "logsnr_min": -20.0, "logsnr_max": 20.0, "shift": -1.0}),
    ("", ["--config.diffusion.schedule.name=linear_beta", "--config.diffusion.schedule.timesteps=20"],
     {"name": "linear_beta", "timesteps": 20, "beta_start": 1e-4, "beta_end": 0.02}),
    ("", ["-config.diffusion.schedule.name", "flow", "--config.diffusion.schedule.logsnr_max", "9"],
     {"name": "flow", "logsnr_min": -20.0, "logsnr_max": 9.0}),
    ("config.diffusion.schedule = {'name': 'linear_beta', 'timesteps': 30}",
     ["--config.diffusion.schedule.beta_end=0.4"],
     {"name": "linear_beta", "timesteps": 30, "beta_start": 1e-4, "beta_end": 0.4})])
def test_every_parameter_of_a_schedule_can_be_overridden(write, change, overrides, schedule):
    assert dict(configs.load(write(change), overrides).diffusion.schedule) == schedule


@pytest.mark.parametrize("override, named", [
    ("--config.diffusion.schedule.beta_end=1", "there is no beta_end"),
    ("--config.train.images.many=1", ": Attribute <class 'int'>"), ("--config.model.multipliers[9]=1", "multipliers[9]=1"),
    ("--config.train.image=1000", 'there is no image. Did you mean "images"'), ("--config.trian.images=1000", "trian"),
    ("--train.images=1000", "train.images"), ("--config.train.images=many", "many"),
    ("--config.train.images=1.5", "1.5"), ("--config.data.flip=2", "flip"),
    ("--config.model.multipliers=one", "one"), ("images=1000", "images=1000"),
])
def test_a_wrong_override_is_an_error_that_names_it(write, override, named):
    assert named in one_line_error(configs.load, write(), [override])


@pytest.mark.parametrize("change", ["config.train.image = 1", "config.trian.images = 1", "config.train.images = 'x'"])
def test_a_typo_in_a_file_is_an_error(write, change):
    one_line_error(configs.load, write(change))


def test_a_missing_file_is_an_error(tmp_path):
    assert "nothing.py" in one_line_error(configs.load, tmp_path / "nothing.py")


@pytest.mark.parametrize("change", ["config.train.images = = 1", "config.train.images = many", "import nowhere"])
def test_a_file_that_does_not_run_is_an_error(write, change):
    assert "config.py" in one_line_error(configs.load, write(change))


@pytest.mark.parametrize("name, value", [
    ("size", 0), ("size", 30), ("size", 32.0), ("dtype", "float16"), ("model.channels", 0), ("model.blocks", 0),
    ("model.multipliers", ()), ("model.multipliers", (1, 0)), ("model.attention", (7,)), ("model.heads", 3),
    ("model.multipliers", (1, 0.3)), ("model.head_channels", 3), ("model.head_channels", -1), ("model.level", "sigma"),
    ("model.level", "timestep"), ("model.lowres_resize", "area"), ("model.embedding", "film"),
    ("model.resample", "never"), ("model.dropout", 1.0), ("model.dropout", -0.1),
    ("diffusion.target", "y"), ("train.images", 0), ("train.images", 31), ("train.batch_size", -1),
    ("train.seed", -1), ("train.seed", 2**32), ("train.learning_rate", 0.0), ("train.learning_rate", float("nan")),
    ("train.warmup", -1), ("train.decay", "linear"), ("train.clip", -1.0), ("train.class_dropout", 1.0),
    ("train.ema_half_life", -1), ("checkpoint.every", 0), ("checkpoint.keep", 0), ("log.every", 0), ("log.grid", 0),
    ("sample.steps", 0), ("sample.sampler", "euler"), ("sample.guidance", -0.5), ("data.crop", 6), ("data.crop", 128),
    ("lowres_size", 48), ("lowres_size", 64), ("lowres_size", 0), ("augment.max_level", 1.5),
    ("augment.blur_probability", -0.1), ("augment.blur_sigma", (0.6, 0.4)), ("augment.blur_sigma", (0.0, 0.4)),
    ("sample.aug_level", 1.5),
])
def test_what_no_stage_can_be_built_from_is_refused_by_name_value_and_rule(name, value):
    config = configs.sr_stage("sr_64", 32, 64)
    config.model.attention = (16,)
    configs.validate(config)
    *path, last = name.split(".")
    node = config
    for part in path:
        node = node[part]
    with node.ignore_type():
        node[last] = value
    message = one_line_error(configs.validate, config)
    assert message.startswith(f"`{name}` (={value}) must ")


def test_an_sr_crop_must_hold_whole_low_res_pixels():
    config = configs.sr_stage("sr_64", 8, 64)
    config.data.crop = 36
    assert one_line_error(configs.validate, config).startswith("`data.crop` (=36) must ")


@pytest.mark.parametrize("config", [configs.base_stage("base_32", 32), configs.sr_stage("sr_64", 32, 64)],
                         ids=["base", "sr"])
def test_a_config_survives_json(config):
    again = configs.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()


def test_a_config_read_from_json_is_frozen_and_validated():
    tree = configs.base_stage("base_32", 32).to_dict()
    with pytest.raises(AttributeError):
        configs.from_dict(tree).size = 64
    tree["train"]["decay"] = "linear"
    assert one_line_error(configs.from_dict, tree).startswith("`train.decay`")


def test_a_folder_older_than_an_option_has_its_default(tiny_sr):
    tree = tiny_sr.to_dict()
    del tree["diffusion"]["residual"], tree["train"]["decay"]
    assert configs.from_dict(tree).to_dict() == configs.from_dict(tiny_sr.to_dict()).to_dict()


def test_a_folder_with_an_option_of_no_stage_is_an_error(tiny_base):
    tree = tiny_base.to_dict()
    tree["model"]["wings"] = 2
    assert "model.wings" in one_line_error(configs.from_dict, tree)


def test_the_names_that_a_config_may_hold_are_those_of_the_mathematics():
    """Which a config does not import, as it starts no JAX."""
    from cdm.diffusion import samplers, schedules, weights

    assert configs.SAMPLERS == tuple(samplers.SAMPLERS) and configs.WEIGHTS == weights.KINDS
    assert configs.SCHEDULES == {name: {field.name: field.default for field in dataclasses.fields(kind)}
                                 for name, kind in schedules.SCHEDULES.items()}
