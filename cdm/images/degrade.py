"""Degradations: how the low-res picture of a training pair comes of the high-res one.

    bicubic   the one resize alone (Saharia et al. 2021): a clean picture, made small
    photo     what cameras, messengers and the web make of a picture, after the first-order chain of Wang et al. 2021
              (Real-ESRGAN, sec. 3):

                  low = JPEG(resize(resize(blur(x)) + noise))                                     (1)

    pairs     nothing is made: the low-res picture is one of its own (cdm.data.pairs)

For `photo` each picture draws from its own key: the blur's sigma, an axis at a time; the size between, as a share of
the low-res size; noise, of one strength, grey for half of the pictures; JPEG's quality. Every range begins at or near
nothing, so that good pictures are among those a stage learns. Sizes that are drawn make no new program: blur and resize
are matrices, as the one resize's are, of a fixed shape.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cdm.images.resize import resize

BLOCK = 8
# ITU-T T.81, annex K, tables K.1 and K.2: luminance and chrominance.
TABLES = np.array([
    [[16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
     [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
     [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99]],
    [[17, 18, 24, 47, 99, 99, 99, 99], [18, 21, 26, 66, 99, 99, 99, 99], [24, 26, 56, 99, 99, 99, 99, 99],
     [47, 66, 99, 99, 99, 99, 99, 99], [99] * 8, [99] * 8, [99] * 8, [99] * 8]], np.float32)
# JFIF: luma and the two differences of 0..255 RGB.
YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
_dot = functools.partial(jnp.einsum, precision="highest")


def _cosines():
    """The orthonormal DCT-II of a block's side, [BLOCK, BLOCK]."""
    k, n = np.mgrid[:BLOCK, :BLOCK]
    return np.where(k, 1.0, 0.5**0.5) * np.cos(np.pi * (2 * n + 1) * k / (2 * BLOCK)) * (2 / BLOCK) ** 0.5


def _quantised(plane, table):
    """A plane [h, w] of 0..255, sides whole blocks, as its quantised coefficients give it back."""
    dct = jnp.asarray(_cosines(), jnp.float32)
    h, w = plane.shape
    blocks = jnp.round(plane - 128).reshape(h // BLOCK, BLOCK, w // BLOCK, BLOCK)
    found = jnp.round(_dot("ka,iajb,lb->ijkl", dct, blocks, dct) / table) * table
    back = _dot("ka,ijkl,lb->iajb", dct, found, dct).reshape(h, w)
    return jnp.clip(jnp.round(back + 128), 0, 255)


def jpeg(image, quality):
    """What a JPEG file of this quality (1 to 100, the scale of libjpeg; chroma at half the size) gives back of an image
    [h, w, 3] in [-1, 1]; `quality` may be traced."""
    h, w = image.shape[:2]
    padded = jnp.pad((image + 1) * 127.5, ((0, -h % 16), (0, -w % 16), (0, 0)), mode="edge")
    ycc = jnp.round(_dot("hwc,dc->hwd", jnp.clip(jnp.round(padded), 0, 255), YCC)) + jnp.array([0.0, 128.0, 128.0])
    percent = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    luma, chroma = jnp.clip(jnp.floor((TABLES * percent + 50) / 100), 1, 255)
    ph, pw = padded.shape[:2]
    halved = ycc.reshape(ph // 2, 2, pw // 2, 2, 3).mean((1, 3))
    planes = jnp.stack([_quantised(halved[..., c], chroma) for c in (1, 2)], axis=-1)
    decoded = jnp.concatenate([_quantised(ycc[..., 0], luma)[..., None], resize(planes, (ph, pw), "bilinear") - 128],
                              axis=-1)
    rgb = _dot("hwd,cd->hwc", decoded, np.linalg.inv(YCC))
    return jnp.clip(jnp.round(rgb[:h, :w]), 0, 255) / 127.5 - 1


def _blur_matrix(side, sigma):
    """[side, side]: a Gaussian of sigma pixels, each row of sum 1; the identity as sigma goes to 0."""
    d = jnp.arange(side)[:, None] - jnp.arange(side)
    weights = jnp.exp(-0.5 * (d / jnp.maximum(sigma, 1e-3)) ** 2)
    return weights / weights.sum(1, keepdims=True)


def _resize_matrix(size_in, size_out, columns, rows):
    """The one resize's matrix, bilinear and anti-aliased, between sizes that may be traced, in the upper left corner of
    [rows, columns]; the rest is 0."""
    i, j = jnp.arange(rows)[:, None], jnp.arange(columns)
    ratio = size_in / size_out
    centre = (i + 0.5) * ratio - 0.5
    weights = jnp.maximum(1 - jnp.abs(j - centre) / jnp.maximum(ratio, 1), 0) * (i < size_out) * (j < size_in)
    return weights / jnp.maximum(weights.sum(1, keepdims=True), 1e-6)


def photo(image, size, key, blur, scale, noise, quality):
    """Eq. 1: [h, w, 3] of one image [H, W, 3] in [-1, 1], h = w = `size`.

    Ranges (low, high), drawn from uniformly: `blur`, sigma in low-res pixels; `scale`, the side between over the low-res
    one; `noise`, its deviation in units of 1/255; `quality` of JPEG.
    """
    keys = jax.random.split(key, 7)

    def draw(i, bounds, shape=()):
        return jax.random.uniform(keys[i], shape, minval=bounds[0], maxval=bounds[1])

    height, width = image.shape[:2]
    most = int(np.ceil(size * scale[1]))
    between = jnp.round(draw(0, (size * scale[0], size * scale[1])))
    sigma = draw(1, blur, (2,)) * jnp.array([height / size, width / size])
    down = [_resize_matrix(side, between, side, most) @ _blur_matrix(side, s)
            for side, s in zip((height, width), sigma)]
    image = _dot("yh,hwc,xw->yxc", down[0], image, down[1])
    fresh = jax.random.normal(keys[2], image.shape)
    fresh = jnp.where(jax.random.uniform(keys[3]) < 0.5, fresh, fresh[..., :1])
    image = image + draw(4, noise) / 127.5 * fresh
    last = _resize_matrix(between, size, most, size)
    return jpeg(jnp.clip(_dot("yh,hwc,xw->yxc", last, image, last), -1, 1), draw(5, quality))


def degrade(image, size, config, keys):
    """Low-res pictures [B, size, size, 3] of [B, H, W, 3] in [-1, 1]; keys [B]; `config` is `degrade` of a stage's.
    ValueError for pairs, whose low-res pictures are not made."""
    if config.kind == "pairs":
        raise ValueError("`lowres` (=None) must be the low-res pictures of a stage of pairs")
    if config.kind == "bicubic":
        return resize(image, size)
    ranges = {name: tuple(config[name]) for name in ("blur", "scale", "noise", "quality")}
    return jax.vmap(lambda image, key: photo(image, size, key, **ranges))(image, keys)
