"""What a stage is trained for: norms, weights, the levels of discrete schedules, and the hybrid loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_stage import CLASSES, batch, shown

from cdm.config import validate
from cdm.diffusion import process, schedules, vlb, weights
from cdm.stage import Stage


def constant(stage, answer):
    """The stage with a network that answers with a constant in every channel (a list: one a channel)."""
    return stage.network._replace(apply=lambda params, x, *rest: jnp.broadcast_to(
        jnp.asarray(answer, jnp.float32), (*x.shape[:3], np.size(answer))))


@pytest.fixture
def discrete(tiny_base):
    """A config that a test may change: with SR3's schedule, of few steps."""
    tiny_base.diffusion.schedule = {"name": "linear_beta", "timesteps": 20, "beta_start": 1e-4, "beta_end": 0.4}
    return tiny_base


@pytest.mark.parametrize("norm", [1, 2])
def test_the_norm_is_that_of_the_error(tiny_base, norm):
    """Of black pictures and the answer 0 for x0 = -1, |error|^norm is 1; of the answer 1, 2^norm."""
    tiny_base.diffusion.target, tiny_base.diffusion.norm = "x0", norm
    stage, (_, label, index) = Stage(tiny_base, CLASSES), batch(4, 8)
    for answer, wanted in ((0.0, 1), (1.0, 2**norm)):
        stage.network = constant(stage, [answer] * 3)
        assert stage.loss({}, np.zeros((4, 8, 8, 3), np.uint8), label, index, 0)[0] == pytest.approx(wanted)


@pytest.mark.parametrize("kind", weights.KINDS)
def test_the_loss_is_the_mean_of_weighted_examples_and_the_bins_are_not_weighted(tiny_base, kind):
    tiny_base.diffusion.weight, tiny_base.diffusion.schedule = kind, {"name": "cosine", "logsnr_min": -6.0,
                                                                      "logsnr_max": 6.0}
    stage, (image, label, index) = Stage(tiny_base, CLASSES), batch(8, 8)
    stage.network = constant(stage, [0.0] * 3)
    loss, sums = jax.jit(lambda: stage.loss({}, image, label, index, 0))()
    each = [jax.jit(lambda i=i: stage.loss({}, image[i:i + 1], label[i:i + 1], index[i:i + 1], 0))() for i in range(8)]
    t = (index * np.uint32(2654435769)).astype(np.float32) * 2.0**-32
    factor = weights.weight(kind, "v", stage.schedule.logsnr(jnp.asarray(t)),
                            schedules.rate(stage.schedule, jnp.asarray(t)))
    simple = np.array([one[1]["bin_sums"].sum() for one in each])
    np.testing.assert_allclose([one[0] for one in each], simple * factor, rtol=1e-4)
    np.testing.assert_allclose(loss, np.mean(simple * factor), rtol=1e-4)
    np.testing.assert_allclose(sums["bin_sums"].sum(), simple.sum(), rtol=1e-5)


def test_levels_of_the_table_are_its_own_and_all_are_visited(discrete):
    discrete.diffusion.levels = "table"
    table = schedules.make(**discrete.diffusion.schedule).table.astype(np.float32)
    logsnr = np.asarray(shown(discrete, *batch(100, 8))["logsnr"])
    nearest = np.abs(logsnr[:, None] - table).argmin(1)
    np.testing.assert_allclose(logsnr, table[nearest], atol=1e-5)
    assert np.bincount(nearest, minlength=20).min() >= 4  # of 5


def test_sr3s_levels_fill_each_interval_uniformly_in_alpha2(discrete):
    discrete.diffusion.levels = "interval"
    table = schedules.make(**discrete.diffusion.schedule).table
    logsnr = np.asarray(shown(discrete, *batch(2000, 8))["logsnr"], np.float64)
    edges, alpha2 = np.append(1, 1 / (1 + np.exp(-table))), 1 / (1 + np.exp(-logsnr))
    entry = np.searchsorted(-edges, -alpha2, side="left") - 1
    share = (edges[entry] - alpha2) / (edges[entry] - edges[entry + 1])
    assert np.bincount(entry, minlength=20).min() > 90 and len(entry) == 2000  # of 100
    assert np.all((share >= -1e-4) & (share <= 1 + 1e-4)) and abs(share.mean() - 0.5) < 0.03
    assert abs(share.std() - 12**-0.5) < 0.02


def test_sr3s_levels_keep_their_digits_where_next_to_nothing_is_left_of_the_image(tiny_base):
    """Of the cosine schedule's last entries alpha^2 is 1e-10, and 1 - alpha^2 is 1 in float32."""
    tiny_base.diffusion.schedule = {"name": "discrete_cosine", "timesteps": 4000}
    tiny_base.diffusion.levels = "interval"
    stage = Stage(tiny_base, CLASSES)
    t, keys = jnp.full(1000, 1 - 2.0**-20), jax.random.split(jax.random.key(0), 1000)
    logsnr = np.asarray(stage.level(t, keys)[0], np.float64)
    alpha2, (low, high) = 1 / (1 + np.exp(-logsnr)), 1 / (1 + np.exp(-stage.schedule.table[[-1, -2]]))
    share = (alpha2 - low) / (high - low)
    assert np.all((share >= -1e-4) & (share <= 1 + 1e-4)) and len(np.unique(share)) > 900
    assert abs(share.mean() - 0.5) < 0.05 and abs(share.std() - 12**-0.5) < 0.03


@pytest.fixture
def learned(discrete):
    discrete.diffusion.levels, discrete.diffusion.variance = "table", "learned"
    return discrete


def test_the_hybrid_loss_is_the_simple_one_and_a_thousandth_of_the_bound(learned):
    stage, (image, label, index) = Stage(learned, CLASSES), batch(8, 8)
    stage.network = constant(stage, [0.1, 0.0, -0.1, 0.2, 0.2, 0.2])
    loss, sums = jax.jit(lambda: stage.loss({}, image, label, index, 0))()
    assert sums["bits"] > 1  # an answer that knows nothing costs bits
    x0 = image / np.float32(127.5) - 1
    bound = sums["bits"] - np.mean(vlb.prior(stage.schedule.table, jnp.asarray(x0)))
    np.testing.assert_allclose(loss, sums["bin_sums"].sum() / 8 + vlb.HYBRID * bound, rtol=1e-5)


def test_the_bound_teaches_the_variance_and_not_the_mean(learned):
    stage, (image, label, index) = Stage(learned, CLASSES), batch(8, 8)

    def slope(hybrid):
        def objective(answer):
            stage.network = stage.network._replace(
                apply=lambda params, x, *rest: jnp.broadcast_to(answer, (*x.shape[:3], 6)))
            loss, sums = stage.loss({}, image, label, index, 0)
            return loss if hybrid else sums["bin_sums"].sum() / 8

        return jax.jit(jax.grad(objective))(jnp.asarray([0.1, 0.0, -0.1, 0.2, 0.2, 0.2]))

    hybrid, simple = slope(True), slope(False)
    np.testing.assert_allclose(hybrid[:3], simple[:3], rtol=1e-5)
    assert np.all(np.abs(hybrid[3:]) > 1e-6) and not simple[3:].any()


def test_a_stage_with_a_learned_variance_says_so(learned, lively):
    stage = Stage(learned, CLASSES)
    params = lively(jax.eval_shape(stage.init))
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    prediction = jax.jit(stage.predict)(params, x, jnp.zeros(2), jnp.zeros(2, jnp.int32))
    assert prediction.fraction.shape == prediction.x0.shape == x.shape
    fresh = jax.jit(stage.predict)(stage.init(), x, jnp.zeros(2), jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(fresh.fraction, 0.5)  # between the two, before it has learned


@pytest.mark.parametrize("changes", [
    {"levels": "table"}, {"levels": "sometimes"}, {"norm": 3}, {"weight": "p2"}, {"variance": "learned"},
    {"variance": "huge"}])
def test_what_does_not_go_together_is_one_line(tiny_base, changes):
    tiny_base.diffusion.update(changes)
    with pytest.raises(ValueError, match=f"^`diffusion.{next(iter(changes))}` "):
        validate(tiny_base)


def test_v_of_standardised_pictures_is_edms_preconditioning(tiny_base):
    """D(x; s) = c_skip x + c_out F(c_in x) of Karras et al. 2022, eq. 7 and table 1, with F = -v."""
    d, logsnr = 0.5, jnp.linspace(-8, 8, 9)
    tiny_base.diffusion.data_std = d
    stage, x = Stage(tiny_base, CLASSES), jax.random.normal(jax.random.key(0), (9, 2, 2, 3))
    answer = jax.random.normal(jax.random.key(1), x.shape)
    stage.network = stage.network._replace(apply=lambda params, y, *rest: answer)
    alpha, sigma = process.alpha_sigma(logsnr, x)
    s = sigma / alpha  # the level of x / alpha
    c_skip, c_out = d**2 / (s**2 + d**2), s * d / jnp.sqrt(s**2 + d**2)
    ours = stage.predict({}, x, logsnr, None).x0
    np.testing.assert_allclose(ours, c_skip * x / alpha + c_out * -answer, rtol=1e-4, atol=1e-5)
