"""Laws of protocol cards: they come back as they were written, and only those of one protocol are compared."""

import copy

import numpy as np
import pytest

from cdm.evals import card

A = {"kind": "distribution",
     "protocol": {"features": "lite0", "n": 100, "reference": {"n": 50, "sha256": "ab"}, "pca": None},
     "results": {"fd_lite0": card.summary([3.0, 4.0, 5.0]), "only": card.summary([1.0]), "chance": 0.5}}


def changed(path, value):
    b = copy.deepcopy(A)
    *way, last = path.split(".")
    place = b
    for name in way:
        place = place[name]
    place[last] = value
    return b


def test_a_card_is_read_as_it_was_written(tmp_path):
    card.write(tmp_path / "a.json", A)
    back = card.read(tmp_path / "a.json")
    assert {name: back[name] for name in A} == A and {"cdm", "jax", "numpy"} <= back["about"]["versions"].keys()


def test_the_interval_holds_the_mean_in_19_cases_of_20():
    random, held = np.random.default_rng(0), []
    for _ in range(2000):
        low, high = card.summary(random.normal(7, 2, 4))["interval"]
        held.append(low < 7 < high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.015) and "interval" not in card.summary([1.0])


def test_the_difference_of_two_cards_has_an_interval_that_holds_too():
    random, held = np.random.default_rng(0), []
    for _ in range(1000):
        pair = [{**A, "results": {"x": card.summary(random.normal(m, s, n))}} for m, s, n in ((5, 1, 6), (7, 3, 4))]
        found = card.compare(*pair)["x"]
        low, high = found["interval"]
        held.append(low < 2 < high)
        assert found["difference"] == pytest.approx((low + high) / 2)
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)


def test_the_same_pictures_are_compared_one_by_one():
    random = np.random.default_rng(0)
    pictures, names = random.normal(0, 5, 20), [str(i) for i in range(20)]
    made = [{**A, "results": {"x": card.summary(pictures + random.normal(shift, 0.1, 20))}, "about": {"names": names}}
            for shift in (0, 1)]
    low, high = card.compare(*made)["x"]["interval"]
    assert 0.8 < low < 1 < high < 1.2
    other = {**made[1], "about": {"names": [f"other {name}" for name in names]}}
    low, high = card.compare(made[0], other)["x"]["interval"]
    assert low < -1 and high > 3


def test_the_metrics_that_both_have_are_compared():
    found = card.compare(A, {**A, "results": {"fd_lite0": card.summary([3.5, 4.5, 7.0]), "chance": 0.25}})
    assert found["fd_lite0"]["difference"] == pytest.approx(1) and found["chance"]["difference"] == -0.25
    assert found.keys() == {"fd_lite0", "chance"} and "interval" not in found["chance"]


@pytest.mark.parametrize("path, value", [("kind", "cas"), ("protocol.features", "rn50"), ("protocol.n", 99),
                                         ("protocol.reference.sha256", "cd"), ("protocol.pca", 4)])
def test_cards_of_other_protocols_are_refused_by_the_name_of_the_field(path, value):
    name = path.removeprefix("protocol.")
    for pair in ((A, changed(path, value)), (changed(path, value), A)):
        with pytest.raises(ValueError, match=f"`{name}` must be equal.*{value}"):
            card.compare(*pair)
    with pytest.raises(ValueError, match="`new` must be equal.*not there and 1"):
        card.compare(A, changed("protocol.new", 1))


@pytest.mark.parametrize("text", [None, "{", "[]", '{"schema_version": 1}', '{"schema_version": 9}'])
def test_what_is_no_card_is_one_line(text, tmp_path):
    if text:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="`card` .*a.json.*must be") as caught:
        card.read(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
