"""Pairs: partners are found by name, cut and flipped alike, and a stage learns from them as from any low-res one."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from cdm import cli
from cdm import config as configs
from cdm.data import manifest
from cdm.data.check import check, summary
from cdm.data.packs import pack, pack_pairs
from cdm.data.pairs import Pairs, open_data
from cdm.data.pipeline import Order, batches
from cdm.data.reading import read_pair
from cdm.data.sources import open_source
from cdm.data.squares import Misfit, fit, pair
from cdm.describe import describe
from cdm.images.resize import resize, to_float, to_uint8
from cdm.stage import Stage
from cdm.training import doctor, loop
from cdm.training import run as runs

NAMES = [f"{folder}/{i}" for folder in ("a", "b") for i in range(4)]


def write(folder, name, pixels, ending="png"):
    path = folder / f"{name}.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path, smooth):
    """high: eight pictures of 16 px in two classes; low: the one resize of them at 8 px, of another ending."""
    for name, picture in zip(NAMES, smooth(8)):
        write(tmp_path / "high", name, picture)
        write(tmp_path / "low", name, to_uint8(resize(to_float(picture), 8)), "bmp")
    return tmp_path / "high", tmp_path / "low"


def places(height, width, record, step=1):
    """A picture that tells of every pixel where it lies, in pixels `step` wide, and whose it is."""
    picture = np.empty((height, width, 3), np.uint8)
    rows, columns = np.mgrid[:height, :width] // step
    picture[..., 0], picture[..., 1], picture[..., 2] = 10 * rows, 10 * columns, record
    return picture


@pytest.fixture
def wide(tmp_path):
    """Pictures that tell their places, 16x30 beside 8x15: a square has an odd number of low-res pixels to spare."""
    for i, name in enumerate(NAMES):
        write(tmp_path / "high", name, places(16, 30, i, 2))
        write(tmp_path / "low", name, places(8, 15, i))
    return tmp_path / "high", tmp_path / "low"


@pytest.fixture
def config(tiny_sr, tmp_path):
    """A config of pairs that a test may change: 8 to 16 px."""
    tiny_sr.data.source, tiny_sr.data.lowres = str(tmp_path / "high"), str(tmp_path / "low")
    tiny_sr.degrade.kind, tiny_sr.model.multipliers = "pairs", (1,)
    return tiny_sr


def cut(path):
    """Spoil a picture below its header, where only decoding finds it."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shown(config, batch):
    """What the network of a stage is given of a batch in training, by name."""
    stage, given = Stage(config, ("a", "b")), {}

    def apply(params, x, logsnr, labels, lowres, aug_logsnr, dropout_key):
        given.update(x=x, lowres=lowres, aug_logsnr=aug_logsnr)
        return x

    stage.network = stage.network._replace(apply=apply)
    stage.loss({}, **batch, seed=0)
    return given


@pytest.mark.parametrize("crop", [0, 8])
def test_pairs_made_by_the_one_resize_teach_what_bicubic_teaches(folders, config, crop):
    config.data.flip, config.data.crop, config.augment.blur_probability = True, crop, 0.5
    ours = next(batches(open_data(*folders), config, 0, 40))
    with_pairs = shown(config, ours)
    config.degrade.kind, config.data.lowres = "bicubic", ""
    plain = next(batches(open_source(folders[0]), config, 0, 40))
    assert ours.keys() - plain.keys() == {"lowres"} and ours["lowres"].dtype == np.uint8
    for name in plain:
        np.testing.assert_array_equal(ours[name], plain[name])
    clean = resize(to_float(plain["image"]), 8)
    np.testing.assert_allclose(to_float(ours["lowres"]), np.clip(clean, -1, 1), atol=0.51 / 127.5)
    made = shown(config, plain)
    assert made["lowres"].shape == (4, crop // 2 or 8, crop // 2 or 8, 3)
    np.testing.assert_array_equal(with_pairs["x"], made["x"])
    np.testing.assert_array_equal(with_pairs["aug_logsnr"], made["aug_logsnr"])
    overshoot = np.abs(clean).max() - 1  # of the bicubic kernel, which 8 bits do not have
    assert np.abs(with_pairs["lowres"] - made["lowres"]).max() < 0.6 / 127.5 + max(overshoot, 0)


@pytest.mark.parametrize("square", ["center", "random"])
def test_partners_are_cut_and_flipped_alike(wide, config, square):
    config.data.square, config.data.flip = square, True
    order, seen = Order(open_data(*wide), config, 400), set()
    for n in range(400):
        example = order[n]
        np.testing.assert_array_equal(example["image"][::2, ::2], example["lowres"])
        np.testing.assert_array_equal(example["image"][1::2, 1::2], example["lowres"])
        assert example["lowres"][0, 0, 2] == order.record(n)
        seen.add((int(example["lowres"][0, :, 1].min()), bool(example["lowres"][0, 0, 1] > example["lowres"][0, 1, 1])))
    corners = [3] if square == "center" else range(8)
    assert seen == {(10 * left, flipped) for left in corners for flipped in (False, True)}


@pytest.mark.parametrize("sides", [(40, 100, 16, 40), (100, 41, 40, 16), (37, 90, 12, 30), (16, 40, 16, 40)])
def test_where_partners_are_no_whole_times_as_large_they_are_at_most_half_a_pixel_apart(sides):
    height, width, h, w = sides

    def ramp(height, width):
        """Of the place along the long side, from 0 to 255."""
        line = (np.arange(max(height, width)) + 0.5) / max(height, width) * 255
        line = line[:, None] if height > width else line[None]
        return np.repeat(np.broadcast_to(line, (height, width)).round().astype(np.uint8)[..., None], 3, axis=2)

    for draw in np.linspace(0, 0.99, 12):
        image, lowres = pair(ramp(height, width), ramp(h, w), 16, 8, "random", draw)
        assert image.shape == (16, 16, 3) and lowres.shape == (8, 8, 3)
        apart = np.abs(resize(image, 8) - lowres)[2:-2, 2:-2].max()  # the border's pixels are kept within the square
        assert apart < 0.5 * 255 / max(height, width) + 1.5


def test_partners_go_by_name_whatever_the_order_and_the_ending(folders, config, tmp_path):
    low = open_source(folders[1])
    order = np.random.default_rng(0).permutation(8)
    np.savez(tmp_path / "low.npz", images=np.stack([low.read(i) for i in order]),
             files=np.array([low.names[i].replace(".bmp", ".JPG") for i in order]))
    for one, other in zip(batches(open_data(*folders), config, 0, 40),
                          batches(open_data(folders[0], tmp_path / "low.npz"), config, 0, 40), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_the_processes_are_the_batches(wide, config, processes):
    config.data.square, config.data.flip = "random", True
    whole = list(batches(open_data(*wide), config, 8, 43))
    shares = [list(batches(open_data(*wide), config, 8, 43, process, processes)) for process in range(processes)]
    for batch, *parts in zip(whole, *shares, strict=True):
        np.testing.assert_array_equal(batch["lowres"], np.concatenate([part["lowres"] for part in parts]))


@pytest.mark.parametrize("cache", [False, True])
def test_a_pair_of_which_either_can_not_be_read_is_replaced_by_the_next_good_one_and_listed(wide, config, cache):
    config.data.cache = cache
    high, low = wide
    cut(low / "a/1.png"), cut(high / "a/3.png"), (low / "b/3.png").unlink()
    source, bad = open_data(*wide), {}
    order, instead = Order(source, config, 40, bad), {1: 2, 3: 4, 7: 0}
    for n in range(40):
        example, wanted = order[n], order.record(n)
        for name in ("image", "lowres"):
            assert example[name][0, 0, 2] == instead.get(wanted, wanted)
    assert bad.keys() == {"a/1.png", "a/3.png", "b/3.png"}
    assert bad["a/1.png"].startswith("LowRes: a/1.png: OSError") and bad["a/3.png"].startswith("OSError")
    assert bad["b/3.png"] == "LowRes: there is none of its name"


def test_what_headers_tell_of_pairs_is_left_out_when_a_run_begins(folders, config, tmp_path):
    high, low = folders
    (low / "a/1.bmp").write_bytes(b"no picture"), (high / "a/3.png").write_bytes(b""), (low / "b/0.bmp").unlink()
    (low / "b/9.bmp").write_bytes(b"nobody's")
    source = manifest.freeze(open_data(*folders), tmp_path)
    assert source.excluded.keys() == {"a/1.png", "a/3.png", "b/0.png"}
    assert "a/1.bmp" in source.excluded["a/1.png"] and len(source) == 5
    assert any("3 files are left out, a/1.png first (LowRes: a/1.bmp: " in line for line in source.notes())
    before = list(batches(source, config, 0, 40))
    shutil.copy(high / "b/1.png", high / "b/5.png"), shutil.copy(low / "b/1.bmp", low / "b/5.bmp")  # is not in the run
    (low / "b/2.bmp").unlink()  # is, and replaced
    resumed = manifest.resume(open_data(*folders), tmp_path)
    gone, after = (resumed.names.index(f"b/{i}.png") for i in (2, 3))
    order = Order(resumed, config, 40, resumed.bad)
    for n in range(40):
        record, example = order.record(n), order[n]
        if record != gone:
            np.testing.assert_array_equal(example["lowres"], before[n // 4]["lowres"][n % 4])
        else:
            wanted = read_pair(resumed, after, 16, 8)
            np.testing.assert_array_equal(example["image"], wanted[0])
            np.testing.assert_array_equal(example["lowres"], wanted[1])
    assert list(resumed.bad) == ["b/2.png"]


def test_a_record_of_arrays_without_a_partner_is_left_out_when_a_run_begins(tmp_path, smooth):
    pictures = smooth(5)
    np.savez(tmp_path / "high.npz", images=pictures), np.savez(tmp_path / "low.npz", images=pictures[:4, ::2, ::2])
    source = manifest.freeze(open_data(tmp_path / "high.npz", tmp_path / "low.npz"), tmp_path)
    assert source.excluded == {"4": "LowRes: there is none of its name"} and len(source) == 4


@pytest.mark.parametrize("shape, lowres, fits", [
    ((16, 20), (8, 10), True), ((16, 20), (8, 8), False), ((16, 20), (10, 8), False), ((16, 20), (16, 20), True),
    ((8, 10), (16, 20), False), ((667, 1001), (166, 250), True), ((667, 1001), (167, 251), True),
    ((667, 1001), (168, 250), False), ((667, 1001), (165, 250), False), ((1001, 667), (250, 169), False),
    ((2000, 1000), (100, 51), True), ((2000, 1000), (100, 52), False)])
def test_partners_are_of_one_shape_but_for_a_pixel(shape, lowres, fits):
    if fits:
        fit("a/0.png", shape, lowres)
    else:
        told = f"`data.lowres`: .* a/0.png, {shape[1]}x{shape[0]}, .*{lowres[1]}x{lowres[0]}$"
        with pytest.raises(Misfit, match=told):
            fit("a/0.png", shape, lowres)


def test_partners_of_different_shapes_are_an_error_that_names_them_and_no_run_begins(wide, config, tmp_path):
    write(wide[1], "b/2", places(8, 13, 6))
    with pytest.raises(Misfit, match="the partner of b/2.png, 30x16, must be of its shape; it is 13x8"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run" / manifest.FILE).exists() and not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(Misfit, match="b/2.png"):  # and of sources that have no headers
        list(batches(open_data(*wide), config, 0, 40))
    with pytest.raises(Misfit, match="must be no larger"):
        manifest.freeze(open_data(*wide[::-1]), tmp_path)


def test_a_turn_by_exif_is_no_other_shape(wide, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(places(16, 30, 0, 2))).save(wide[0] / "a/0.png", exif=exif)
    assert not manifest.freeze(open_data(*wide), tmp_path).excluded


def test_what_are_no_pairs_is_one_line_that_says_which_source(folders, tmp_path):
    high, low = folders
    shutil.copytree(low, tmp_path / "twice")
    shutil.copy(low / "a/1.bmp", tmp_path / "twice" / "a/1.gif")
    for i in range(5):
        write(tmp_path / "few", f"a/{i}x2" if i else "a/0", places(8, 8, 0))
    for spec, rule in ((tmp_path / "none", r"`data.lowres` \(=.*none\) must be"),
                       (tmp_path / "twice", "`data.lowres` must hold one picture of a name, .* a/1.bmp and a/1.gif$"),
                       (tmp_path / "few", "`data.lowres` .* 7 of its 8 have no partner.* is a/1.png, .* a/0.png$")):
        with pytest.raises(ValueError, match=rule) as caught:
            open_data(high, spec)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes, name", [
    ({"data.lowres": ""}, "data.lowres"), ({"degrade.kind": "bicubic"}, "data.lowres"),
    ({"degrade.kind": "photo"}, "data.lowres"), ({"data.square": "adm"}, "data.square")])
def test_a_config_of_pairs_names_both_sources(config, changes, name):
    configs.validate(config)
    for path, value in changes.items():
        part, option = path.split(".")
        config[part][option] = value
    with pytest.raises(ValueError, match=f"^`{name}` \\(=.*\\) must "):
        configs.validate(config)
    assert "lowres" not in configs.base_stage("base_8", 8).data


def test_a_stage_of_pairs_makes_no_low_res_pictures_to_learn_from(folders, config):
    batch = next(batches(open_data(*folders), config, 0, 40))
    lowres = batch.pop("lowres")
    with pytest.raises(ValueError, match="`lowres`"):
        shown(config, batch)
    stage = Stage(config, ("a", "b"))
    np.testing.assert_allclose(stage.pair(batch["image"], None, None, lowres)[1], to_float(lowres), atol=1e-6)
    np.testing.assert_allclose(stage.pair(batch["image"])[1], resize(to_float(batch["image"]), 8), atol=1e-5)
    assert describe(config, ("a", "b"))["flops_per_image"]["train"] > 0


def test_low_res_pictures_that_are_resized_are_told(wide, config, tmp_path):
    cut(wide[1] / "a/0.png")
    source = manifest.freeze(open_data(*wide), tmp_path)

    def told():
        return [line for line in loop.warnings(config, source) if "`lowres_size`" in line]

    assert not told()
    config.unlock().lowres_size = 4
    assert "the first from 8 px; that takes away noise" in told()[0]
    config.lowres_size = 16
    assert told()[0].endswith("(=16), the first from 8 px")
    for path in wide[1].rglob("*.png"):
        cut(path)
    assert not told()  # that none can be read is said when one is wanted


@pytest.mark.slow
def test_a_run_stopped_and_resumed_ends_as_one_never_stopped(folders, config, tmp_path):
    """Its folders may move meanwhile; its degradation may not change."""
    config.train.images, config.train.accumulate = 8, 2
    loop.train(config, tmp_path / "run")
    config.data.source, config.data.lowres = (str(shutil.move(folder, f"{folder}_moved")) for folder in folders)
    config.train.images = 16
    for run in ("run", "straight"):
        loop.train(config, tmp_path / run)
    one, other = (runs.restored(tmp_path / run)[1] for run in ("run", "straight"))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    config.degrade.kind, config.data.lowres = "bicubic", ""
    with pytest.raises(ValueError, match="differ: degrade.kind$"):
        loop.train(config, tmp_path / "run")


def test_what_is_looked_at_of_a_run_is_its_pairs(wide, config, make_stage):
    config.sample.aug_level, config.sample.steps = 0.0, 1
    stage, source = make_stage(config), open_data(*wide)
    image, lowres = (to_float(np.stack(part)) for part in zip(*(read_pair(source, i, 16, 8) for i in range(8))))
    np.testing.assert_allclose(doctor._pictures(stage, source, 8).lowres, lowres, atol=1e-6)
    grid = loop.preview(stage, source)
    np.testing.assert_allclose(grid[0], resize(lowres, 16), atol=1e-5)
    np.testing.assert_array_equal(grid[2], image)


def test_an_upscaler_is_told_of_pairs_and_not_held_to_its_input(folders, config, make_stage, tmp_path, capsys):
    make_stage(config).save(tmp_path / "stage")
    command = ["upscale", str(folders[1] / "a/0.bmp"), "--stage", str(tmp_path / "stage"), "--scale", "1", "--out"]
    assert cli.main([*command, str(tmp_path / "out")]) == 0
    said = f"a window of 8 px to 16, trained on {folders[0]} and its pairs in {folders[1]}\n"
    assert said in capsys.readouterr().err
    assert cli.main([*command, str(tmp_path / "other"), "--consistent"]) == 2
    assert "`consistent` (=True) must be False for sr_16: trained on pairs" in capsys.readouterr().err


def test_pairs_are_packed_as_they_are_cut(wide, config, tmp_path, capsys):
    cut(wide[1] / "a/1.png")
    command = ["data", "pack", str(wide[0]), "--lowres", str(wide[1]), "--size", "16", "--lowres-size", "8", "--out",
               str(tmp_path / "packs")]
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    assert "left out: a/1.png: LowRes" in told
    assert f"--config.data.source={tmp_path}/packs/high --config.data.lowres={tmp_path}/packs/low" in told
    packed, source = open_data(tmp_path / "packs" / "high", tmp_path / "packs" / "low"), open_data(*wide)
    assert packed.names == [name for name in source.names if name != "a/1.png"] and packed.checked
    for i, name in enumerate(packed.names):
        for one, other in zip(read_pair(packed, i, 16, 8), read_pair(source, source.names.index(name), 16, 8)):
            np.testing.assert_array_equal(one, other)
    # One by one, partners would lie half a low-res pixel apart.
    pack(open_source(wide[0]), tmp_path / "alone", 16)
    assert np.any(open_source(tmp_path / "alone").read(0) != packed.read(0))


def test_pairs_that_do_not_fit_make_no_packs(wide, tmp_path, capsys):
    write(wide[1], "b/2", places(8, 13, 6))
    with pytest.raises(Misfit, match="b/2.png"):
        pack_pairs(open_data(*wide), tmp_path / "packs", 16, 8)
    command = ["data", "pack", str(wide[0]), "--lowres", str(wide[1]), "--size", "16", "--out", str(tmp_path / "packs")]
    for extra, rule in (([], "`lowres_size` (=None)"), (["--lowres-size", "8", "--square", "adm"], "`square` (=adm)")):
        assert cli.main([*command, *extra]) == 2
        assert rule in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"high", "low"}


def test_a_check_lists_what_is_wrong_with_pairs(wide, tmp_path, capsys):
    high, low = wide
    cut(low / "a/1.png"), (low / "b/3.png").unlink()
    write(low, "b/2", places(8, 13, 6)), write(low, "b/9", places(8, 8, 0))
    assert cli.main(["data", "check", str(high), "--lowres", str(low), "--out", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert {name: sorted(kinds) for name, kinds in report["files"].items()} == {
        "a/1.png": ["without low-res"], "b/3.png": ["without low-res"], "b/2.png": ["without fit"]}
    assert report["pictures"] == 8 and report["others"] == ["b/9.png"]
    assert summary(check(open_data(high, low))) + "\n" == capsys.readouterr().out


def test_labels_are_those_of_the_high_res_source(folders):
    high, low = map(open_source, folders)
    assert Pairs(high, low).classes == ("a", "b") and Pairs(high, low).labels.tolist() == [0] * 4 + [1] * 4
