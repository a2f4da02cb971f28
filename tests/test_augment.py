"""Conditioning augmentation: per example, variance preserving, and nothing at level 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdm.diffusion import schedules
from cdm.images import augment

SCHEDULE = schedules.Cosine()
BATCH = 6
# What a training step does to a batch of low-res images, given one key an example.
AUGMENTATIONS = {
    "noise": jax.jit(lambda x, level, keys: augment.noise(x, level, SCHEDULE, keys)[0]),
    "blur": jax.jit(lambda x, level, keys: augment.blur(x, keys, 0.5, (0.4, 0.6))),
}
every_augmentation = pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())


def lowres(batch=BATCH):
    return jax.random.uniform(jax.random.key(0), (batch, 5, 4, 3), minval=-1, maxval=1)


def keys(batch=BATCH, seed=1):
    return jax.random.split(jax.random.key(seed), batch)


def levels(batch=BATCH):
    return jnp.linspace(0, 1, batch)


@every_augmentation
def test_an_example_depends_on_its_own_key_alone(augmentation):
    together = augmentation(lowres(), levels(), keys())
    for i in range(BATCH):
        row = slice(i, i + 1)
        np.testing.assert_allclose(augmentation(lowres()[row], levels()[row], keys()[row]), together[row], atol=1e-6)


def test_the_noise_differs_from_example_to_example():
    noised = AUGMENTATIONS["noise"](jnp.zeros_like(lowres()), jnp.full(BATCH, 0.5), keys())
    flat = np.asarray(noised).reshape(BATCH, -1)
    assert np.abs(np.corrcoef(flat)[~np.eye(BATCH, dtype=bool)]).max() < 0.7


def test_the_level_is_per_example():
    x = jnp.zeros((4, 100, 100, 1))
    level = jnp.asarray([0.1, 0.4, 0.7, 1.0])
    noised, aug_logsnr = augment.noise(x, level, SCHEDULE, keys(4))
    np.testing.assert_allclose(aug_logsnr, SCHEDULE.logsnr(np.asarray(level, np.float64)), rtol=1e-3)
    sigma = np.sqrt(1 / (1 + np.exp(np.asarray(aug_logsnr))))
    np.testing.assert_allclose(np.std(noised, axis=(1, 2, 3)), sigma, rtol=0.03)


@pytest.mark.parametrize("add", [augment.noise, augment.hand_over])
def test_level_zero_adds_nothing_and_is_embedded_as_clean(add):
    clean, aug_logsnr = add(lowres(), jnp.zeros(BATCH), SCHEDULE, keys())
    np.testing.assert_array_equal(clean, lowres())
    np.testing.assert_allclose(aug_logsnr, SCHEDULE.logsnr_max, rtol=1e-6)


@pytest.mark.parametrize("schedule", [SCHEDULE, schedules.LinearBeta(), schedules.DiscreteCosine()],
                         ids=["cosine", "linear_beta", "discrete_cosine"])
def test_level_one_is_the_noisiest_level_and_works(schedule):
    noised, aug_logsnr = augment.noise(jnp.full((4, 100, 100, 1), 0.9), jnp.ones(4), schedule, keys(4))
    np.testing.assert_allclose(aug_logsnr, schedule.logsnr_min, rtol=1e-5)
    np.testing.assert_allclose([np.mean(noised), np.std(noised)], [0, 1], atol=0.05)


@pytest.mark.parametrize("level", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_noise_preserves_variance(level):
    x = jax.random.normal(jax.random.key(3), (4, 100, 100, 1))
    noised, _ = augment.noise(x, jnp.full(4, level), SCHEDULE, keys(4))
    assert np.var(noised) == pytest.approx(1, rel=0.04)


def test_the_hand_over_clips_before_it_noises():
    wild = 3 * lowres()
    np.testing.assert_array_equal(augment.hand_over(wild, levels(), SCHEDULE, keys())[0],
                                  augment.noise(jnp.clip(wild, -1, 1), levels(), SCHEDULE, keys())[0])


IMPULSES = np.zeros((300, 5, 5, 1), np.float32)
IMPULSES[:, 2, 2] = 1


@jax.jit
def blur_impulses(probability, sigma_range):
    return augment.blur(jnp.asarray(IMPULSES), keys(300), probability, sigma_range)


def test_blur_of_probability_zero_is_nothing():
    np.testing.assert_array_equal(augment.blur(lowres(), keys(), 0.0, (0.4, 0.6)), lowres())


def changed(before, after):
    return np.any(np.asarray(before != after), axis=(1, 2, 3))


def test_blur_of_probability_one_is_on_every_example():
    assert np.all(changed(lowres(), augment.blur(lowres(), keys(), 1.0, (0.4, 0.6))))


def test_the_blur_coin_is_per_example():
    assert np.mean(changed(IMPULSES, blur_impulses(0.3, (0.4, 0.6)))) == pytest.approx(0.3, abs=0.1)


def test_blur_is_a_three_by_three_gaussian_of_its_sigma():
    sigma = 0.5
    kernel = np.exp(-0.5 * np.array([1, 0, 1]) / sigma**2)
    kernel = np.pad(np.outer(kernel, kernel) / kernel.sum() ** 2, 1)
    np.testing.assert_allclose(blur_impulses(1.0, (sigma, sigma))[0, ..., 0], kernel, atol=1e-6)


def test_the_blur_sigma_is_drawn_per_example_over_its_range():
    blurred = np.asarray(blur_impulses(1.0, (0.4, 0.6)))
    sigma = 1 / np.sqrt(2 * np.log(blurred[:, 2, 2, 0] / blurred[:, 1, 2, 0]))  # from the ratio of centre to side
    assert np.all((sigma > 0.399) & (sigma < 0.601))
    np.testing.assert_allclose(np.histogram(sigma, 4, (0.4, 0.6))[0], 75, atol=35)


def test_blur_is_a_convex_combination_of_pixels():
    constant = jnp.full((BATCH, 5, 4, 3), 0.7)
    np.testing.assert_allclose(augment.blur(constant, keys(), 1.0, (0.4, 0.6)), constant, rtol=1e-6)
    blurred = augment.blur(lowres(), keys(), 1.0, (0.4, 0.6))
    assert np.max(blurred) <= np.max(lowres()) and np.min(blurred) >= np.min(lowres())
