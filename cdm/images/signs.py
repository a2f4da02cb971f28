"""Signs in a picture's pixels that it is no clean one: what a stage trained on clean low-res pictures would take for
detail, and enlarge.

    noise          the median of |d| / 0.6745, d the finest diagonal Haar detail of luma (Donoho and Johnstone 1994), in
                   squares of SIDE pixels; of these the tenth part that has least, where texture adds nothing
    compression    the mean step of luma from one JPEG block to the next over that inside blocks, least of both axes;
                   1 without blocks
"""

import numpy as np

NOISE, BLOCKS = 5.0, 1.15  # from where it is told, of 255 and of 1
SIDE, LEAST = 16, 64  # pixels; of a picture's side, below which nothing is told
LUMA = np.array([0.299, 0.587, 0.114])


def noise(luma):
    """The deviation of noise in luma [H, W], in its units."""
    h, w = (side // SIDE * SIDE for side in luma.shape)
    luma = luma[:h, :w]
    detail = np.abs(luma[::2, ::2] - luma[::2, 1::2] - luma[1::2, ::2] + luma[1::2, 1::2]) / 2
    squares = detail.reshape(h // SIDE, SIDE // 2, w // SIDE, SIDE // 2)
    return float(np.percentile(np.median(squares, axis=(1, 3)) / 0.6745, 10))


def blocks(luma):
    """How much larger steps between JPEG's blocks are in luma [H, W] than the others."""

    def ratio(luma):
        step = np.abs(np.diff(luma, axis=0)).mean(1)
        edge = np.arange(1, len(step) + 1) % 8 == 0
        return step[edge].mean() / max(step[~edge].mean(), 1e-6)

    return float(min(ratio(luma), ratio(luma.T)))


def signs(pixels):
    """What pixels [H, W, C] uint8 or uint16 show, in words: a tuple, empty of a clean picture or one too small to
    tell."""
    if min(pixels.shape[:2]) < LEAST:
        return ()
    colour = pixels[..., :3].astype(np.float32) * (255 / np.iinfo(pixels.dtype).max)
    luma = colour @ LUMA if colour.shape[-1] == 3 else colour[..., 0]
    found, seen = [], (noise(luma), blocks(luma))
    if seen[0] > NOISE:
        found.append(f"noise of some {seen[0]:.0f}/255")
    if seen[1] > BLOCKS:
        found.append("the blocks of JPEG")
    return tuple(found)
