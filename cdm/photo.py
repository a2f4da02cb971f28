"""A picture through super-resolution stages, with what a diffusion model does not know: grey, alpha, 16 bits.

The stages see colour in 8 or 16 bits alike, as floats. Grey goes through as colour and comes back as the mean of the
three. Alpha is enlarged by the one resize, nothing is invented in it; pixels that it hides take the colour of the
nearest visible one first, so that no hidden colour bleeds into what is seen.
"""

import numbers

import numpy as np
from PIL import Image
from scipy import ndimage

from cdm.images.pictures import decode
from cdm.images.resize import resize
from cdm.stage import Stage, load_stage
from cdm.upscaling import Enlarged, enlarge


def upscale(image, stage, scale=None, size=None, **options):
    """A picture, enlarged: detail is invented, not evidence; not for identification or diagnosis.

    image: a PIL Image, or an array [H, W], [H, W, 3] or [H, W, 4] (the fourth is alpha) of uint8, uint16 or floats in
    [0, 1]; the result is the same kind of thing. stage: a super-resolution Stage or its folder, or several, one after
    the other, the last one repeated as often as it takes. One of scale, at least 1, and size, (height, width).
    options: those of cdm.upscaling.enlarge. With samples=K the result is an Enlarged of such images, its std an array
    in shares of the range from black to white.
    """
    stages = [one if isinstance(one, Stage) else load_stage(one)
              for one in (stage if isinstance(stage, (list, tuple)) else [stage])]
    if isinstance(image, Image.Image):
        image.load()
        pixels, icc, _ = decode(image)
        pixels = pixels[..., :1] if pixels.dtype == np.uint16 else pixels  # Pillow has no alpha beside 16 bits

        def restore(pixels):
            made = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            made.info = {name: value for name, value in image.info.items() if name != "transparency"}
            made.info["icc_profile"] = icc
            return made
    else:
        pixels = image = np.asarray(image)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
            raise ValueError(f"`image` (={image.shape}) must be [H, W], [H, W, 3] or [H, W, 4]")

        def restore(pixels):
            return pixels[..., 0] if image.ndim == 2 else pixels
    made = enlarge_pixels(pixels, stages, target(*pixels.shape[:2], scale, size), **options)
    if made.versions is None:
        return restore(made.image)
    return Enlarged(restore(made.image), [restore(one) for one in made.versions], restore(made.mean), made.std)


def target(height, width, scale=None, size=None):
    """(height, width) of what a picture becomes."""
    if (scale is None) == (size is None):
        raise ValueError(f"`scale` (={scale}) or `size` (={size}) must be given, one of them")
    if scale is None:
        if np.shape(size) != (2,) or not all(isinstance(side, numbers.Integral) and side > 0 for side in size):
            raise ValueError(f"`size` (={size}) must be (height, width) in whole pixels")
        return tuple(map(int, size))
    if not 1 <= scale < 1e6:
        raise ValueError(f"`scale` (={scale}) must be at least 1")
    return round(height * scale), round(width * scale)


def enlarge_pixels(pixels, stages, size, **options):
    """The Enlarged picture of `pixels` [H, W, C], its images of their kind: uint8, uint16 or floats in [0, 1], clipped;
    C: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. std [H, W] is in shares of the range from black to white."""
    floating = np.issubdtype(pixels.dtype, np.floating)
    if not floating and pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"`image` (={pixels.dtype}) must be of uint8, uint16 or floats in [0, 1]")
    if floating and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"`image` (={pixels.min():g} to {pixels.max():g}) must lie in [0, 1]")
    white = 1 if floating else np.iinfo(pixels.dtype).max
    channels = pixels.shape[2] - 1 + pixels.shape[2] % 2  # of colour
    colour, alpha = (pixels[..., part].astype(np.float32) / white for part in (slice(channels), slice(channels, None)))
    if alpha.size:
        colour = bleed(colour, alpha[..., 0])
        alpha = resize(alpha, size)

    def back(image):
        image = (image.mean(-1, keepdims=True) if channels == 1 else image) / 2 + 0.5
        image = np.clip(np.concatenate([image, alpha], -1) if alpha.size else image, 0, 1) * np.float32(white)
        return image.astype(pixels.dtype) if floating else np.rint(image).astype(pixels.dtype)

    made = enlarge(np.broadcast_to(2 * colour - 1, (*colour.shape[:2], 3)), stages, size, **options)
    if made.versions is None:
        return Enlarged(back(made.image))
    std = made.std if channels == 3 else made.versions.mean(-1).std(0, ddof=1)
    return Enlarged(back(made.image), np.stack([back(one) for one in made.versions]), back(made.mean), std / 2)


def bleed(colour, alpha):
    """Colour [H, W, C] that is the nearest visible pixel's where alpha [H, W] is 0."""
    hidden = alpha == 0
    if hidden.all() or not hidden.any():
        return colour
    return colour[tuple(ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True))]
