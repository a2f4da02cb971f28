"""Laws of the human experiment but for its page: who sees what, intervals, the store, the report, bad input."""

import itertools
import json
import shutil
import sqlite3
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy import stats as scipy_stats

from cdm import cli
from cdm.evals import intervals
from cdm.evals.study import design
from cdm.evals.study.pictures import Folders
from cdm.evals.study.report import summarize
from cdm.evals.study.store import GONE, Store, create
from cdm.images.files import read_image
from cdm.images.resize import resize

NAMES = [f"set/{i}" for i in range(6)]


# Assignment


DESIGNS = [(100, 1, 50), (100, 4, 50), (100, 3, 50), (7, 3, 5), (10, 4, 10), (12, 5, 7), (20, 2, 9), (5, 2, 2),
           (22, 5, 6)]


@pytest.mark.parametrize("images, methods, per_rater", DESIGNS)
def test_every_law_of_assignment_holds_after_every_rater(images, methods, per_rater):
    views, lefts = np.zeros((images, methods), int), np.zeros((images, methods), int)
    for rater in range(60):
        trials = design.assign(views, lefts, per_rater, np.random.default_rng([0, rater]))
        image, method = [t.image for t in trials], [t.method for t in trials]
        left = np.array([t.real_side == "left" for t in trials])
        assert len(set(image)) == len(trials) == per_rater
        assert np.ptp(np.bincount(method, minlength=methods)) <= 1
        assert abs(2 * left.sum() - per_rater) == per_rater % 2
        np.add.at(views, (image, method), 1)
        np.add.at(lefts, (image, method), left)
        assert np.ptp(views.sum(1)) <= 1 and np.ptp(views, axis=1).max() <= 2 and np.ptp(views.sum(0)) <= 1
        lean = 2 * lefts - views
        assert abs(lean).max() <= 3 and abs(lean.sum(1)).max() <= 4


def test_an_assignment_is_drawn_from_the_seed_and_random_in_every_respect():
    zero = np.zeros((8, 2), int)
    drawn = [design.assign(zero, zero, 4, np.random.default_rng([seed, 1])) for seed in range(200)]
    assert drawn[0] == design.assign(zero, zero, 4, np.random.default_rng([0, 1])) != drawn[1]
    first = [trials[0] for trials in drawn]
    for counts in (np.bincount([t.image for t in first]), np.bincount([t.method for t in first]),
                   np.bincount([t.real_side == "left" for t in first])):
        assert scipy_stats.chisquare(counts).pvalue > 1e-3


# Intervals


def test_wilson_is_that_of_scipy_and_solves_its_equation():
    for trials in (1, 2, 7, 50, 2500):
        for fooled in {0, 1, trials // 3, trials - 1, trials}:
            low, high = intervals.wilson(fooled, trials)
            other = scipy_stats.binomtest(fooled, trials).proportion_ci(method="wilson")
            assert np.allclose((low, high), other, atol=1e-12) and 0 <= low <= fooled / trials <= high <= 1
            for end in {low, high} - {0.0, 1.0}:
                assert np.isclose(abs(fooled / trials - end), intervals.Z * np.sqrt(end * (1 - end) / trials))
    # Brown, Cai and DasGupta 2001 and any text book: 0 of 10 and 5 of 10.
    assert np.allclose(intervals.wilson(0, 10), (0, 0.2775), atol=5e-5)
    assert np.allclose(intervals.wilson(5, 10), (0.2366, 0.7634), atol=5e-5)


def test_the_interval_over_raters_is_wilsons_when_raters_are_alike_and_wider_when_not():
    random, trials = np.random.default_rng(0), np.full((400, 2), 25)
    rates = np.stack([np.full(400, 0.4), random.beta(2, 3, 400)], axis=1)  # both of mean 0.4
    fooled = random.binomial(trials, rates)
    low, high = intervals.over_raters(fooled, trials, 0)
    wilson = np.array([intervals.wilson(k, 400 * 25) for k in fooled.sum(0)]).T
    width = (high - low) / (wilson[1] - wilson[0])
    # Variance of a mean of 25 with a beta rate of variance 0.04 over that of a binomial one: 1 + 24 * 0.04 / 0.24 = 5.
    assert abs(width[0] - 1) < 0.1 and abs(width[1] - 5**0.5) < 0.2
    assert np.isnan(intervals.over_raters(fooled[:1], trials[:1], 0)).all()


# Pictures, protocol, store


def test_pictures_are_paired_by_name_and_low_res_ones_enlarged_by_the_one_resize(study_folders):
    folders = Folders(study_folders / "real", {"a": study_folders / "a", "b": study_folders / "b"},
                      study_folders / "lowres")
    assert folders.names == NAMES and folders.size == (12, 16)
    versions = folders.versions(3)
    assert np.array_equal(versions[1], read_image(study_folders / "a" / "set" / "3.png"))
    small = read_image(study_folders / "lowres" / "set" / "3.png")
    assert np.array_equal(versions[3], resize(small, (12, 16)).round().clip(0, 255).astype(np.uint8))


def test_the_store_is_the_study(study_folders, make_study):
    store, path = make_study(task=1)
    again = make_study(task=1, path=path)[0]  # the same folders: the same study
    assert again.hash == store.hash == design.fingerprint(store.protocol)
    folders = Folders(study_folders / "real", {"a": study_folders / "a", "b": study_folders / "b"},
                      study_folders / "lowres")
    pixels = store.pixels()
    for image in range(6):
        assert np.array_equal(pixels[image], folders.versions(image))


@pytest.mark.parametrize("change, named", [
    (dict(seed=1), "seed"), (dict(per_rater=3), "per_rater"), (dict(view_seconds=2), "view_seconds"),
    (dict(task=2), "task"), (dict(methods=("b", "a")), "methods"), (dict(methods=("a",)), "methods")])
def test_the_store_of_another_study_is_refused_naming_where_it_differs(make_study, change, named):
    _, path = make_study(task=1)
    with pytest.raises(ValueError, match=f"`store` .* must be of this study; {named} is "):
        make_study(**{"task": 1, "path": path, **change})


def test_a_picture_that_changed_makes_another_study(study_folders, make_study, tmp_path):
    _, path = make_study(task=2)
    shutil.copytree(study_folders / "a", tmp_path / "a")
    Image.new("RGB", (16, 12)).save(tmp_path / "a" / "set" / "5.png")
    folders = Folders(study_folders / "real", {"a": tmp_path / "a", "b": study_folders / "b"})
    with pytest.raises(ValueError, match="pictures_sha256"):
        create(path, design.protocol(folders, 2), folders)


def answer_all(store, code, fooled=lambda trial: False, stop=None):
    """Answer as a rater who knows which is real; fooled(trial) says when not to."""
    store.begin(code)
    trials = {t["token"]: t for t in with_tokens(store)}
    done, token = store.next(code)
    while token and done != stop:
        trial = trials[token]
        side = {True: {"left": "right", "right": "left"}[trial["real_side"]], False: trial["real_side"]}[fooled(trial)]
        assert store.answer(code, token, side, 500.0, 3000.0, 1, "key")
        done, token = store.next(code)


def with_tokens(store):
    rows = store._db.execute("SELECT token, image, method, real_side FROM trial").fetchall()
    return [dict(zip(("token", "image", "method", "real_side"), row)) for row in rows]


def test_raters_who_left_are_made_up_for(make_study):
    store, path = make_study(task=2, per_rater=3)
    for n in range(4):
        answer_all(store, f"left-{n:011}", stop=1)
    with sqlite3.connect(path, isolation_level=None) as db:
        db.execute("UPDATE rater SET seen = seen - ?", [GONE + 1])
    db.close()
    for n in range(8):
        answer_all(store, f"stays-{n:010}")
    views = np.zeros((6, 2), int)
    for t in store.trials()[4 * 3:]:
        views[t["image"], t["method"]] += 1
    assert (views == 2).all()


def test_a_rater_of_a_code_begins_once_and_the_first_answer_stands(make_study):
    store, _ = make_study(task=2)
    for _ in range(3):
        store.begin("a" * 16)
    assert len(store.trials()) == 6
    store.begin("b" * 16)
    _, token = store.next("a" * 16)
    assert not store.answer("b" * 16, token, "left", 1, 1, 1, "key")  # a trial of another rater
    assert store.answer("a" * 16, token, "left", 1, 1, 1, "key")
    assert store.answer("a" * 16, token, "right", 1, 1, 1, "key")
    assert [t["chosen_side"] for t in store.trials() if t["chosen_side"]] == ["left"]
    assert store.pair(token) is None


def test_a_rater_can_be_deleted_by_the_code(make_study):
    store, _ = make_study(task=2)
    for code in ("a" * 16, "b" * 16):
        answer_all(store, code)
    store._db.execute("DELETE FROM rater WHERE code = ?", ["b" * 16])
    store.begin("c" * 16)
    assert {t["rater"] for t in store.trials()} == {1, 3} and not store.knows("b" * 16)


# The report


def test_the_report_counts_what_was_answered(make_study, tmp_path, capsys):
    store, path = make_study(task=1, per_rater=4)
    for n in range(6):
        answer_all(store, f"{n:016}", lambda t: t["method"] == 1 and t["image"] != 2)
    answer_all(store, "leaves".ljust(16, "-"), lambda t: True, stop=3)
    assert cli.main(["study", "report", str(path), "--out", str(tmp_path / "out")]) == 0
    assert "raters: 6 finished, 1 did not and are left out" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    protocol, results = report["protocol"], report["results"]
    assert protocol["hash"] == store.hash and protocol["raters"] == 6 and protocol["question"] == design.QUESTIONS[1]
    assert results["raters"] == {"begun": 7, "finished": 6, "left_out": 1}
    assert results["answers"]["counted"] == 24 and results["answers"]["left_out"] == 3
    assert results["answers"]["left_chosen"] == pytest.approx(0.5, abs=0.3)
    a, b = (results["methods"][name] for name in "ab")
    assert a["trials"] == b["trials"] == 12 and a["fooled"] == 0 and b["fooled"] == 10
    assert b["wilson_95"] == list(intervals.wilson(10, 12)) and b["raters_95"][0] <= b["fool_rate"] <= b["raters_95"][1]
    assert b["reaction_ms"]["median"] == 500
    for name, method in itertools.product(NAMES, "ab"):
        row = results["images"][name][method]
        assert row["trials"] == 2 and row["fool_rate"] == (method == "b" and name != NAMES[2])
    assert results["most_to_least_often_taken_for_real"]["b"][-1] == NAMES[2]
    xml.etree.ElementTree.parse(tmp_path / "out" / "fool_rates.svg")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 2 * 2 * 3 * 3  # methods, best and worst, pictures, of three kinds
    assert "7 began, 6 finished; 1 did not and are left out, with 3 answers" in page
    assert not [rater for (rater,) in store._db.execute("SELECT code FROM rater") if rater in page]


def test_fool_rates_of_simulated_raters_are_found_again(make_study):
    store, _ = make_study(task=2)
    random, rates = np.random.default_rng(0), (0.15, 0.45)
    for n in range(50):
        answer_all(store, f"{n:016}", lambda t: random.random() < rates[t["method"]])
    methods = summarize(store)["results"]["methods"]
    for name, rate in zip("ab", rates):
        assert methods[name]["wilson_95"][0] < rate < methods[name]["wilson_95"][1]
        assert methods[name]["raters_95"][0] < rate < methods[name]["raters_95"][1]


def test_a_method_name_is_text_on_the_page(study_folders, tmp_path):
    folders = Folders(study_folders / "real", {"<b>&": study_folders / "a"})
    store = create(tmp_path / "s.sqlite", design.protocol(folders, 2), folders)
    answer_all(store, "a" * 16)
    store.close()
    assert cli.main(["study", "report", str(tmp_path / "s.sqlite"), "--out", str(tmp_path)]) == 0
    assert "<b>&" not in (tmp_path / "report.html").read_text()
    xml.etree.ElementTree.parse(tmp_path / "fool_rates.svg")


# Bad input


def _mistake(*arguments, capsys):
    assert cli.main(["study", *(str(a) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cdm: `") and error.count("\n") == 1
    return error


def test_mistakes_are_one_line_and_leave_no_store(study_folders, tmp_path, capsys):
    for name in ("real", "a", "lowres"):
        shutil.copytree(study_folders / name, tmp_path / name)
    (tmp_path / "empty").mkdir()
    store = tmp_path / "s.sqlite"

    def mistake(*more, real="real", method="a"):
        return _mistake("serve", "--store", store, "--real", tmp_path / real, "--methods",
                        f"a={tmp_path / method}", *more, capsys=capsys)

    assert "`real`" in mistake(real="empty") and "there are none in it" in mistake(real="empty")
    assert "`methods a`" in mistake(method="nowhere")
    assert "`lowres` must be a folder" in mistake("--task", 1)
    assert "`lowres`" in mistake("--task", 2, "--lowres", tmp_path / "lowres")
    assert "`per_rater` (=7) must be 1 to 6" in mistake("--per-rater", 7)
    assert "`view_seconds`" in mistake("--view-seconds", "nan") and "`seed`" in mistake("--seed", -1)
    (tmp_path / "a" / "set" / "4.png").rename(tmp_path / "a" / "set" / "other.png")
    assert "1 are missing, the first is set/4" in mistake()
    Image.new("RGB", (12, 16)).save(tmp_path / "a" / "set" / "4.png")
    assert "must be 12x16 (height x width) as the others, not 16x12" in mistake()
    (tmp_path / "a" / "set" / "4.png").write_bytes(b"no picture")
    assert "can not be read" in mistake()
    shutil.copy(study_folders / "a" / "set" / "4.png", tmp_path / "a" / "set" / "4.webp")
    assert "one picture of a name" in mistake()
    assert "`methods` must have names that differ" in _mistake(
        "serve", "--store", store, "--real", tmp_path / "real", "--methods", f"a={tmp_path / 'real'}",
        f"a={tmp_path / 'lowres'}", capsys=capsys)
    assert "`real` must be given" in _mistake("serve", "--store", store, "--task", 2, capsys=capsys)
    assert "`methods` must name one" in _mistake("serve", "--store", store, "--real", tmp_path / "real", capsys=capsys)
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_without_the_extra_serving_is_a_mistake(tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "cdm.evals.study.app")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install '.[study]'" in _mistake("serve", "--store", tmp_path / "s.sqlite", capsys=capsys)


def test_a_file_that_is_no_study_and_a_study_without_answers_are_mistakes(make_study, tmp_path, capsys):
    other = tmp_path / "other.sqlite"
    other.write_text("no database, but longer than a header of one" * 100)
    assert "`store`" in _mistake("serve", "--store", other, capsys=capsys)
    assert "`store`" in _mistake("report", tmp_path / "none.sqlite", "--out", tmp_path / "out", capsys=capsys)
    with sqlite3.connect(tmp_path / "empty.sqlite") as db:
        db.execute("CREATE TABLE something (x)")
    db.close()
    assert "no such table" in _mistake("report", tmp_path / "empty.sqlite", "--out", tmp_path / "out", capsys=capsys)
    store, path = make_study(task=2)
    answer_all(store, "a" * 16, stop=2)
    assert "1 began, none did" in _mistake("report", path, "--out", tmp_path / "out", capsys=capsys)
    store._db.execute("UPDATE study SET protocol = replace(protocol, '3.0', '4.0')")
    with pytest.raises(ValueError, match="was changed"):
        Store(path)
    assert not (tmp_path / "out").exists()
