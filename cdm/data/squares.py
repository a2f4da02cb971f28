"""How a picture of any shape becomes a square: `data.square` of a config.

    center   the middle square of the picture, to size by the one resize
    random   the largest square at a place along the long side drawn for each example, to size by the one resize
    adm      guided-diffusion's center_crop_arr (Dhariwal & Nichol 2021), which published ImageNet numbers rest on:
             halved with a box filter while the short side is at least twice the size, short side to size with Pillow's
             bicubic, then the middle
"""

import numpy as np
from PIL import Image

from cdm.images.resize import resize

SQUARES = ("center", "random", "adm")


def square(image, size, how="center", draw=0.0):
    """[H, W, 3] uint8 as [size, size, 3] uint8; `draw` in [0, 1) places a random square."""
    if how == "adm":
        return adm(image, size)
    side = min(image.shape[:2])
    spare = image.shape[0] - side, image.shape[1] - side  # one of them is 0
    top, left = (int(draw * (s + 1)) if how == "random" else s // 2 for s in spare)
    image = image[top : top + side, left : left + side]
    if side == size:
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
