"""Laws of the distances that reports and searches compare by."""

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


def test_a_reference_is_read_once(class_folder, tmp_path, convolution):
    from cdm.data.sources import open_source

    source = open_source(str(class_folder))
    first = scoring.Scorer(convolution, source, tmp_path).reference(16)
    again = scoring.Scorer(None, source, tmp_path)
    again.extractor = type("Name", (), {"name": convolution.name})
    np.testing.assert_array_equal(first[0], again.reference(16)[0])
    assert first[0].shape == (len(source), convolution.dim)


@pytest.mark.parametrize("n, match", [(9, "^`n` .*at most the 3 pictures of animals")])
def test_more_pictures_than_there_are_is_one_line(class_folder, n, match):
    from cdm.data.sources import open_source

    with pytest.raises(ValueError, match=match):
        scoring.Real(open_source(str(class_folder)), ("animals", "food", "symbols"), n)


def test_classes_go_by_name_and_foreign_ones_are_refused(class_folder):
    from cdm.data.sources import open_source

    source = open_source(str(class_folder))
    real = scoring.Real(source, ("Symbols", "animals", "food"), 3)  # another order than the source's
    assert {source.names[i].split("/")[0] for i in real.records[0]} == {"symbols"}
    assert real.pairs()[:3] == [(0, 0), (1, 0), (2, 0)] and len(real.pairs()) == 9
    with pytest.raises(ValueError, match="^`data` must have the classes of the cascade"):
        scoring.Real(source, ("animals", "food"), 3)
