"""Laws of the distances that reports and searches compare by."""

import shutil

import numpy as np
import pytest

from cdm.evals import distribution, scoring


def kernel(x, y):
    return (np.dot(x, y) / len(x) + 1) ** 3


def test_the_distance_is_the_mean_over_pairs_of_different_pictures():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(20, 5)), random.normal(0.3, 1, size=(24, 5))

    def inside(z):
        return np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])

    def distance(z):
        return inside(z) + inside(y) - 2 * np.mean([kernel(a, b) for a in z for b in y])

    found = scoring.kernel_distance(x, y)
    assert found.value == pytest.approx(distance(x), rel=1e-12)
    assert distribution.within(y) == pytest.approx(inside(y), rel=1e-12)
    for block in range(scoring.BLOCKS):
        assert found.without[block] == pytest.approx(distance(x[np.arange(20) % scoring.BLOCKS != block]), rel=1e-12)


@pytest.mark.parametrize("shift, of_error", [(0.0, 2**0.5), (0.5, 1.0)])
def test_equal_distributions_are_at_distance_zero_and_the_error_tells_how_nearly(shift, of_error):
    """Where distributions are equal the first order of eq. 1 vanishes, of whose second the jackknife's variance is
    twice too large: errors are on the safe side there."""
    random = np.random.default_rng(0)
    y = random.normal(size=(1000, 8))
    term = distribution.within(y)
    found = [scoring.kernel_distance(random.normal(shift, 1, size=(100, 8)), y, term) for _ in range(100)]
    values = np.array([f.value for f in found])
    assert shift or abs(values.mean()) < 4 * values.std() / len(values) ** 0.5
    assert np.mean([f.error for f in found]) == pytest.approx(of_error * values.std(), rel=0.25)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    blocks = np.random.default_rng(0).normal(size=scoring.BLOCKS)
    without = (blocks.sum() - blocks) / (len(blocks) - 1)
    assert scoring.jackknife(without) == pytest.approx(blocks.std(ddof=1) / len(blocks) ** 0.5)


def test_a_distance_does_not_depend_on_the_tiles_it_is_summed_in(monkeypatch):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(45, 5)), random.normal(size=(64, 5))
    whole = scoring.kernel_distance(x, y), distribution.mmd2(x, y)
    monkeypatch.setattr(distribution, "CHUNK", 7)
    tiled = scoring.kernel_distance(x, y), distribution.mmd2(x, y)
    assert tiled[1] == pytest.approx(whole[1], rel=1e-12) == pytest.approx(whole[0].value, rel=1e-12)
    np.testing.assert_allclose(tiled[0].without, whole[0].without, rtol=1e-12)


def test_a_reference_is_read_once_and_named_by_its_pixels(class_folder, tmp_path, extractor):
    shutil.copytree(class_folder, tmp_path / "real")
    first, again = (scoring.Scorer(extractor, tmp_path / "real", [16, 8], tmp_path / "features") for _ in range(2))
    assert first.protocol == again.protocol and extractor.images == 2 * first.protocol["reference"]["n"]
    shutil.copy(tmp_path / "real" / "food" / "0.png", tmp_path / "real" / "food" / "1.png")
    other = scoring.Scorer(extractor, tmp_path / "real", [16, 8], tmp_path / "features")
    assert other.protocol["reference"]["sha256"].keys() == {"16", "8"}
    assert other.protocol["reference"]["sha256"] != first.protocol["reference"]["sha256"]
    with pytest.raises(ValueError, match="^`reference`: animals/0.png must have sides of at least 32 pixels, not 20x16"):
        scoring.Scorer(extractor, tmp_path / "real", [32], tmp_path / "features")


def test_more_pictures_than_there_are_is_one_line(class_folder):
    with pytest.raises(ValueError, match="^`n` .*at most the 3 pictures of animals"):
        scoring.Real(class_folder, ("animals", "food", "symbols"), 9)


def test_classes_go_by_name_and_foreign_ones_are_refused(class_folder):
    real = scoring.Real(class_folder, ("Symbols", "animals", "food"), 3)  # another order than the source's
    assert real.pairs[:3] == [(0, 0), (1, 0), (2, 0)] and len(real.pairs) == 9
    assert [name.split("/")[0] for name in real.names[:3]] == ["symbols", "animals", "food"]
    with pytest.raises(ValueError, match="^`data` must have the classes of the cascade"):
        scoring.Real(class_folder, ("animals", "food"), 3)
