"""Restoration: metrics equal scikit-image's, folders pair strictly, a stage is measured beside what it must beat."""

import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from cdm import cli
from cdm.config import sr_stage as sr_config
from cdm.evals import pairs, restoration, rows, sets, stages, weights
from cdm.evals.lpips import Lpips
from cdm.evals.networks import build
from cdm.images.files import hold, read_image
from cdm.images.resize import resize, to_float, to_uint8
from cdm.stage import Stage

GOLDEN = pathlib.Path(__file__).with_name("golden") / "restoration.npz"


def test_psnr_and_ssim_equal_scikit_image():
    golden = np.load(GOLDEN)
    for i in range(len(golden.files) // 3):
        image, reference, measured = (golden[f"{name}_{i}"] for name in ("image", "reference", "measured"))
        for protocol, expected in zip(("rgb", "y"), measured):
            found = [f(image, reference, protocol, 4) for f in (restoration.psnr, restoration.ssim)]
            np.testing.assert_allclose(found, expected, rtol=1e-12)


def picture(height=24, width=32, seed=0):
    random = np.random.default_rng(seed)
    return np.asarray(Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8)).resize((width, height), 3))


@pytest.mark.parametrize("protocol", ["rgb", "y"])
def test_equal_pictures_are_equal(protocol):
    assert restoration.psnr(picture(), picture(), protocol, 2) == np.inf
    assert restoration.ssim(picture(), picture(), protocol, 2) == 1
    results, infinite = restoration.results([restoration.measures(picture(), picture(), [protocol], 2)])
    assert infinite == {f"psnr_{protocol}": 1} and [*results] == [f"ssim_{protocol}"]


@pytest.mark.parametrize("protocol", ["rgb", "y"])
def test_both_fall_with_noise_and_blur(protocol):
    image, noise = picture(), np.random.default_rng(1).normal(size=(24, 32, 3))
    noisy = [np.uint8(np.clip(image + s * noise, 0, 255)) for s in (2, 6, 18)]
    blurred = [to_uint8(resize(resize(to_float(image), (24 // s, 32 // s)), (24, 32))) for s in (2, 4, 8)]
    for worse in (noisy, blurred):
        for metric in (restoration.psnr, restoration.ssim):
            found = [metric(w, image, protocol, 2) for w in worse]
            assert found[0] > found[1] > found[2]


def test_a_known_error_has_its_psnr_and_luma_is_bt_601():
    image = np.full((16, 16, 3), 100, np.uint8)
    assert restoration.psnr(image + np.uint8(5), image) == pytest.approx(20 * np.log10(255 / 5), abs=1e-12)
    for colour, luma in (((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81.481), ((0, 255, 0), 144.553)):
        np.testing.assert_allclose(restoration.planes(np.full((9, 9, 3), colour, np.uint8), "y", 2), luma, atol=1e-12)


def test_luma_leaves_the_border_out_and_rgb_does_not():
    image, framed = picture(), picture().copy()
    framed[:2] = framed[-2:] = framed[:, :2] = framed[:, -2:] = 0
    assert restoration.psnr(framed, image, "y", 2) == np.inf > restoration.psnr(framed, image, "y", 1)
    assert restoration.psnr(framed, image) < 20


def test_consistency_and_drift_are_those_of_the_low_res_picture():
    lowres = np.random.default_rng(0).uniform(-0.5, 0.5, (12, 16, 3)).astype(np.float32)
    large = to_uint8(resize(lowres, (24, 32)))
    assert np.abs(restoration.colour_drift(large, lowres)).max() < 0.2
    shifted = large + np.uint8([3, 0, 6])
    np.testing.assert_allclose(restoration.colour_drift(shifted, lowres) - restoration.colour_drift(large, lowres),
                               [3, 0, 6], atol=1e-3)
    row = restoration.measures(shifted, large, ["rgb"], 2, lowres)
    assert row["colour_drift"] == pytest.approx(45**0.5, abs=0.2)
    flat = np.full((8, 8, 3), 130, np.uint8)
    assert restoration.consistency(flat, to_float(flat[::2, ::2] - np.uint8(51))) == pytest.approx(0.2**2 * 1e5)


@pytest.mark.parametrize("arguments, message", [
    (("yuv", 2), "`protocol` .*must be one of rgb, y"), (("y", None), "`scale` .*must be given"),
    (("y", 7), "`image` .*must leave 11 pixels")])
def test_what_can_not_be_measured_is_one_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        restoration.ssim(picture(), picture(), *arguments)


def test_pictures_of_other_sizes_or_types_are_refused():
    for image in (picture(24, 31), picture().astype(np.float32), picture()[..., 0]):
        with pytest.raises(ValueError, match="^`image` .* must be"):
            restoration.psnr(image, image if image.shape == picture().shape or image.ndim == 2 else picture())


@pytest.fixture
def folders(tmp_path):
    """Two folders of three pictures, under the same names with other endings."""
    for name in ("made", "real"):
        (tmp_path / name / "inner").mkdir(parents=True)
    for i, name in enumerate(("a", "b", "inner/c")):
        Image.fromarray(picture(seed=i)).save(tmp_path / "real" / f"{name}.png")
        Image.fromarray(picture(seed=i) ^ np.uint8(1)).save(tmp_path / "made" / f"{name}.bmp")
    return tmp_path


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("CDM_WEIGHTS", str(tmp_path / "no weights"))


def call(*arguments):
    return cli.main(["eval", "restoration", *map(str, arguments)])


def test_two_folders_give_a_card_and_a_row_a_pair(folders, capsys):
    card = folders / "card.json"
    assert call("--images", folders / "made", "--reference", folders / "real", "--scale", 2, "--protocol", "both",
                "--out", card) == 0
    about = json.loads(card.read_text())
    assert about["kind"] == "restoration" and about["protocol"]["scale"] == 2
    reference = sets.about([read_image(folders / "real" / f"{name}.png") for name in ("inner/c", "a", "b")])
    assert about["protocol"]["reference"] == reference and reference["n"] == 3  # wherever they lie
    found = [json.loads(line) for line in (folders / "card.rows.jsonl").read_text().splitlines()][1:]
    assert [row["name"] for row in found] == ["a", "b", "inner/c"] == about["about"]["names"]
    summary = about["results"]
    assert summary["psnr_rgb"]["mean"] == pytest.approx(20 * np.log10(255), abs=1e-9)
    for name in ("psnr_y", "ssim_y", "consistency", "colour_drift"):
        assert summary[name]["blocks"] == [row["measures"][name] for row in found]
        low, high = summary[name]["interval"]
        assert low < summary[name]["mean"] < high
    assert about["protocol"]["lpips"] is None
    told = capsys.readouterr().out
    assert "psnr_rgb" in told and "cdm eval weights lpips_alex" in told
    for asked, message in ((("--lpips", "vgg"), "cdm eval weights lpips_vgg"),
                           (("--lpips-weights", folders / "none"), "none) must be a file")):
        assert call("--images", folders / "made", "--reference", folders / "real", "--out", card, *asked) == 2
        assert message in capsys.readouterr().err


def enlarge(path):
    Image.open(path).resize((34, 24)).save(path)


BROKEN = {
    "a partner is missing": (lambda f: (f / "made" / "b.bmp").unlink(), "`images` .*b is missing"),
    "one too many": (lambda f: (f / "real" / "b.png").unlink(), "`reference` .*b is missing"),
    "another size": (lambda f: enlarge(f / "made" / "b.bmp"), "b is 34x24 there and 32x24 here"),
    "a broken file": (lambda f: (f / "made" / "b.bmp").write_bytes(b"no"), "b.bmp can not be read"),
    "the same name twice": (lambda f: (f / "made" / "b.bmp").rename(f / "made" / "a.png"), "one picture of a name; there are a.bmp and a.png"),
    "no pictures": (lambda f: [p.unlink() for p in (f / "real").rglob("*.png")], "there are none in it"),
}


@pytest.mark.parametrize("change, message", BROKEN.values(), ids=BROKEN)
def test_folders_that_do_not_pair_are_one_line(folders, change, message):
    change(folders)
    with pytest.raises(ValueError, match=message):
        pairs.measure_pairs(folders / "made", folders / "real", folders / "card.json", scale=2)
    with pytest.raises(ValueError, match="must be a folder of pictures"):
        pairs.measure_pairs(folders / "none", folders / "real", folders / "card.json")


def test_a_scale_that_does_not_divide_is_one_line(folders):
    with pytest.raises(ValueError, match="^`scale` .*=5.* must divide .* a is 32x24"):
        pairs.measure_pairs(folders / "made", folders / "real", folders / "card.json", scale=5)


@pytest.mark.parametrize("arguments", [
    (), ("--images", "x"), ("--stage", "x"), ("--images", "x", "--reference", "x", "--steps", "3"),
    ("--stage", "x", "--data", "x", "--scale", "2"), ("--images", "x", "--reference", "x", "--data", "x")])
def test_half_a_question_is_a_mistake(arguments, tmp_path, capsys):
    assert call(*arguments, "--out", tmp_path / "card.json") == 2
    error = capsys.readouterr().err
    assert error.startswith("cdm: `") and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_rows_go_on_where_a_run_was_stopped_and_start_anew_when_asked_something_else(tmp_path):
    card, path, measured = tmp_path / "card.json", tmp_path / "card.rows.jsonl", []

    def measure(part):
        if stop is not None and part.start >= stop:
            raise KeyboardInterrupt
        measured.extend(part)
        return [{"x": i / 3} for i in part]

    stop = 4
    with pytest.raises(KeyboardInterrupt):
        rows.collect(card, {"seed": 0}, 7, 2, measure)
    with path.open("a") as f:
        f.write('{"x": 0.')  # cut short by a kill
    stop = None
    for _ in range(2):  # the card was not written yet
        assert rows.collect(card, {"seed": 0}, 7, 2, measure) == [{"x": i / 3} for i in range(7)]
    assert measured == [*range(7)]
    card.write_text("{}")
    for asked in ({"seed": 0}, {"seed": 1}):  # ended runs are not gone on with, nor those asked something else
        rows.collect(card, asked, 7, 2, measure)
    assert measured == 3 * [*range(7)] and len(path.read_text().splitlines()) == 8
    rows.collect(card, {"seed": 1}, 7, 2, measure)  # the card is that of before
    assert measured == 3 * [*range(7)]
    (tmp_path / "card.json.partial").mkdir()
    with hold(tmp_path / "card.json.partial", "out"), pytest.raises(ValueError, match="^`out` .*one process"):
        rows.collect(card, {"seed": 1}, 7, 2, measure)


class Source:
    """Pictures in memory, two of a class the stages know and one of another."""

    classes, labels, names = ("Food", "zebras"), np.int32([0, 0, 1, 0, 0]), [f"{i}.png" for i in range(5)]

    def __len__(self):
        return len(self.names)

    def read(self, i):
        return picture(40, 40, seed=i)


def test_a_stage_is_measured_beside_bicubic_lanczos_and_a_regression(sr_stage, tiny_sr, make_stage, tmp_path):
    tiny_sr.diffusion.loss, tiny_sr.diffusion.target = "regression", "x0"
    tiny_sr.augment.max_level, tiny_sr.sample.aug_level, tiny_sr.sample.steps = 0.0, 0.0, 1
    regression, out = make_stage(tiny_sr), tmp_path / "card.json"
    arguments = sr_stage, Source(), "toy", out
    card = stages.measure_stage(*arguments, regression=regression, steps=2)
    means = {name: value["mean"] for name, value in card["results"].items()}
    assert list(dict.fromkeys(name.split(".")[0] for name in means)) == ["bicubic", "lanczos", "regression", "stage"]
    assert card["protocol"]["reference"]["n"] == 5 and card["about"]["made_by"]["stage"]["steps"] == 2
    real = np.stack([sets.real_square(Source(), i, 16, "data") for i in range(5)])
    by_hand = [restoration.psnr(to_uint8(resize(resize(to_float(x), 8), 16)), x) for x in real]
    assert means["bicubic.psnr_rgb"] == pytest.approx(np.mean(by_hand))
    for name in ("psnr_rgb", "psnr_y", "ssim_y"):
        assert means[f"bicubic.{name}"] > means[f"stage.{name}"]  # its parameters are random
    sheet = read_image(tmp_path / "card.png")
    assert sheet.shape == (5 * 16, 5 * 16, 3)  # low-res, bicubic, regression, stage, real
    names = card["about"]["names"]
    assert sorted(names) == Source.names
    real = real[[Source.names.index(name) for name in names]]
    np.testing.assert_array_equal(sheet[:, -16:].reshape(5, 16, 16, 3), real)
    np.testing.assert_array_equal(sheet[1:16:2, 1:16:2], sheet[:16:2, :16:2])

    assert card["protocol"]["reference"] == sets.about(real)
    lines = (tmp_path / "card.rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "card.rows.jsonl").write_text("".join(lines[:4]))
    # Stopped after three pictures and gone on with, the other two in a batch of another make-up.
    assert stages.measure_stage(*arguments, regression=regression, steps=2)["protocol"] == card["protocol"]
    for one, other in zip(lines[1:], (tmp_path / "card.rows.jsonl").read_text().splitlines()[1:]):
        one, other = json.loads(one), json.loads(other)
        assert one["name"] == other["name"]
        assert one["stage"] == pytest.approx(other["stage"], rel=0.02, abs=0.1)


def test_lpips_is_measured_with_the_weights_and_its_protocol_names_them(monkeypatch, lively):
    shapes = jax.eval_shape(build("lpips_alex").init, jax.random.key(0), *np.zeros((2, 1, 64, 64, 3), np.float32))
    monkeypatch.setattr(weights, "load", lambda name, path: (lively(shapes), "0" * 64))
    distance = Lpips()
    assert restoration.about(["rgb"], None, distance)["lpips"]["sha256"] == "0" * 64
    image, other = picture(64, 64), picture(64, 64, seed=1)
    row = restoration.measures(image, image, ["rgb"], distance=distance)
    assert distance(picture(31, 64), picture(31, 64)) is None
    assert restoration.results([row, row | {"lpips": None}])[0].keys() == row.keys() - {"psnr_rgb", "lpips"}
    assert abs(row["lpips"]) < 1e-9 < restoration.measures(image, other, ["rgb"], distance=distance)["lpips"]


def test_what_can_not_be_asked_of_a_stage_is_one_line(base_stage, sr_stage, tiny_sr, tmp_path):
    out, large = tmp_path / "card.json", Stage(sr_config("sr_64", 32, 64), (), params={})
    for arguments, message in (
            ((base_stage, Source(), "toy", out), "`stage` .*must be a super-resolution stage"),
            ((sr_stage, Source(), "toy", out, 6), "`count` .*=6.* 1..5"),
            ((sr_stage, Source(), "toy", out, None, -1), "`seed`"),
            ((sr_stage, Source(), "toy", out, None, 0, sr_stage), "`regression` .*diffusion.loss"),
            ((large, Source(), "toy", out), "0.png must have sides of at least 64")):
        with pytest.raises(ValueError, match=message):
            stages.measure_stage(*arguments)
    tiny_sr.train.class_dropout = 0.0
    with pytest.raises(ValueError, match="must have the classes of sr_16"):
        stages.measure_stage(Stage(tiny_sr, ("food",)), Source(), "toy", out)
