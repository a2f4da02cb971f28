"""Degradations: JPEG as a library has it, matrices as the one resize has them, nothing where a range is nothing."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cdm.data.sources import FluentEmoji
from cdm.images import degrade as degrading
from cdm.images.resize import matrix, resize, to_float, to_uint8
from cdm.stage import Stage

NOTHING = {"blur": (0.0, 0.0), "scale": (1.0, 1.0), "noise": (0.0, 0.0), "quality": (100.0, 100.0)}
SIDE, LOW = 32, 12


@pytest.fixture(scope="module")
def pictures():
    """[4, 48, 40, 3] uint8 with edges, flat places and colours."""
    source = FluentEmoji("heldout")
    return np.stack([to_uint8(resize(to_float(source.read(i)), (48, 40))) for i in (0, 90, 180, 270)])


def psnr(a, b):
    return 10 * np.log10(4 / np.mean((np.asarray(a) - np.asarray(b)) ** 2))


@pytest.fixture(scope="module")
def degraded():
    """degraded(images [B, SIDE, SIDE, 3], keys, **ranges): by the photo chain; one program for all tests."""
    programs = {}

    def run(images, keys, **changes):
        ranges = {**NOTHING, **changes}
        key = tuple(ranges.items())
        if key not in programs:
            programs[key] = jax.jit(jax.vmap(lambda image, key: degrading.photo(image, LOW, key, **ranges)))
        return np.asarray(programs[key](images, keys))

    return run


@pytest.fixture
def images(pictures):
    return np.stack([np.asarray(resize(to_float(picture), SIDE)) for picture in pictures])


def keys(seed=0, count=4):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("quality", [10, 30, 60, 75, 95])
def test_jpeg_is_what_a_library_makes_of_it(pictures, quality):
    ours = jax.jit(degrading.jpeg)
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format="jpeg", quality=quality)
        theirs = to_float(np.asarray(Image.open(file)))
        made = ours(to_float(picture), jnp.float32(quality))
        # A coefficient on the edge of two steps may fall to the other: far less than what the file loses.
        assert psnr(made, theirs) > psnr(to_float(picture), theirs) + 6
        assert psnr(made, theirs) > 36


def test_jpeg_of_full_quality_is_the_picture_but_for_its_colours_at_half_the_size(pictures):
    grey = np.repeat(pictures[:1, ..., :1], 3, axis=-1)
    np.testing.assert_allclose(degrading.jpeg(to_float(grey[0]), 100.0), to_float(grey[0]), atol=2.1 / 127.5)


@pytest.mark.parametrize("sizes", [(32, 12), (12, 32), (32, 31), (7, 7)])
def test_a_matrix_between_drawn_sizes_is_the_one_resizes(sizes):
    found = jax.jit(lambda a, b: degrading._resize_matrix(a, b, 40, 36))(*map(jnp.float32, sizes))
    wanted = np.zeros((36, 40))
    wanted[: sizes[1], : sizes[0]] = matrix(*sizes, method="bilinear")
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_the_blur_keeps_the_mean_and_has_its_sigma(sigma):
    row = np.asarray(degrading._blur_matrix(41, sigma))[20]
    d = np.arange(41) - 20
    assert row.sum() == pytest.approx(1, abs=1e-6) and row @ d == pytest.approx(0, abs=1e-5)
    assert row @ d**2 == pytest.approx(sigma**2, rel=1e-3)
    np.testing.assert_allclose(degrading._blur_matrix(9, 0.0), np.eye(9), atol=1e-6)


def test_ranges_of_nothing_leave_the_resize_alone(images, degraded):
    clean = np.stack([np.asarray(degrading.jpeg(resize(image, LOW, "bilinear"), 100.0)) for image in images])
    off = np.abs(degraded(images, keys()) - clean) * 127.5  # a value on the edge of two rounds either way
    assert off.mean() < 0.05 and off.max() < 4


@pytest.mark.parametrize("change", [{"blur": (0.5, 1.5)}, {"noise": (5.0, 20.0)}, {"quality": (10.0, 40.0)},
                                    {"scale": (0.4, 0.6)}])
def test_every_range_takes_something_away_and_every_picture_draws_for_itself(images, degraded, change):
    clean, found = degraded(images, keys()), degraded(images, keys(), **change)
    assert all(np.abs(a - b).max() > 3 / 127.5 for a, b in zip(clean, found))
    same = np.broadcast_to(images[:1], images.shape)
    drawn = degraded(same, keys(), **change)
    assert len({one.tobytes() for one in drawn}) >= 3  # of sizes there are few
    np.testing.assert_array_equal(degraded(images[::-1], keys()[::-1], **change)[::-1], found)


def test_the_noise_has_its_deviation_and_is_grey_for_half_of_the_pictures(degraded):
    flat, many = np.zeros((64, SIDE, SIDE, 3), np.float32), jax.random.split(jax.random.key(3), 64)
    found = degraded(flat, many, noise=(12.0, 12.0)) * 127.5
    grey = np.ptp(found, axis=-1).max((1, 2)) < 2
    assert 16 < grey.sum() < 48
    assert found[grey].std() == pytest.approx(12, rel=0.1)


def test_a_stage_learns_from_degraded_pictures(tiny_sr):
    tiny_sr.degrade.kind = "photo"
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    stage = Stage(tiny_sr, ("a", "b"))
    clean, photo = stage.pair(image)[1], stage.pair(image, degrade_keys=keys(count=2))[1]
    assert photo.shape == clean.shape and np.abs(photo - clean).max() > 0.05
    tiny_sr.degrade.kind = "bicubic"
    np.testing.assert_array_equal(Stage(tiny_sr, ("a", "b")).pair(image, degrade_keys=keys(count=2))[1], clean)


@pytest.mark.parametrize("name,value", [("kind", "lanczos"), ("blur", (-1.0, 1.0)), ("scale", (1.0, 0.5)),
                                        ("noise", (0.0, 300.0)), ("quality", (0.0, 90.0)), ("quality", (50.0,))])
def test_what_a_degradation_may_be(tiny_sr, name, value):
    tiny_sr.degrade[name] = value
    with pytest.raises(ValueError, match=rf"`degrade.{name}` \(="):
        Stage(tiny_sr, ())
