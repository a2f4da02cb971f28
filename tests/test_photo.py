"""Laws of a picture through a stage: it comes back as its kind, grey stays grey, and nothing hidden bleeds."""

import numpy as np
import pytest
from PIL import Image
from test_pictures import SRGB, smooth

import cdm
from cdm.photo import bleed, enlarge_pixels


@pytest.fixture(scope="module")
def stage(sr_stage):
    """8 to 16 px, trained with and without classes."""
    return sr_stage


# ------------------------------------------------------------------------------------------------------------ arrays


@pytest.mark.parametrize("shape, dtype", (((5, 7), np.uint8), ((5, 7, 4), np.uint16), ((5, 7, 3), np.float32),
                                          ((5, 7, 4), np.float64), ((1, 1), np.uint16), ((1, 40, 3), np.uint8)))
def test_an_array_comes_back_as_its_kind(shape, dtype, stage):
    image = np.random.default_rng(0).random(shape)
    image = image.astype(dtype) if dtype(1.5) == 1.5 else np.rint(image * np.iinfo(dtype).max).astype(dtype)
    large = cdm.upscale(image, stage, scale=2, steps=2)
    assert large.dtype == dtype and large.shape == (2 * shape[0], 2 * shape[1], *shape[2:])
    assert large.min() >= 0 and large.max() <= (1 if dtype(1.5) == 1.5 else np.iinfo(dtype).max)


def test_8_and_16_bits_and_floats_are_one_picture(stage):
    image = np.asarray(smooth((5, 7)))
    eight = cdm.upscale(image, stage, size=(9, 15), steps=2).astype(int)
    sixteen = cdm.upscale(image.astype(np.uint16) * 257, stage, size=(9, 15), steps=2)
    floats = cdm.upscale(image / 255, stage, size=(9, 15), steps=2)
    assert np.abs(np.rint(sixteen / 257) - eight).max() <= 1 and np.abs(np.rint(255 * floats) - eight).max() <= 1
    assert len(np.unique(sixteen % 257)) > 50  # no 8 bits in 16


def test_pil_images_keep_mode_and_profile(stage, stage_folder):
    for mode in ("L", "LA", "RGB", "RGBA", "I;16"):
        image = Image.fromarray(np.zeros((4, 5), np.uint16)) if mode == "I;16" else smooth((4, 5)).convert(mode)
        image.info["icc_profile"] = SRGB
        large = cdm.upscale(image, stage_folder, scale=2, steps=1)
        assert (large.mode, large.size, large.info["icc_profile"]) == (mode, (10, 8), SRGB)
    assert cdm.upscale(smooth().convert("P"), [stage], scale=1).mode == "RGB"


@pytest.mark.parametrize("mode", ("RGB", "L"))
def test_versions_of_a_picture_have_a_mean_and_a_deviation(mode, stage):
    made = cdm.upscale(np.asarray(smooth((5, 7)).convert(mode)), stage, scale=2, steps=2, samples=3)
    floats = np.stack(made.versions).reshape(3, 10, 14, len(mode)).astype(np.float32) / 255
    assert made.std.shape == (10, 14)
    np.testing.assert_allclose(made.mean.reshape(10, 14, -1) / 255, floats.mean(0), atol=1.1 / 255)
    np.testing.assert_allclose(made.std, np.sqrt(floats.var(0, ddof=1).mean(-1)), atol=1 / 255)


BAD = {
    "neither": {}, "both": {"scale": 2, "size": (20, 20)}, "smaller": {"scale": 0.5}, "small size": {"size": (2, 20)},
    "nan": {"scale": float("nan")}, "one side": {"size": 20}, "half pixels": {"size": (20.5, 20)}, "steps": {"scale": 2, "steps": 0}, "class": {"scale": 2, "label": "zebra"},
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
def test_bad_arguments_are_named(options, stage):
    with pytest.raises(ValueError, match="^`"):
        cdm.upscale(np.zeros((5, 7, 3), np.uint8), stage, **options)


def test_bad_arrays_are_named(stage):
    for image in (np.zeros((5, 7, 2), np.uint8), np.zeros((0, 7, 3), np.uint8), np.zeros(5), np.zeros((5, 7), int),
                  np.full((5, 7, 3), 2.0), np.full((5, 7, 3), np.nan)):
        with pytest.raises(ValueError, match="^`image`"):
            cdm.upscale(image, stage, scale=2)


def test_grey_stays_grey_and_is_the_mean_of_colours(stage):
    grey = np.asarray(smooth((5, 7)).convert("L"))
    colour = cdm.upscale(np.repeat(grey[..., None], 3, -1).astype(np.uint16) * 257, stage, scale=2, steps=2)
    large = cdm.upscale(grey.astype(np.uint16) * 257, stage, scale=2, steps=2)
    assert np.abs(large - colour.mean(-1)).max() <= 1


# ------------------------------------------------------------------------------------------------------------- alpha


def test_hidden_colours_do_not_bleed(stage):
    """A red disc on what nobody sees: whatever its colour, the result is the same, and no fringe round the disc."""
    y, x = np.mgrid[:20, :24]
    disc = (y - 9.5) ** 2 + (x - 11.5) ** 2 < 50
    results = []
    for hidden in ((0, 0, 0), (255, 255, 255), (0, 255, 0)):
        pixels = np.zeros((20, 24, 4), np.uint8)
        pixels[:], pixels[disc] = (*hidden, 0), (200, 30, 40, 255)
        results.append(enlarge_pixels(pixels, [stage], (40, 48), steps=2).image)
    assert (results[0] == results[1]).all() and (results[0] == results[2]).all()
    plain = np.broadcast_to(np.array([200, 30, 40], np.uint8), (20, 24, 3))
    colour = enlarge_pixels(plain, [stage], (40, 48), steps=2).image
    assert (results[0][..., :3] == colour).all()
    alpha = results[0][..., 3]
    assert set(np.unique(alpha[18:22, 22:26])) == {255} and not alpha[:2].any() and len(np.unique(alpha)) > 3


def test_bleeding_leaves_visible_colours_and_hidden_pictures_alone():
    random = np.random.default_rng(0)
    colour, alpha = random.random((6, 5, 3)), random.integers(0, 2, (6, 5))
    filled = bleed(colour, alpha)
    assert (filled[alpha > 0] == colour[alpha > 0]).all()
    assert {tuple(c) for c in filled[alpha == 0]} <= {tuple(c) for c in colour[alpha > 0]}
    assert bleed(colour, alpha * 0) is colour and bleed(colour, alpha * 0 + 1) is colour
