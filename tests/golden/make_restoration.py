"""Make the golden file of PSNR and SSIM with scikit-image, an independent implementation.

    pip install '.[reference]' && python tests/golden/make_restoration.py

Pairs of pictures of several sizes, the second one noisy, blurred, quantised or equal in parts, with what
skimage.metrics says of all of their 8-bit RGB and of their luma (skimage.color.rgb2ycbcr) without a border.
"""

import pathlib

import numpy as np
from scipy import ndimage
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

BORDER = 4


def pairs():
    random = np.random.default_rng(0)
    for height, width in ((24, 40), (19, 19), (33, 26)):
        smooth = ndimage.gaussian_filter(random.normal(size=(height, width, 3)), (3, 3, 0))
        image = np.uint8(np.clip(128 + 60 * smooth / smooth.std(), 0, 255))
        noisy = np.uint8(np.clip(image + random.normal(scale=12, size=image.shape), 0, 255))
        blurred = ndimage.gaussian_filter(image, (1.5, 1.5, 0))
        half = image.copy()
        half[:, : width // 2] = half[:, : width // 2] // 64 * 64
        yield from ((noisy, image), (blurred, image), (half, image), (255 - image, image))


def measure(a, b):
    return (peak_signal_noise_ratio(b, a, data_range=255),
            structural_similarity(b, a, data_range=255, channel_axis=2, gaussian_weights=True, sigma=1.5,
                                  use_sample_covariance=False))


def main():
    golden = {}
    for i, (image, reference) in enumerate(pairs()):
        luma = [rgb2ycbcr(x)[BORDER:-BORDER, BORDER:-BORDER, :1] for x in (image, reference)]
        golden |= {f"image_{i}": image, f"reference_{i}": reference,
                   f"measured_{i}": np.array([measure(image, reference), measure(*luma)])}
    np.savez_compressed(pathlib.Path(__file__).with_name("restoration.npz"), **golden)


if __name__ == "__main__":
    main()
