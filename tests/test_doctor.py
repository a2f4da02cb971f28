"""The doctor tells a sick run from a healthy one; `cdm init` writes configs that are right for the pictures."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from cdm import config as configs
from cdm.cli import main
from cdm.data.reading import read_square
from cdm.data.sources import open_source
from cdm.diffusion import process
from cdm.images.resize import resize, to_float
from cdm.starter import write_configs
from cdm.training import doctor


def test_the_wiener_loss_of_white_noise_is_its_closed_form(tiny_base, make_stage):
    """Pictures of independent pixels with deviation d: x0-MSE d^2 s^2 / (a^2 d^2 + s^2), and v-MSE is that over s^2."""
    stage, random = make_stage(tiny_base), np.random.default_rng(0)

    def pictures(count):
        x0, eps = random.normal(size=(2, count, 8, 8, 3)).astype(np.float32)
        return doctor._Pictures(0.5 * x0, np.zeros(count, np.int32), None, None, eps)

    ours = doctor._wiener(stage, pictures(2000), pictures(2000))
    alpha, sigma = process.alpha_sigma(stage.schedule.logsnr(doctor.TIMES.astype(np.float32)))
    np.testing.assert_allclose(ours, 0.25 / (alpha**2 * 0.25 + sigma**2), rtol=0.05)


@pytest.fixture(scope="module")
def verdicts(run):
    return {verdict.name: verdict for verdict in doctor.examine(run, steps=60)}


def test_an_untrained_run_is_told_what_it_does_not_do(run, verdicts):
    """32 images taught the fixture nothing; its steps were all good and its network can learn."""
    assert verdicts["run"].well and "32 images" in verdicts["run"].text
    assert verdicts["steps"].well and verdicts["overfitting"].well
    assert not verdicts["noise levels"].well and "linear filter wins" in verdicts["noise levels"].text
    assert not verdicts["class"].well and "does not seem to hear" in verdicts["class"].text
    with Image.open(run / "doctor.png") as picture:
        assert picture.size == (64 * 8, 64 * (1 + 2 * len(doctor.SHOWN)))


def test_an_input_matters_when_losses_rise_beyond_their_noise():
    random = np.random.default_rng(0)
    right = random.normal(1, 0.3, (10, 32))  # pictures differ far more than the input matters
    noise = random.normal(0, 0.05, (200, 32))
    assert doctor._matters("class", right, right + 0.1 + noise[0], "another").well
    assert sum(bool(doctor._matters("class", right, right + part, "another").well) for part in noise) <= 3


def test_the_doctor_of_nothing_is_one_line(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("cdm: `run` ")


def test_init_writes_configs_that_load_and_chain_and_fit_the_pictures(tmp_path, capsys):
    pictures, random = tmp_path / "pictures", np.random.default_rng(0)
    for i in range(8):
        (pictures / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(pictures / "ab"[i % 2] / f"{i}.png")
    assert main(["init", "--data", str(pictures), "--sizes", "8,16,128", "--out", str(tmp_path / "mine")]) == 0
    commands = capsys.readouterr().out.splitlines()
    loaded = []
    for command in commands[:3]:
        path = command.split("--config=")[1].split()[0]
        assert command in pathlib.Path(path).read_text()
        loaded.append(configs.load(path))
    base, low, high = loaded
    assert [c.size for c in loaded] == [8, 16, 128] and (low.lowres_size, high.lowres_size) == (8, 16)
    assert commands[3] == "cdm export runs/base_8 runs/sr_16 runs/sr_128 --out cascade"
    source = open_source(str(pictures))
    x0 = to_float(np.stack([read_square(source, i, 16) for i in range(len(source))]))
    left = np.sqrt(np.mean((x0 - resize(resize(x0, 8), 16)) ** 2))
    assert low.diffusion.data_std == pytest.approx(left, rel=0.06) and left > 0.02
    assert 0 < high.data.crop < 128 and not low.data.crop


@pytest.mark.parametrize("sizes", [[], [6], [16, 8], [16, 24], [8, 8]])
def test_init_refuses_sizes_that_do_not_chain(class_folder, tmp_path, sizes):
    with pytest.raises(ValueError, match="^`sizes` "):
        write_configs(str(class_folder), sizes, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
