"""How near a restored picture comes to the real one, and to the low-res picture that it was made from; in float64.

    PSNR          10 log10(255^2 / mean (a - b)^2)                                                          (1)
    SSIM          mean of (2 m_a m_b + C_1) (2 s_ab + C_2) / ((m_a^2 + m_b^2 + C_1) (s_a^2 + s_b^2 + C_2)), the
                  moments in 11x11 Gaussian windows of sigma 1.5 inside the picture, C_i = (k_i 255)^2, k = 0.01, 0.03
                  (Wang et al. 2004, eq. 13, sec. III.C)                                                    (2)

of what a named protocol compares:

    rgb           the 8-bit RGB channels of the whole picture; SSIM is the mean over channels
    y             luma, 16 + (65.481 R + 128.553 G + 24.966 B) / 255 (BT.601, MATLAB's rgb2ycbcr, not rounded),
                  without a border of `scale` pixels

and with D the one resize, z the low-res picture:

    consistency   1e5 mean (D(a) - z)^2 on [0, 1]       (Saharia et al. 2021, sec. 4)                       (3)
    colour drift  255 mean (D(a) - z) on [0, 1], channel by channel, signed; and its length                 (4)

Eq. 4 is the cast that the whole picture took. It is in 8-bit RGB and not in CIELAB because it is then linear: its mean
over pictures is what a stage does to colours always, which a mean of unsigned differences would hide.
"""

import numpy as np

from cdm.evals.card import summary
from cdm.images.resize import resize, to_float

SSIM = "SSIM in 11x11 Gaussian windows of sigma 1.5"
WORDS = {"rgb": f"8-bit RGB, peak 255, no border crop; {SSIM}, mean over channels",
         "y": f"luma of BT.601 (16 to 235, not rounded), peak 255, a border of `scale` pixels cropped; {SSIM}"}
WINDOW = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
WINDOW /= WINDOW.sum()
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def planes(image, protocol, scale=None):
    """What a protocol compares of [H, W, 3] uint8: [h, w, channels] float64."""
    if protocol not in WORDS:
        raise ValueError(f"`protocol` (={protocol}) must be one of {', '.join(WORDS)}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"`image` (={image.dtype} {image.shape}) must be uint8 [H, W, 3]")
    image = image.astype(np.float64)
    if protocol == "rgb":
        return image
    if scale is None:
        raise ValueError("`scale` (=None) must be given for the protocol y, which crops a border of so many pixels")
    luma = 16 + image @ np.array([65.481, 128.553, 24.966]) / 255
    return luma[scale:-scale, scale:-scale, None]


def _pair(image, reference, protocol, scale):
    if image.shape != reference.shape:
        raise ValueError(f"`image` (={image.shape}) must be of the size of its reference, {reference.shape}")
    return planes(image, protocol, scale), planes(reference, protocol, scale)


def psnr(image, reference, protocol="rgb", scale=None):
    """Eq. 1 of two [H, W, 3] uint8, in dB; infinite if what is compared is equal."""
    a, b = _pair(image, reference, protocol, scale)
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(255**2 / np.mean((a - b) ** 2)))


def ssim(image, reference, protocol="rgb", scale=None):
    """Eq. 2 of two [H, W, 3] uint8, at most 1; ValueError where no window fits."""
    a, b = _pair(image, reference, protocol, scale)
    if min(a.shape[:2]) < len(WINDOW):
        raise ValueError(f"`image` (={image.shape}) must leave {len(WINDOW)} pixels a side for the window of SSIM")

    def local(x):
        height, width = (side - len(WINDOW) + 1 for side in x.shape[:2])
        rows = sum(w * x[i : i + height] for i, w in enumerate(WINDOW))
        return sum(w * rows[:, i : i + width] for i, w in enumerate(WINDOW))

    m_a, m_b = local(a), local(b)
    s_aa, s_bb, s_ab = local(a * a) - m_a**2, local(b * b) - m_b**2, local(a * b) - m_a * m_b
    return float(np.mean((2 * m_a * m_b + C1) * (2 * s_ab + C2) / ((m_a**2 + m_b**2 + C1) * (s_aa + s_bb + C2))))


def _drift(image, lowres):
    """D(a) - z on [0, 1] of an [H, W, 3] uint8 image and an [h, w, 3] low-res image in [-1, 1]: float64."""
    return (resize(to_float(image), lowres.shape[:2]).astype(np.float64) - lowres) / 2


def consistency(image, lowres):
    """Eq. 3 of an [H, W, 3] uint8 image made from the [h, w, 3] one in [-1, 1]."""
    return float(1e5 * np.mean(_drift(image, lowres) ** 2))


def colour_drift(image, lowres):
    """Eq. 4 of an [H, W, 3] uint8 image made from the [h, w, 3] one in [-1, 1]: [3], 8-bit units."""
    return 255 * np.mean(_drift(image, lowres), axis=(0, 1))


def measures(image, reference, protocols, scale=None, lowres=None, distance=None):
    """All that is measured of an [H, W, 3] uint8 image, by name. `lowres` [h, w, 3] in [-1, 1] adds eq. 3 and 4;
    `distance(image, reference)` LPIPS."""
    row = {}
    for protocol in protocols:
        row[f"psnr_{protocol}"] = psnr(image, reference, protocol, scale)
        row[f"ssim_{protocol}"] = ssim(image, reference, protocol, scale)
    if lowres is not None:
        drift = colour_drift(image, lowres)
        row |= {"consistency": consistency(image, lowres), "colour_drift": float(np.linalg.norm(drift)),
                **dict(zip(("drift_red", "drift_green", "drift_blue"), map(float, drift)))}
    if distance:
        row["lpips"] = distance(image, reference)
    return row


def results(rows):
    """Of `measures` of several pictures, the results of a card and, by name, how many pictures have an infinite PSNR,
    as they equal their reference: that one is left out, as is what could not be measured of all."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    infinite = {name: sum(map(np.isinf, values)) for name, values in columns.items() if name.startswith("psnr")}
    return ({name: summary(values) for name, values in columns.items()
             if None not in values and not infinite.get(name)},
            {name: int(count) for name, count in infinite.items() if count})


def about(protocols, scale, distance):
    """What of a card's protocol is the same for any pictures."""
    return {**{name: WORDS[name] for name in protocols}, "scale": scale,
            "lowres": scale and "of the reference by bicubic (a = -0.5), anti-aliased, not quantised",
            "lpips": distance and distance.about}
