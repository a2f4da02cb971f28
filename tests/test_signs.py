"""Signs of pictures that are not clean: seen where they were put, and not elsewhere."""

import io

import numpy as np
import pytest
from PIL import Image

from cdm.images.signs import LUMA, blocks, noise, signs


def picture(seed=0, side=160):
    """[side, side, 3] uint8: smooth places and edges, no noise."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    image.paste((30, 60, 90), (20, 20, 61, 47))
    return np.asarray(image)


@pytest.mark.parametrize("sigma", [3.0, 8.0, 15.0])
def test_the_noise_that_was_added_is_measured(sigma):
    flat = 128 + sigma * np.random.default_rng(1).normal(size=(512, 512))
    assert 0.7 * sigma < noise(flat) < sigma  # of the quietest tenth
    assert noise(picture() @ LUMA) < 0.5


@pytest.mark.parametrize("quality", [20, 40])
def test_blocks_are_seen_whatever_the_file_says(quality):
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, "jpeg", quality=quality)
    pressed = np.asarray(Image.open(file))
    assert blocks(picture() @ LUMA) < 1.1 < blocks(pressed @ LUMA)
    assert signs(pressed) == ("the blocks of JPEG",)


def test_signs_of_any_kind_of_pixels():
    clean = picture()
    noisy = np.clip(clean + np.random.default_rng(2).normal(0, 15, clean.shape), 0, 255).astype(np.uint8)
    assert signs(clean) == () and len(signs(noisy)) == 1 and "noise" in signs(noisy)[0]
    assert signs(noisy.astype(np.uint16) * 257) == signs(noisy)
    assert "noise" in signs(noisy[..., :1])[0]
    assert signs(np.concatenate([clean, noisy[..., :1]], axis=-1)) == ()  # alpha is no picture
    assert signs(noisy[:40]) == ()
