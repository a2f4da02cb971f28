"""How a picture of any shape becomes a square: `data.square` of a config.

    center   the middle square of the picture, to size by the one resize
    random   the largest square at a place along the long side drawn for each example, to size by the one resize
    adm      guided-diffusion's center_crop_arr (Dhariwal & Nichol 2021), which published ImageNet numbers rest on:
             halved with a box filter while the short side is at least twice the size, short side to size with Pillow's
             bicubic, then the middle

Of partners, a picture and its low-res one, the square is of whole pixels of the low-res one, and of the other what lies
under them: at half of a pixel off, which training makes smaller still, they lie over each other as the pictures did.
"""

import numpy as np
from PIL import Image

from cdm.images.resize import resize

SQUARES = ("center", "random", "adm")


def square(image, size, how="center", draw=0.0):
    """[H, W, 3] uint8 as [size, size, 3] uint8; `draw` in [0, 1) places a random square."""
    if how == "adm":
        return adm(image, size)
    side, top, left = _place(image, how, draw)
    return _sized(image[top : top + side, left : left + side], size)


class Misfit(ValueError):
    """Partners that can not be one picture."""


def fit(name, shape, lowres):
    """Raise Misfit, which names the record, unless a picture of `shape` [H, W, …] can have a low-res partner of the
    shape `lowres`: no larger, and as wide for its height but for a pixel of its short side, which is rounded."""
    (height, width), (h, w) = shape[:2], lowres[:2]
    if h > height or w > width or abs(h * width - w * height) > max(height, width):
        rule = "no larger" if h > height or w > width else "of its shape"
        raise Misfit(f"`data.lowres`: the partner of {name}, {width}x{height}, must be {rule}; it is {w}x{h}")


def pair(image, lowres, size, lowres_size, how="center", draw=0.0):
    """Partners [H, W, 3] and [h, w, 3] uint8, which `fit`, as squares ([size, size, 3], [lowres_size, lowres_size, 3])
    uint8 of one place; `how` is center or random."""
    side, *corner = _place(lowres, how, draw)
    rows, columns = (slice(*(round(edge * most / least) for edge in (at, at + side)))
                     for at, most, least in zip(corner, image.shape, lowres.shape))
    top, left = corner
    return _sized(image[rows, columns], size), _sized(lowres[top : top + side, left : left + side], lowres_size)


def _place(image, how, draw):
    """(side, top, left) of the square."""
    side = min(image.shape[:2])
    spare = image.shape[0] - side, image.shape[1] - side  # one of them is 0
    return side, *(int(draw * (s + 1)) if how == "random" else s // 2 for s in spare)


def _sized(image, size):
    if image.shape[:2] == (size, size):
        return image
    return np.clip(np.round(resize(image, size)), 0, 255).astype(np.uint8)


def adm(image, size):
    """center_crop_arr: like it, rounds to 8 bits at every halving."""
    image = Image.fromarray(image)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]
