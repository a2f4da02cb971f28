"""Squares of pictures: the middle, a fair place along the long side, or what guided-diffusion makes of it."""

import numpy as np
import pytest
from PIL import Image

from cdm.data.squares import square

RANDOM = np.random.default_rng(0)


def picture(height, width):
    small = RANDOM.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("shape", [(16, 20), (20, 16), (16, 16)])
def test_the_centre_is_the_middle_of_a_picture(shape):
    image = np.zeros((*shape, 3), np.uint8)
    top, left = (shape[0] - 16) // 2, (shape[1] - 16) // 2
    image[top : top + 16, left : left + 16] = 200
    assert np.all(square(image, 16) == 200) and np.all(square(image, 8) == 200)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (4, 4)])
def test_a_random_square_lies_anywhere_along_the_long_side_alike(shape):
    image = np.arange(36)[: shape[0] * shape[1]].reshape(shape)[..., None].repeat(3, -1).astype(np.uint8)
    corners = [int(square(image, 4, "random", draw)[0, 0, 0]) for draw in (np.arange(600) + 0.5) / 600]
    step = shape[1] if shape[0] > shape[1] else 1
    places = max(shape) - 4 + 1
    assert np.unique(corners, return_counts=True)[0].tolist() == [step * i for i in range(places)]
    assert set(np.unique(corners, return_counts=True)[1]) == {600 // places}


def center_crop_arr(pil_image, image_size):
    """guided_diffusion/image_datasets.py, as published (MIT)."""
    while min(*pil_image.size) >= 2 * image_size:
        pil_image = pil_image.resize(tuple(x // 2 for x in pil_image.size), resample=Image.BOX)
    scale = image_size / min(*pil_image.size)
    pil_image = pil_image.resize(tuple(round(x * scale) for x in pil_image.size), resample=Image.BICUBIC)
    arr = np.array(pil_image)
    crop_y = (arr.shape[0] - image_size) // 2
    crop_x = (arr.shape[1] - image_size) // 2
    return arr[crop_y : crop_y + image_size, crop_x : crop_x + image_size]


@pytest.mark.parametrize("shape", [(67, 90), (131, 64), (16, 16), (9, 40), (1, 1), (100, 33)])
def test_adm_is_that_of_guided_diffusion(shape):
    image = picture(*shape)
    np.testing.assert_array_equal(square(image, 16, "adm"), center_crop_arr(Image.fromarray(image), 16))


@pytest.mark.parametrize("how", ["center", "random", "adm"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (5, 3), (64, 48)])
def test_any_picture_becomes_a_square_in_its_own_range(how, shape):
    image = np.full((*shape, 3), 77, np.uint8)
    out = square(image, 8, how, 0.999)
    assert out.shape == (8, 8, 3) and out.dtype == np.uint8 and np.all(out == 77)
