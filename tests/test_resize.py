"""The one resize: equal to Pillow's and jax.image's, and a weighted mean of pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from cdm.images import resize

# (height, width) to (height, width): down, up, non-integer factors, one axis each way
SIZES = [((32, 32), (8, 8)), ((8, 8), (32, 32)), ((30, 21), (13, 8)), ((13, 10), (31, 27)), ((12, 9), (5, 20))]
EVERY_METHOD = pytest.mark.parametrize("method", resize.METHODS)
PILLOWS = {"bicubic": PIL.Image.Resampling.BICUBIC, "bilinear": PIL.Image.Resampling.BILINEAR,
           "area": PIL.Image.Resampling.BOX}
EVERY_SIZE = pytest.mark.parametrize("before, after", SIZES)


def image(size, seed=0, channels=3):
    return np.random.default_rng(seed).uniform(-1, 1, (*size, channels)).astype(np.float32)


@EVERY_METHOD
@EVERY_SIZE
def test_resize_equals_pillow(method, before, after):
    x = image(before)
    theirs = [PIL.Image.fromarray(x[..., c]).resize(after[::-1], PILLOWS[method]) for c in range(3)]
    np.testing.assert_allclose(resize.resize(x, after, method), np.stack(theirs, axis=-1), atol=1e-5)


@EVERY_METHOD
@pytest.mark.parametrize("before", range(1, 13))
def test_matrix_equals_pillow_at_every_small_size(method, before):
    identity = PIL.Image.fromarray(np.eye(before, dtype=np.float32))
    for after in range(1, 13):
        theirs = np.asarray(identity.resize((after, before), PILLOWS[method])).T
        few, many = sorted(np.array([before, after]) // np.gcd(before, after))
        ties = few % 2 == 0 and many % 2 == 1  # samples on an edge, whose side Pillow leaves to rounding
        if method != "area" or not ties:
            np.testing.assert_allclose(resize.matrix(before, after, method), theirs, atol=1e-6, err_msg=f"to {after}")


@pytest.mark.parametrize("before", range(1, 41))
def test_area_counts_every_pixel_once_when_it_shrinks(before):
    for after in range(1, before + 1):
        assert np.all((resize.matrix(before, after, "area") > 0).sum(axis=0) == 1), after


@EVERY_SIZE
def test_bicubic_equals_jax_image(before, after):
    x = jnp.asarray(image(before))
    theirs = jax.image.resize(x, (*after, 3), "bicubic", antialias=True, precision="highest")
    np.testing.assert_allclose(resize.resize(x, after), theirs, atol=1e-5)


@EVERY_METHOD
@EVERY_SIZE
def test_numpy_and_jax_agree(method, before, after):
    x = image(before)
    host, device = resize.resize(x, after, method), resize.resize(jnp.asarray(x), after, method)
    assert isinstance(host, np.ndarray) and isinstance(device, jax.Array)
    assert host.dtype == device.dtype == np.float32
    np.testing.assert_allclose(host, device, atol=1e-6)


@EVERY_METHOD
@pytest.mark.parametrize("before, after", [(32, 8), (8, 32), (31, 12), (5, 7), (3, 1), (1, 4)])
def test_rows_sum_to_one(method, before, after):
    np.testing.assert_allclose(resize.matrix(before, after, method).sum(axis=1), 1, rtol=1e-12)


@EVERY_METHOD
@EVERY_SIZE
def test_a_constant_image_stays_constant(method, before, after):
    x = np.full((*before, 1), 0.7, np.float32)
    np.testing.assert_allclose(resize.resize(x, after, method), 0.7, rtol=1e-6)


def test_area_composes():
    x = image((256, 256), channels=1)
    np.testing.assert_allclose(resize.resize(resize.resize(x, 64, "area"), 32, "area"), resize.resize(x, 32, "area"),
                               atol=1e-6)


def test_area_by_an_integer_factor_is_the_mean_of_blocks():
    x = image((12, 20))
    np.testing.assert_allclose(resize.resize(x, (3, 5), "area"), x.reshape(3, 4, 5, 4, 3).mean((1, 3)), atol=1e-6)


def test_a_batch_is_resized_image_by_image():
    x = np.stack([image((9, 12), seed) for seed in range(3)])
    np.testing.assert_allclose(resize.resize(x, (4, 7)), [resize.resize(one, (4, 7)) for one in x], atol=1e-6)


def test_the_same_size_changes_nothing():
    x = image((9, 12))
    np.testing.assert_array_equal(resize.resize(x, (9, 12)), x)


def test_uint8_survives_the_way_to_float_and_back():
    pixels = np.arange(256, dtype=np.uint8)
    for array in (pixels, jnp.asarray(pixels)):
        there = resize.to_float(array)
        assert there.min() == -1 and there.max() == 1
        np.testing.assert_array_equal(resize.to_uint8(there), pixels)


def test_to_uint8_rounds_to_nearest_and_clips():
    np.testing.assert_array_equal(resize.to_uint8(np.array([-1.5, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1.5])),
                                  [0, 0, 1, 255])


@pytest.mark.parametrize("call, message", [
    (lambda: resize.matrix(4, 2, "lanczos"), r"`method` \(='lanczos'\)"),
    (lambda: resize.matrix(4, 0), r"4 to 0"),
])
def test_errors_name_the_argument_and_its_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
