"""Laws of the report on a cascade, and of the search for its settings."""

import json
import shutil
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from cdm.cascade import Cascade, load_cascade, write_sampling
from cdm.evals import page, scoring, tune
from cdm.evals.report import lowres, report
from cdm.images.files import read_image
from cdm.settings import plan, settings_of
from cdm.stage import Stage

N = 8  # of each of three classes


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of N pictures of each class."""
    folder, random = tmp_path_factory.mktemp("real"), np.random.default_rng(0)
    for name in ("animals", "food", "symbols"):
        (folder / name).mkdir()
        for i in range(N):
            blocks = random.integers(0, 256, (4, 4, 3), np.uint8)
            Image.fromarray(blocks).resize((32, 32), Image.Resampling.BICUBIC).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def made(cascade, convolution, pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "report"
    return out, report(cascade, convolution, pictures, pictures, out, n=N)


def test_shares_sum_to_one_and_the_chain_begins_at_the_base(made):
    _, result = made
    assert sum(part["share"] for part in result["shares"]) == pytest.approx(1)
    base, first, last = result["distances"]
    assert first["previous_output"] == first["whole_chain"] != first["real_input"]
    assert result["shares"][0]["distance_when_real_enters"] == last["whole_chain"]
    assert result["shares"][-1]["distance_when_real_enters"] == last["real_input"]
    assert base["whole_chain"]["value"] > base["real_pictures"]["value"]


def test_real_input_is_the_picture_made_small_by_the_one_resize(made, pictures):
    out, _ = made
    real = scoring.Real(pictures, ("animals", "food", "symbols"), N)
    i = real.pairs.index((1, 3))
    low = lowres(type("Size", (), {"lowres_size": 16}), real.at(32).read(i))
    np.testing.assert_array_equal(read_image(out / "from_sr_32" / "sr_16" / "food_00003.png"), low)
    assert real.names[i] == "food/3.png"


def test_other_pictures_are_other_work(made, cascade, convolution, pictures, tmp_path):
    """Of the same names and count, the same report is not gone on with."""
    shutil.copytree(pictures, tmp_path / "real")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "real" / "food" / "3.png")
    for data, reference, name in ((tmp_path / "real", pictures, "data"), (pictures, tmp_path / "real", "reference")):
        with pytest.raises(ValueError, match=f"^`out` .*differ: {name}.sha256.16, .*{name}.source$"):
            report(cascade, convolution, data, reference, made[0], n=N)


def test_what_can_not_be_reported_on_is_refused_before_anything_is_made(cascade, convolution, pictures, tmp_path):
    truncated = Cascade(cascade.stages, {"sr_16": {"hand_over": "truncated", "aug_level": 0.3}})
    shutil.copytree(pictures, tmp_path / "real")
    Image.fromarray(np.zeros((31, 31, 3), np.uint8)).save(tmp_path / "real" / "food" / "3.png")
    for chain, data, n, match in ((truncated, pictures, N, "^`hand_over` .*truncated.* of sr_16"),
                                  (cascade, pictures, 6, "^`n` .*=6.* at least 7.* 20 pictures"),
                                  (cascade, tmp_path / "real", N, "^`data`: food/3.png .*at least 32 pixels")):
        with pytest.raises(ValueError, match=match):
            report(chain, convolution, data, pictures, tmp_path / "out", n=n)
        assert not [*(tmp_path / "out").glob("from_*")]


def test_a_report_made_again_samples_nothing_and_says_the_same(made, cascade, convolution, pictures):
    out, result = made
    stamps, seen = {path: path.stat().st_mtime_ns for path in out.glob("from_*/*_0*.png")}, convolution.images
    assert report(cascade, convolution, pictures, pictures, out, n=N) == json.loads(json.dumps(result))
    assert stamps == {path: path.stat().st_mtime_ns for path in out.glob("from_*/*_0*.png")} and stamps
    assert seen == convolution.images
    with pytest.raises(ValueError, match="^`out` .*differ: .*seed"):
        report(cascade, convolution, pictures, pictures, out, n=N, seed=1)


def test_the_page_stands_alone(made):
    text = (made[0] / "report.html").read_text()
    assert "from noise" in text and 'src="http' not in text and text.count("data:image/webp") == 4
    assert "are among those they are compared with" in text


def test_plots_are_well_formed_and_keep_their_numbers_in_the_frame():
    for plot in (page.bars(["a", "b"], ["x & y", "z"], [[1.0, None], [-0.5, 2]], [[0.1, None], [0, 0.3]], "d", "c<"),
                 page.points({"one": [(1, 2.0, 0.1), (5, 1.0, 0.2)]}, "x", "y", "c", (1, 2.0, 0.1)),
                 page.points({"one": [(3, 2.0, 0.0)]}, "x", "y", "alone")):
        root = xml.etree.ElementTree.fromstring(plot)
        for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
            assert 0 <= float(circle.get("cx")) <= 640 and 0 <= float(circle.get("cy")) <= 320


@pytest.fixture
def folder(cascade, tmp_path):
    cascade.save(tmp_path / "cascade")
    return tmp_path / "cascade"


@pytest.fixture(scope="module")
def planted(cascade, tmp_path_factory):
    """planted(stage, **settings) -> Source of real pictures: what the cascade makes with settings to be found."""

    def make(stage, **settings):
        labels = np.repeat(np.arange(3), 40)
        images = cascade.sample(list(labels), seed=7, stop_at=stage, steps=4, **settings)
        path = tmp_path_factory.mktemp("planted") / "real.npz"
        np.savez(path, images=images, labels=np.array(["animals", "food", "symbols"])[labels])
        return path

    return make


@pytest.fixture(scope="module")
def guided(planted):
    return planted("base_8", guidance=[3.0, 0.0, 0.0])


def search(folder, convolution, source, work, stage="base_8", budget=400, **changes):
    values = {"guidance": [0.0, 3.0], "steps": [4], **changes}
    return tune.tune(folder, convolution, source, work, budget, stages=[stage], **values)


def test_the_search_finds_what_the_pictures_were_made_with(folder, convolution, guided, planted, tmp_path):
    noisy = planted("sr_16", aug_level=0.5)
    (folder / "tune.json").write_text('{"budget": 9, "found": [{"stage": "sr_32"}]}')  # as it once was
    level = search(folder, convolution, noisy, tmp_path / "sr", "sr_16", aug_level=[0.0, 0.5], guidance=[0.0])
    weight = search(folder, convolution, guided, tmp_path / "base")
    assert weight[0]["winner"]["guidance"] == 3.0 and level[0]["winner"]["aug_level"] == 0.5
    assert level[0]["about"]["before"] == {} and set(weight[0]["about"]["before"]) == {"sr_16"}
    # Searches of other stages stand side by side, whichever ends, or is run again, last.
    for _ in range(2):
        sampling = load_cascade(folder).sampling
        assert sampling["base_8"]["guidance"] == 3.0 and sampling["sr_16"]["aug_level"] == 0.5
        assert json.loads((folder / "tune.json").read_text()) == json.loads(json.dumps({"found": weight + level}))
        assert all(f"<h2>{name}</h2>" in (folder / "tune.html").read_text() for name in sampling)
        search(folder, convolution, noisy, tmp_path / "sr", "sr_16", aug_level=[0.0, 0.5], guidance=[0.0])


def test_a_search_that_was_killed_ends_as_one_that_was_not(folder, convolution, guided, tmp_path):
    write_sampling(folder, {"base_8": {"grid": [-5.0, -1.0, 1.0, 5.0], "interval": [-4.0, 4.0]}})
    result = search(folder, convolution, guided, tmp_path / "work")
    rows = (tmp_path / "work" / "rows.jsonl").read_text()
    (tmp_path / "work" / "rows.jsonl").write_text(rows[: len(rows) * 3 // 4])  # half of the last one
    (tmp_path / "work" / "base_8" / "001" / "food_00002.png").unlink()
    assert search(folder, convolution, guided, tmp_path / "work") == result
    assert (tmp_path / "work" / "rows.jsonl").read_text() == rows
    with pytest.raises(ValueError, match="^`workdir` .*differ: budget"):
        search(folder, convolution, guided, tmp_path / "work", budget=500)


def test_samplers_of_other_options_and_grids_are_searched_together(folder, convolution, guided, tmp_path):
    result = search(folder, convolution, guided, tmp_path / "work", budget=1200, guidance=[3.0],
                    sampler=["ddim", "dpmpp_2m", "heun"], grid=["time", "searched"])
    shown = (folder / "tune.html").read_text()
    levels = [row["settings"]["grid"] for row in result[0]["rows"] if row["settings"]["grid"] != "time"]
    assert {len(found) for found in levels} == {4, 2}  # of Heun's steps each costs two evaluations, but for the last
    assert {row["settings"]["sampler"] for row in result[0]["rows"]} == {"ddim", "dpmpp_2m", "heun"}
    assert all(f"<th>{name}</th>" in shown for name in ("sampler", "eta", "churn")) and "<td>–</td>" in shown


def test_the_present_settings_are_tried_and_none_twice(cascade):
    base, sr = cascade.stages[:2]
    for stage, now in ((base, settings_of(base, guidance=3.0, steps=7)), (sr, settings_of(sr, aug_level=0.07)),
                       (base, settings_of(base, grid=[-5.0, 0.0, 5.0]))):
        found = tune.candidates(stage, now)
        assert now in found and len(set(found)) == len(found)


def test_the_budget_is_kept_and_halves_candidates():
    for count, budget, classes in ((1, 100, 3), (12, 3000, 3), (45, 20_000, 9)):
        found = tune.rungs(count, budget, classes)
        assert sum(size * n * classes for size, n in found) <= budget
        assert [size for size, _ in found] == sorted((size for size, _ in found), reverse=True)
        assert found[-1][0] == min(count, tune.FINAL)
    with pytest.raises(ValueError, match="^`budget` .*must be at least"):
        tune.rungs(12, 100, 3)


def test_equally_good_candidates_go_to_the_cheapest(folder, convolution, guided, tmp_path):
    """Of two candidates that differ in nothing that is drawn, guidance 0 and one too small to tell, the unguided."""
    result = search(folder, convolution, guided, tmp_path / "work", guidance=[1e-12, 0.0])
    assert result[0]["winner"]["guidance"] == 0.0


@pytest.mark.parametrize("stage, changes, match", [
    ("sr_16", {"aug_level": [0.9]}, "^`aug_level` "), ("sr_99", {}, "^`stage` "),
    ("base_8", {"aug_level": [0.1]}, "^`aug_level` .*super-resolution stage"), ("base_8", {"budget": 5}, "^`budget` "), ("base_8", {"steps": [0]}, "^`steps` ")])
def test_a_value_that_can_not_be_is_refused_before_anything_is_made(folder, convolution, guided, tmp_path, stage,
                                                                    changes, match):
    with pytest.raises(ValueError, match=match):
        search(folder, convolution, guided, tmp_path / "work", stage, **changes)
    assert not (tmp_path / "work").exists()


def test_a_stage_that_is_given_noisy_states_is_not_searched(folder, convolution, guided, tmp_path):
    write_sampling(folder, {"sr_16": {"hand_over": "truncated", "aug_level": 0.3}})
    with pytest.raises(ValueError, match="^`hand_over` .*truncated.* of sr_16"):
        search(folder, convolution, guided, tmp_path / "work", "sr_16")
    assert not (tmp_path / "work").exists()


def test_a_stage_folder_has_no_settings_to_search(base_stage, convolution, guided, tmp_path):
    base_stage.save(tmp_path / "base_8")
    with pytest.raises(ValueError, match="^`cascade` .* must be a cascade folder"):
        search(tmp_path / "base_8", convolution, guided, tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("sampler,option", [("ddim", "eta"), ("heun", "churn")])
@pytest.mark.parametrize("steps", [1, 4, 5])
def test_the_cost_of_a_candidate_is_what_its_plan_evaluates(tiny_base, sampler, option, steps):
    stage = Stage(tiny_base, ("a", "b"))
    for guidance in (0.0, 1.0):
        settings = settings_of(stage, sampler=sampler, steps=steps, guidance=guidance, **{option: 0.0})
        assert tune.cost(settings) == int(plan(stage, settings).steps) * (2 if guidance else 1)
