"""Laws of `cdm eval distribution` and `neighbours`: cards that say what they are of, sensible order, nothing twice."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cdm import cli
from cdm.evals import card, statistics
from cdm.evals.distribution import Moments, frechet, frechet_floor, kid, precision_recall
from cdm.evals.measure import measure, names
from cdm.evals.neighbours import neighbours
from cdm.evals.weights import SOURCES
from cdm.images.files import hold, read_image
from cdm.images.resize import resize


def saved(path, pixels):
    np.savez(path, arr_0=pixels)
    return path


@pytest.fixture
def sets(tmp_path, smooth):
    """Two sets of samples and a reference, of one distribution."""
    return [saved(tmp_path / f"{name}.npz", smooth(n, seed)) for name, n, seed in (("x", 40, 1), ("x2", 40, 2),
                                                                                   ("y", 60, 3))]


def test_a_card_has_every_metric_of_the_features_and_its_protocol(sets, extractor, tmp_path, smooth):
    x, _, y = sets
    found = measure([x], y, tmp_path / "card.json", extractor)
    a, b = extractor(smooth(40, 1)), extractor(smooth(60, 3))
    moments = [Moments(f["pool"]) for f in (a, b)]
    wanted = {"fd_convolution": frechet(*[v for m in moments for v in (m.mean, m.cov)]),
              "fd_convolution_floor": frechet_floor(moments[1].cov, 40, 60),
              "kid_convolution": kid(a["pool"], b["pool"], 100, 40, 0)[0]}
    wanted |= {f"{name}_convolution": value for name, value in precision_recall(a["pool"], b["pool"]).items()}
    for name, value in wanted.items():
        assert found["results"][name]["mean"] == pytest.approx(value, rel=1e-3, abs=1e-7), name
    assert found["results"]["is_convolution"]["mean"] > 1 and not (tmp_path / "card.json.partial").exists()
    assert found == card.read(tmp_path / "card.json")
    protocol = found["protocol"]
    assert protocol["features"] == "convolution" and protocol["weights"] == "0" * 64 and protocol["n"] == 40
    assert protocol["reference"]["n"] == 60 and protocol["size"] == [16, 16] and protocol["resize"] == "none"
    assert protocol["kid"] == {"subsets": 100, "size": 40, "seed": 0} and protocol["pr"] == {"k": 3}


def test_seeds_and_blocks_give_a_mean_with_an_interval(sets, extractor, tmp_path, smooth):
    x, x2, y = sets
    both = saved(tmp_path / "both.npz", np.stack([smooth(40, 1), smooth(40, 2)], 1).reshape(80, 16, 16, 3))
    seeds = measure([x, x2], y, tmp_path / "a.json", extractor)
    blocks = measure([both], y, tmp_path / "b.json", extractor, blocks=2)
    alone = measure([x], y, tmp_path / "c.json", extractor)
    assert seeds["protocol"] == blocks["protocol"] == alone["protocol"]  # N is that of a block
    for name, value in seeds["results"].items():
        np.testing.assert_allclose(blocks["results"][name]["blocks"], value["blocks"], rtol=1e-3, atol=1e-6)
    low, high = seeds["results"]["kid_convolution"]["interval"]
    assert low < seeds["results"]["kid_convolution"]["mean"] < high
    assert alone["results"]["fd_convolution"]["mean"] == seeds["results"]["fd_convolution"]["blocks"][0]


def test_statistics_of_a_reference_stand_for_it(sets, extractor, tmp_path):
    x, _, y = sets
    whole = measure([x], y, tmp_path / "a.json", extractor, metrics=["fd", "is"], save=tmp_path / "y_stats.npz")
    short = measure([x], tmp_path / "y_stats.npz", tmp_path / "b.json", extractor)
    assert whole["protocol"] == short["protocol"]
    assert all(value["difference"] == 0 for value in card.compare(whole, short).values())
    with np.load(tmp_path / "y_stats.npz") as file:  # the arrays that others read
        assert file["mu"].shape == (6,) and file["sigma"].dtype == np.float64 and file["n"] == 60
    with pytest.raises(ValueError, match="`metrics` .*=kid.*fd, is"):
        measure([x], tmp_path / "y_stats.npz", tmp_path / "c.json", extractor, metrics=["kid"])
    extractor.sha256 = "1" * 64
    with pytest.raises(ValueError, match="`reference` .*same weights"):
        measure([x], tmp_path / "y_stats.npz", tmp_path / "c.json", extractor)


def test_a_reference_batch_of_adm_has_statistics_of_inception_and_images(sets, extractor, tmp_path, smooth):
    x, _, y = sets
    m = Moments(extractor(smooth(60, 3))["pool"])
    np.savez(tmp_path / "adm.npz", arr_0=smooth(20, 3), mu=m.mean, sigma=m.cov, mu_s=np.zeros(7), sigma_s=np.eye(7))
    with pytest.raises(ValueError, match="`features` .*=convolution.*inception"):
        measure([x], tmp_path / "adm.npz", tmp_path / "a.json", extractor)
    extractor.name = "inception"
    found = measure([x], tmp_path / "adm.npz", tmp_path / "a.json", extractor)
    direct = measure([x], y, tmp_path / "b.json", extractor, metrics=["fd"])
    ours, wanted = (card["results"]["fd_inception"]["mean"] for card in (found, direct))
    assert ours == pytest.approx(wanted, rel=1e-6)
    assert found["protocol"]["reference"]["n"] is None and found["protocol"]["reference"]["images"]["n"] == 20
    assert "fd_inception_floor" not in found["results"] and "kid_inception" in found["results"]


def test_only_the_inception_of_2015_makes_a_fid(extractor):
    assert names(extractor)["fd"] == "fd_convolution" and names(extractor, 4)["fd"] == "fd_convolution_pca4"
    extractor.name = "inception"
    assert names(extractor)["fd"] == "fd_inception"
    extractor.sha256 = SOURCES["inception"].sha256
    assert names(extractor)["fd"] == "fid" and names(extractor)["sfid"] == "sfid"
    assert names(extractor, 256)["fd"] == "fd_inception_pca256"


def test_fewer_directions_need_fewer_images(sets, extractor, tmp_path, smooth):
    few = saved(tmp_path / "few.npz", smooth(5))
    with pytest.raises(ValueError, match="`images` .*few.* at least 7 images.*covariance of 6 features, not 5.*--pca"):
        measure([few], sets[2], tmp_path / "a.json", extractor, metrics=["fd"])
    assert not (tmp_path / "a.json.partial").exists()
    found = measure([few], sets[2], tmp_path / "a.json", extractor, metrics=["fd", "kid"], pca=4)
    assert found["results"].keys() >= {"fd_convolution_pca4", "kid_convolution"} and found["protocol"]["pca"] == 4
    whole = measure([sets[0]], sets[2], tmp_path / "b.json", extractor, metrics=["fd"], pca=6)
    plain = measure([sets[0]], sets[2], tmp_path / "b.json", extractor, metrics=["fd"])
    assert whole["results"]["fd_convolution_pca6"]["mean"] == pytest.approx(plain["results"]["fd_convolution"]["mean"])
    with pytest.raises(ValueError, match="`pca` .*=7.*6 features"):
        measure([sets[0]], sets[2], tmp_path / "c.json", extractor, pca=7)


BAD = {
    "other count": (lambda x, x2, y, t, smooth: dict(images=[x, saved(t / "z.npz", smooth(39))]),
                    "`images` .*one count.* 40, 39"),
    "other size": (lambda x, x2, y, t, smooth: dict(images=[saved(t / "z.npz", smooth(40, size=8))]),
                   "`size` .*8x8.*16x16"),
    "blocks of several": (lambda x, x2, y, t, smooth: dict(images=[x, x2], blocks=2), "`blocks` .*=2.*one set"),
    "unequal blocks": (lambda x, x2, y, t, smooth: dict(blocks=3), "`blocks` .*=3.*divide the 40"),
    "no such metric": (lambda x, x2, y, t, smooth: dict(metrics=["sfid"]), "`metrics` .*=sfid.*fd, kid, is, pr"),
    "no images": (lambda x, x2, y, t, smooth: dict(images=[t / "none"]), "`images` .*none.*there is none"),
    "no reference": (lambda x, x2, y, t, smooth: dict(reference=t / "none"), "`reference` .*none.*there is none"),
    "too few": (lambda x, x2, y, t, smooth: dict(images=[saved(t / "z.npz", smooth(3))], metrics=["pr"]),
                "at least 4.*not 3"),
    "statistics": (lambda x, x2, y, t, smooth: dict(save=t / "s.txt"), "`statistics` .*npz"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_mistake_is_one_line_and_nothing_written(kind, sets, extractor, tmp_path, smooth):
    change, line = BAD[kind]
    x, x2, y = sets
    arguments = {"images": [x], "reference": y, **change(x, x2, y, tmp_path, smooth)}
    with pytest.raises(ValueError, match=line) as caught:
        measure(out=tmp_path / "card.json", extractor=extractor, **arguments)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("card.json*"))


def test_two_processes_do_not_measure_into_one_card(sets, extractor, tmp_path):
    (tmp_path / "card.json.partial").mkdir()
    with hold(tmp_path / "card.json.partial", "out"), pytest.raises(ValueError, match="`out` .*one process at a time"):
        measure([sets[0]], sets[2], tmp_path / "card.json", extractor)


def test_a_killed_measurement_is_finished_by_the_same_command(sets, extractor, tmp_path):
    """kill -9 after some of the reference: none of what was done is done again."""
    x, _, y = sets
    code = f"""
import os, signal
import conftest, cdm.evals.extract
from cdm.evals.measure import measure
class Dies(conftest.Convolution):
    def __call__(self, images):
        if self.images >= 70:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(images)
cdm.evals.extract.BATCH = 10
measure([{str(x)!r}], {str(y)!r}, {str(tmp_path / 'card.json')!r}, Dies())
"""
    here = os.path.dirname(__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.path.dirname(here), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == -9 and not (tmp_path / "card.json").exists(), done.stderr
    resumed = measure([x], y, tmp_path / "card.json", extractor)
    assert extractor.images == 1 + 100 - 70 and not (tmp_path / "card.json.partial").exists()
    straight = measure([x], y, tmp_path / "straight.json", extractor)
    assert resumed["protocol"] == straight["protocol"]
    for name, value in straight["results"].items():
        assert resumed["results"][name]["mean"] == pytest.approx(value["mean"], rel=1e-3, abs=1e-6)


def blur(pixels, level):
    return np.asarray(resize(resize(pixels, 16 // 2**level), 16)).clip(0, 255).astype(np.uint8)


def noise(pixels, level):
    return (pixels + 8 * 4**level * np.random.default_rng(0).normal(size=pixels.shape)).clip(0, 255).astype(np.uint8)


def jpeg(pixels, level):
    found = []
    for image in pixels:
        data = io.BytesIO()
        Image.fromarray(image).save(data, "jpeg", quality=(50, 20, 10)[level - 1], subsampling=0)
        found.append(np.asarray(Image.open(data)))
    return np.stack(found)


@pytest.mark.parametrize("harm", [blur, noise, jpeg], ids=lambda harm: harm.__name__)
def test_every_distance_rises_with_harm(harm, sets, extractor, tmp_path, smooth):
    y = saved(tmp_path / "y.npz", smooth(400, 3))
    found = [measure([saved(tmp_path / "z.npz", harm(smooth(400, 4), level) if level else smooth(400, 4))], y,
                     tmp_path / "z.json", extractor, metrics=["fd", "kid"])["results"] for level in range(4)]
    for name in ("fd_convolution", "kid_convolution"):
        values = [result[name]["mean"] for result in found]
        assert values == sorted(set(values)), (name, values)


def test_copies_are_found_among_the_neighbours(extractor, tmp_path, smooth):
    training, new = smooth(200, 5), smooth(30, 6)
    copies = (training[:5].astype(int) + np.random.default_rng(0).integers(-2, 3, training[:5].shape)).clip(0, 255)
    x = saved(tmp_path / "x.npz", np.concatenate([new, copies.astype(np.uint8)]))
    found = neighbours(x, saved(tmp_path / "y.npz", training), tmp_path / "out", extractor)
    rows = json.loads((tmp_path / "out" / "neighbours.json").read_text())
    assert {row["image"]: next(iter(row["nearest"])) for row in rows[:5]} == {str(30 + i): str(i) for i in range(5)}
    assert all(row["below"] for row in rows[:5]) and sum(row["below"] for row in rows) < 9
    assert found["results"]["share_below"] == np.mean([row["below"] for row in rows])
    assert read_image(tmp_path / "out" / "neighbours.png").shape == (16 * 16, 7 * 16, 3)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"card.json", "neighbours.json", "neighbours.png"}
    other = neighbours(x, tmp_path / "y.npz", tmp_path / "other", extractor, held_out=saved(tmp_path / "h.npz",
                                                                                            smooth(50, 7)))
    assert other["protocol"]["baseline"]["n"] == 50
    with pytest.raises(ValueError, match="`baseline"):
        card.compare(found, other)
    assert 0.7 < other["results"]["baseline_distance"] / found["results"]["baseline_distance"] < 1.4


def test_doubles_among_training_images_hide_no_copies(extractor, tmp_path, smooth):
    training = smooth(60, 5)
    x = saved(tmp_path / "x.npz", np.concatenate([smooth(20, 6), training[:3]]))
    y = saved(tmp_path / "y.npz", np.concatenate([training, training[:9]]))
    held = saved(tmp_path / "h.npz", np.concatenate([smooth(30, 7), training[:2]]))
    for held_out, doubles in ((None, 18), (held, 2)):
        found = neighbours(x, y, tmp_path / "out", extractor, held_out=held_out)
        rows = json.loads((tmp_path / "out" / "neighbours.json").read_text())
        assert found["about"]["doubles_left_out"] == doubles
        assert found["results"]["first_percentile_of_baseline_ratio"] > 1e-3
        assert {row["image"] for row in rows if row["ratio"] < 1e-6} == {"20", "21", "22"} and rows[2]["below"]
    with pytest.raises(ValueError, match="`held_out` .*no doubles"):
        neighbours(x, y, tmp_path / "other", extractor, held_out=saved(tmp_path / "h.npz", training[:9]))


def test_statistics_of_what_is_no_such_file_are_one_line(sets, extractor, tmp_path):
    np.savez(tmp_path / "bad.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(ValueError, match="`reference` .*bad.npz.*whole file") as caught:
        statistics.read(tmp_path / "bad.npz", extractor, [16, 16])
    assert "\n" not in str(caught.value)


def test_the_verbs_measure_compare_and_show(sets, extractor, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cdm.evals.features.load_extractor", lambda name, weights: extractor)

    def call(*arguments):
        return cli.main(["eval", *map(str, arguments)])

    x, x2, y = sets
    a, b, c = (tmp_path / f"{name}.json" for name in "abc")
    assert call("distribution", "--images", x, x2, "--reference", y, "--out", a, "--metrics", "fd,kid") == 0
    assert call("distribution", "--images", x2, x, "--reference", y, "--out", b, "--metrics", "fd,kid") == 0
    assert call("distribution", "--images", x, "--reference", x2, "--out", c, "--metrics", "fd,kid") == 0
    assert "fd_convolution" in capsys.readouterr().out
    assert call("compare", a, b) == 0
    assert "fd_convolution" in (out := capsys.readouterr().out) and " +0 " in out.replace("-0 ", "+0 ")
    assert call("compare", a, c) == 2
    assert capsys.readouterr().err.startswith("cdm: `reference.n` must be equal")
    assert call("neighbours", "--images", x, "--reference", y, "--out", tmp_path / "out") == 0
    assert "share_below" in capsys.readouterr().out and (tmp_path / "out" / "neighbours.png").exists()
    assert call("distribution", "--images", tmp_path / "none", "--reference", y, "--out", c) == 2
    assert capsys.readouterr().err.startswith("cdm: `images`")
