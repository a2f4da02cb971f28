"""Laws of the metrics of distributions: closed forms, expectations, invariances, and independent implementations."""

import pathlib

import numpy as np
import pytest

from cdm.evals import distribution
from cdm.evals.distribution import (Moments, frechet, frechet_floor, inception_score, kid, mmd2, nearest,
                                    precision_recall, principal)


def gaussian(n, dims, seed=0, spread=3.0):
    """Correlated float32 features of widths from 1 down to 10^-spread."""
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).normal(size=(dims, dims)))[0]
    return ((random.normal(size=(n, dims)) * np.logspace(0, -spread, dims)) @ basis + 1).astype(np.float32)


def moments(features):
    m = Moments(features)
    return m.mean, m.cov


def test_moments_do_not_depend_on_the_parts_they_come_in(monkeypatch):
    x = gaussian(500, 12) + 1000  # an offset in which a sum of squares would drown
    whole = Moments(x)
    np.testing.assert_allclose(whole.mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.cov, np.cov(x.astype(np.float64).T), rtol=1e-9, atol=1e-12)
    for chunk in (1, 7, 499):
        monkeypatch.setattr(distribution, "CHUNK", chunk)
        np.testing.assert_allclose(Moments(x).cov, whole.cov, rtol=1e-9, atol=1e-12)


def test_frechet_of_diagonal_gaussians_is_its_closed_form():
    """sum (m1 - m2)^2 + (s1 - s2)^2, in any basis, over twelve orders of magnitude of variance."""
    random = np.random.default_rng(0)
    s1, s2 = np.logspace(0, -6, 40), np.logspace(0, -6, 40) * random.uniform(0.5, 2, 40)
    m1, m2 = random.normal(size=(2, 40))
    basis = np.linalg.qr(random.normal(size=(40, 40)))[0]
    found = frechet(m1, basis * s1**2 @ basis.T, m2, basis * s2**2 @ basis.T)
    assert found == pytest.approx(np.sum((m1 - m2) ** 2) + np.sum((s1 - s2) ** 2), rel=1e-10)


def test_frechet_is_symmetric_and_zero_of_a_set_and_itself():
    (m1, c1), (m2, c2) = moments(gaussian(300, 20)), moments(2 * gaussian(300, 20, seed=1))
    assert frechet(m1, c1, m2, c2) == pytest.approx(frechet(m2, c2, m1, c1), rel=1e-12)
    assert abs(frechet(m1, c1, m1, c1)) < 1e-12


def test_frechet_of_singular_covariances_is_that_of_the_space_they_span():
    (m1, c1), (m2, c2) = moments(gaussian(300, 6)), moments(1.5 * gaussian(300, 6, seed=1))
    basis = np.linalg.qr(np.random.default_rng(2).normal(size=(50, 6)))[0]
    wide = frechet(basis @ m1, basis @ c1 @ basis.T, basis @ m2, basis @ c2 @ basis.T)
    assert wide == pytest.approx(frechet(m1, c1, m2, c2), rel=1e-9)


@pytest.mark.parametrize("spread", [0.0, 2.0])
@pytest.mark.parametrize("n, m", [(400, 400), (400, 1600)])
def test_frechet_of_two_draws_of_one_gaussian_is_near_its_expectation(n, m, spread):
    dims = 16
    found = [frechet(*moments(gaussian(n, dims, 2 * s, spread)), *moments(gaussian(m, dims, 2 * s + 1, spread)))
             for s in range(40)]
    basis = np.diag(np.logspace(0, -spread, dims) ** 2)
    assert np.mean(found) == pytest.approx(frechet_floor(basis, n, m), rel=0.08)


def test_the_expectation_for_white_features():
    """2 D / N + D (D + 1) / (2 (N - 1)) for N(0, I) and N draws each."""
    assert frechet_floor(np.eye(10), 100, 100) == pytest.approx(20 / 100 + 110 / (2 * 99))


def test_principal_directions_keep_what_varies_most():
    x = gaussian(400, 12)
    mean, cov = moments(x)
    basis = principal(cov, 3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(basis.T @ cov @ basis, Moments(x @ basis).cov, atol=1e-6)
    assert np.trace(basis.T @ cov @ basis) == pytest.approx(np.linalg.eigvalsh(cov)[-3:].sum())
    with pytest.raises(ValueError, match="`pca` .*=13.*12"):
        principal(cov, 13)


def test_kid_is_unbiased():
    values = [mmd2(gaussian(30, 8, 2 * s), gaussian(40, 8, 2 * s + 1)) for s in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200) and np.mean(np.array(values) < 0) > 0.2


def test_kid_is_the_mean_over_pairs():
    x, y = gaussian(5, 3).astype(np.float64), gaussian(4, 3, 1).astype(np.float64)

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    within = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    assert mmd2(x, y) == pytest.approx(sum(within) - 2 * np.mean([k(a, b) for a in x for b in y]), rel=1e-12)


def test_kid_over_subsets_is_near_that_of_the_whole_and_repeatable():
    x, y = gaussian(300, 8), gaussian(300, 8, 1) + np.float32(0.5)
    mean, std = kid(x, y, subsets=50, size=100)
    assert mean == pytest.approx(mmd2(x, y), abs=3 * std / np.sqrt(50)) and kid(x, y, 50, 100) == (mean, std)
    assert kid(x, y, 50, 100, seed=1) != (mean, std)
    assert kid(x, y, 2, 300) == (pytest.approx(mmd2(x, y)), pytest.approx(0, abs=1e-12))
    with pytest.raises(ValueError, match="`size` .*=301.*300 and 300"):
        kid(x, y, size=301)


def test_inception_score_of_certain_and_of_no_knowledge():
    certain = np.tile(100 * np.eye(10), (20, 1))
    assert inception_score(certain, splits=1)[0] == pytest.approx(10, rel=1e-9)
    assert inception_score(np.zeros([200, 10]))[0] == pytest.approx(1)
    # A folder sorted by class: parts in its order would have one class each.
    assert inception_score(certain[np.argsort(np.argmax(certain, 1))], splits=4)[0] > 8


def test_nearest_neighbours_are_those_of_a_full_sort(monkeypatch):
    monkeypatch.setattr(distribution, "CHUNK", 16)
    x, y = gaussian(50, 5), gaussian(70, 5, 1)
    full = np.linalg.norm(x[:, None].astype(np.float64) - y, axis=2)
    distances, indices = nearest(x, y, 4)
    np.testing.assert_allclose(distances, np.sort(full, 1)[:, :4], rtol=1e-6)
    np.testing.assert_array_equal(indices, np.argsort(full, 1)[:, :4])
    own = np.linalg.norm(y[:, None].astype(np.float64) - y, axis=2)
    np.testing.assert_allclose(nearest(y, y, 2, others=True)[0], np.sort(own, 1)[:, 1:3], rtol=1e-6)
    with pytest.raises(ValueError, match="`k` .*=70.*69"):
        nearest(y, y, 70, others=True)


def test_precision_and_recall_know_a_lost_mode_from_a_strange_one():
    a, b = gaussian(300, 4), gaussian(300, 4, 1) + np.float32(50)
    both = np.concatenate([gaussian(300, 4, 2), b[::-1] + np.float32(0.001)])
    lost, strange = precision_recall(a, both), precision_recall(both, a)
    assert lost["precision"] > 0.8 and 0.3 < lost["recall"] < 0.6 and 0.3 < lost["coverage"] < 0.6
    assert 0.3 < strange["precision"] < 0.6 and strange["recall"] > 0.8


def test_density_and_coverage_of_equal_distributions():
    """Density 1; coverage 1 - prod (M - i) / (M + N - i), i = 1 … k, of M real and N sampled features."""
    found = [precision_recall(gaussian(200, 3, 2 * s), gaussian(200, 3, 2 * s + 1), k=5) for s in range(10)]
    assert np.mean([f["density"] for f in found]) == pytest.approx(1, abs=0.05)
    assert np.mean([f["coverage"] for f in found]) == pytest.approx(1 - 0.5**5, abs=0.02)


@pytest.fixture(scope="module")
def golden():
    """Features, and what torch-fidelity, pytorch-fid and prdc make of them: see golden/make_distribution.py."""
    return dict(np.load(pathlib.Path(__file__).with_name("golden") / "distribution.npz"))


def test_frechet_equals_two_other_implementations(golden):
    found = frechet(*moments(golden["x"]), *moments(golden["y"]))
    assert found == pytest.approx(golden["fd"], rel=1e-6) and found == pytest.approx(golden["fd_pytorch_fid"], rel=1e-6)


def test_kid_equals_another_implementation(golden):
    assert mmd2(golden["x"], golden["y"]) == pytest.approx(golden["kid"], rel=1e-9)


def test_inception_score_equals_another_implementation(golden):
    logits = np.empty_like(golden["logits"])
    logits[np.random.default_rng(0).permutation(60)] = golden["logits"]  # ours shuffles them into their order
    mean, std = inception_score(logits, splits=6)
    assert mean == pytest.approx(golden["is_mean"], rel=1e-6) and std == pytest.approx(golden["is_std"], rel=1e-5)


def test_precision_and_recall_equal_other_implementations(golden):
    found = precision_recall(golden["x"], golden["y"])
    for name, value in found.items():
        assert value == pytest.approx(golden[name], abs=1e-6), name
    assert found["precision"] == pytest.approx(golden["precision_prdc"])
    assert found["recall"] == pytest.approx(golden["recall_prdc"])
