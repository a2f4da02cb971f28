"""Pictures that users bring: a file's pixels and what it says of them, read and written with nothing lost.

What is kept: grey or colour, 8 or 16 bits, alpha, the colour profile (ICC), EXIF byte by byte but for orientation and
size, XMP, and the resolution; of DICOM its records. What becomes of the rest is told in `notes`. A file is read as what
it is, whatever its name; one that can not be read is a ValueError of one line.
"""

import contextlib
import io
import math
import struct
import sys
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageSequence, UnidentifiedImageError

from cdm.images import dicom
from cdm.images.encode import GROUPS, directory, write_png, write_tiff
from cdm.images.files import Unreadable, replace
from cdm.images.provenance import upright

FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "dicom": dicom.SUFFIX}
KEPT = {"JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp", "TIFF": "tiff"}  # in their own format, the others as png
LONGEST = {"png": 2**31 - 1, "jpeg": 65500, "webp": 16383, "tiff": 2**31 - 1, "dicom": dicom.MOST}  # pixels of a side
MOST = 2**32 - 2**24  # bytes of pixels in a TIFF or DICOM, were they not to become fewer
SEGMENT = 65_500  # bytes of EXIF, or of XMP, that a JPEG can hold
ORIENTATION = 0x0112
# EXIF 2.3: how a picture that was stored so comes upright.
TURNS = {1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
         5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
         8: lambda x: np.rot90(x)}
# Of a TIFF's own directory: description, make, model, orientation, software, date, artist, host, copyright.
DESCRIBING = (270, 271, 272, 274, 305, 306, 315, 316, 33432, *GROUPS)


class Picture(NamedTuple):
    """`pixels` [H, W, C] uint8 or uint16, upright; C: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha."""

    pixels: np.ndarray
    format: str = "png"  # a key of FORMATS: of the file, or the one to keep it in
    icc: bytes | None = None
    exif: bytes | None = None  # a TIFF structure
    xmp: bytes | None = None
    dpi: tuple | None = None
    notes: tuple = ()  # what reading or writing changes, in words
    source: dicom.Dicom | None = None  # of a DICOM file, the file


def reason(error):
    """Why a file can not be read, in a few words that are the same in every process."""
    if isinstance(error, UnidentifiedImageError):  # which names the bytes by their place in memory
        return "UnidentifiedImageError: not a picture that Pillow knows"
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


@contextlib.contextmanager
def _decoding():
    """A context in which whatever is wrong makes a file Unreadable, and what a decoder repairs makes no warning."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the caller has limits of his own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as e:  # decoders of broken files raise anything
        raise e if isinstance(e, Unreadable) else Unreadable(f"can not be read ({reason(e)})") from e
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _opened(file):
    """The Image in a file, its header read; whatever is wrong with it, now or in the context, makes it Unreadable."""
    with _decoding(), Image.open(file) as image:
        if image.format != "MPO" and _pages(image) > 1:  # a phone's MPO: a picture and what belongs to it
            raise Unreadable(f"holds {_pages(image)} pictures, one can be read")
        yield image


def _pages(image):
    """How many pictures an Image holds; reduced copies of the first in a TIFF do not count."""
    pages = getattr(image, "n_frames", 1)
    if image.format == "TIFF" and pages > 1:
        pages = sum(1 for page in ImageSequence.Iterator(image) if not page.tag_v2.get(254, 0) & 1)
        image.seek(0)
    return pages


def header(data):
    """(height, width, format) of the picture in the bytes of a file, upright, from its header: pixels are not
    decoded."""
    if dicom.is_dicom(data):
        with _decoding():
            return *dicom.header(data), "dicom"
    with _opened(io.BytesIO(data)) as image:
        # The size of a TIFF is that of what Pillow turns upright when it decodes it.
        width, height = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
        return *((width, height) if turn_of(image) >= 5 else (height, width)), KEPT.get(image.format, "png")


def read(data):
    """The Picture in the bytes of a file; ValueError for one that can not be read."""
    if dicom.is_dicom(data):
        with _decoding():
            pixels, source = dicom.read(data)
        return Picture(pixels, "dicom", source=source)
    with _opened(io.BytesIO(data)) as image:
        pixels, icc, notes = decode(image, lambda: _opened(io.BytesIO(data)))
        pixels = np.ascontiguousarray(TURNS[turn_of(image)](pixels))  # of a TIFF Pillow has done it by now
        exif = _exif(image)
        if exif:
            exif = upright_exif(exif, pixels.shape)
            notes += () if exif else ("its EXIF block is damaged and left out",)
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
        notes += _left(image)
        dpi = image.info.get("dpi") if image.format != "TIFF" or 282 in image.tag_v2 else None
        format = KEPT.get(image.format, "png")
    xmp = upright(xmp.encode() if isinstance(xmp, str) else xmp) if xmp else None
    dpi = tuple(float(d) for d in dpi) if dpi else None
    return Picture(pixels, format, icc, exif, xmp, dpi if dpi and all(1e-3 < d < 1e6 for d in dpi) else None, notes)


def decode(image, again=None):
    """(pixels [H, W, C], colour profile or None, notes) of an Image as it is stored; again(): a context that opens it
    anew, to decode 16 bits of colour in two goes, which one that is loaded no longer has."""
    icc, mode, notes = image.info.get("icc_profile"), image.mode, ()
    see_through, raw = transparent(image), _raw(image)
    if mode == "F" or mode == "I" and image.format != "PPM":
        raise Unreadable("can not be read (its pixels are of 32 bits, whose black and white nobody knows)")
    if ";16" in raw and mode in ("RGB", "RGBA"):
        with again() as other:
            return _deep(image, other, raw), icc, notes
    if mode.startswith("I"):
        pixels = np.asarray(image).astype(np.uint16)[..., None]
        if raw not in ("", "I", "I;16", "I;16B", "I;16L", "I;16N"):
            raise Unreadable(f"can not be read (its samples are {raw})")
        if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # white is zero
            pixels = 65535 - pixels
        return _with_key(pixels, image), icc, notes
    if mode in ("CMYK", "LAB"):
        image, icc, notes = *_through_profile(image, icc), (f"{mode} became sRGB",)
    elif mode in ("1", "L", "LA", "La"):
        image = image.convert("LA" if see_through else "L")
    else:
        notes = ("its palette became colours",) if mode in ("P", "PA") else ()
        image = image.convert("RGBA" if see_through else "RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels, icc, notes


def _raw(image):
    """How the samples of an Image that is not decoded yet lie in its file, as Pillow names it."""
    args = image.tile[0].args if getattr(image, "tile", None) else ""
    return args if isinstance(args, str) else args[0] if args and isinstance(args[0], str) else ""


def _deep(image, other, raw):
    """[H, W, C] uint16 of an Image of 16-bit colour that is not decoded yet, and the same opened once more. Pillow
    keeps the high byte of each sample; told that its bytes lie the other way round, it keeps the low one."""

    def decoded(image, raw):
        image.tile = [tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:]))
                      for tile in image.tile]
        return np.asarray(image)

    if raw == "LA;16B":  # two samples of two bytes, which pass for four of one
        return _with_key(np.ascontiguousarray(decoded(image, "RGBA")).view(">u2").astype(np.uint16), image)
    straight = raw.replace("a;", "A;")  # as it is stored, be it multiplied with alpha
    turned = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[raw[-1]]
    high, low = decoded(image, straight), decoded(other, straight[:-1] + turned)
    pixels = high.astype(np.uint16) << 8 | low
    if raw != straight:
        alpha = np.maximum(pixels[..., 3:], 1).astype(np.float64)
        pixels[..., :3] = np.minimum(np.rint(pixels[..., :3] * (65535 / alpha)), 65535)
    return _with_key(pixels, image)


def _with_key(pixels, image):
    """Pixels of 16 bits with the one colour that a PNG calls transparent as alpha."""
    key = image.info.get("transparency")
    if key is None:
        return pixels
    alpha = np.where((pixels == np.array(key)).all(-1, keepdims=True), 0, 65535)
    return np.concatenate([pixels, alpha.astype(np.uint16)], -1)


def _through_profile(image, icc):
    """(the sRGB Image of one of CMYK or Lab, no profile), by its own profile if it has one that works."""
    profile = ImageCms.createProfile("LAB") if image.mode == "LAB" else None
    with contextlib.suppress(ImageCms.PyCMSError, OSError):
        profile = profile or (ImageCms.ImageCmsProfile(io.BytesIO(icc)) if icc else None)
        if profile:
            return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"), None
    return image.convert("RGB"), None


def transparent(image):
    """Whether an Image has alpha, or a colour that stands for it."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def turn_of(image):
    """How an Image is stored by its EXIF, a key of TURNS."""
    try:
        turn = image.getexif().get(ORIENTATION)
    except Exception:  # a broken EXIF block is no reason to lose the picture
        return 1
    return turn if turn in TURNS else 1


def _exif(image):
    """The EXIF block of an Image: as it is in the file, or made of a TIFF's own directory; None without."""
    if "exif" in image.info:
        return image.info["exif"]
    try:
        found, block = image.getexif(), Image.Exif()
        for tag in found:
            if tag in GROUPS:
                block[tag] = {name: value for name, value in found.get_ifd(tag).items() if name != 0xA005}
            elif tag in DESCRIBING:
                block[tag] = found[tag]
        return block.tobytes() if len(block) else None
    except Exception:
        return b"damaged"


def _left(image):
    """What an Image that is decoded says and a Picture has no place for, in words."""
    info, left = image.info, []
    if image.format == "MPO" and image.n_frames > 1:
        left.append("further pictures")
    if info.keys() & {"gamma", "chromaticity"} and not info.keys() & {"srgb", "icc_profile"}:
        left.append("gamma")
    texts = getattr(image, "text", {}).keys() - {"XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type xmp"}
    if texts or "comment" in info:
        left.append("texts")
    if 0x0404 in info.get("photoshop", ()) or image.format == "TIFF" and 33723 in image.tag_v2:
        left.append("IPTC records")
    return tuple(f"its {name} {'is' if name == 'gamma' else 'are'} left out" for name in left)


def upright_exif(exif, shape):
    """An EXIF block of an upright picture of shape (H, W, ...): orientation 1, its sizes, no thumbnail; the rest, byte
    by byte, as it was. None of one that is damaged."""
    block = bytearray(exif.removeprefix(b"Exif\0\0"))
    order = "<" if block[:2] == b"II" else ">"

    def entries(at):
        count, = struct.unpack_from(order + "H", block, at)
        return {struct.unpack_from(order + "H", block, at + 2 + 12 * i)[0]: at + 2 + 12 * i for i in range(count)}

    try:
        if block[:4] not in (b"II*\0", b"MM\0*"):
            return None
        first, = struct.unpack_from(order + "L", block, 4)
        tags = entries(first)
        count, = struct.unpack_from(order + "H", block, first)  # of a tag that is there twice both
        struct.pack_into(order + "L", block, first + 2 + 12 * count, 0)  # of the thumbnail's directory
        if ORIENTATION in tags:
            struct.pack_into(order + "HHLHH", block, tags[ORIENTATION], ORIENTATION, 3, 1, 1, 0)
        if GROUPS[0] in tags:
            inner = entries(struct.unpack_from(order + "L", block, tags[GROUPS[0]] + 8)[0])
            for tag, size in ((0xA002, shape[1]), (0xA003, shape[0])):
                if tag in inner:
                    struct.pack_into(order + "HHLL", block, inner[tag], tag, 4, 1, size)
    except struct.error:
        return None
    return bytes(block)


def fit(picture, format, size):
    """The Picture, as it can be kept in a file of this format at size (H, W): it is asked before there is work to lose.
    ValueError if its sides or its alpha can not."""
    if format not in FORMATS:
        raise ValueError(f"`format` (={format}) must be one of {', '.join(FORMATS)}")
    alpha, notes = picture.pixels.shape[2] in (2, 4), picture.notes
    if max(size) > LONGEST[format]:
        raise ValueError(f"`format` (={format}) must hold {size[1]}x{size[0]} pixels; a side has "
                         f"{LONGEST[format]} at most")
    if format in ("tiff", "dicom") and math.prod(size) * picture.pixels[0, 0].nbytes > MOST:
        raise ValueError(f"`format` (={format}) must hold {size[1]}x{size[0]} pixels; a file has 4 GiB at most")
    if format == "dicom" and not picture.source:
        raise ValueError("`format` (=dicom) must be of a picture that comes as DICOM, with its records")
    if format == "dicom":
        try:
            dicom.check(picture.source, size)
        except Exception as e:  # of records that are broken anything
            raise ValueError(f"`format` (=dicom) must hold its records, and does not ({reason(e)})") from e
    if picture.source:
        low, high = picture.source.low, picture.source.high
        notes = (*notes, *(picture.source.notes if format == "dicom" else (
            f"its DICOM records are left out; black to white are its values {low} to {high}",)))
    if format == "jpeg" and alpha:
        raise ValueError("`format` (=jpeg) must hold transparency, and does not")
    exif, xmp = picture.exif, picture.xmp
    if exif:
        exif = upright_exif(exif, size)
        try:
            held = format != "tiff" or directory(exif).tobytes()
        except Exception:  # of tags with values that are not of their types
            held = False
        if not held or format == "jpeg" and len(exif) > SEGMENT:
            exif, notes = None, (*notes, f"its EXIF block does not go into {format} and is left out")
    if xmp and format == "jpeg" and len(xmp) > SEGMENT - 8192:  # less what will be added
        xmp, notes = None, (*notes, "its XMP does not go into jpeg and is left out")
    if picture.pixels.dtype == np.uint16 and format in ("jpeg", "webp"):
        notes = (*notes, f"16 bits became 8, as {format} has no more")
    if format == "webp" and picture.pixels.shape[2] < 3:
        notes = (*notes, "grey became colours, as webp has no grey")
    if format == "webp" and picture.dpi:
        notes = (*notes, "its resolution is left out, as webp has none")
    return picture._replace(format=format, exif=exif, xmp=xmp, notes=notes)


def write(path, picture):
    """Write a Picture that fits its format, whole or not at all; JPEG at quality 95 without subsampling, the others
    without loss."""
    pixels = picture.pixels
    if picture.format == "dicom":
        replace(path, lambda p: dicom.write(p, pixels, picture.source, picture.xmp))
        return
    said = {"icc": picture.icc, "exif": picture.exif, "xmp": picture.xmp, "dpi": picture.dpi}
    if picture.format in ("png", "tiff"):
        encode = write_png if picture.format == "png" else write_tiff
        replace(path, lambda p: encode(p, pixels, **said))
        return
    if pixels.dtype == np.uint16:
        pixels = np.rint(pixels / np.float32(257)).astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    options = {"quality": 95, "subsampling": 0} if picture.format == "jpeg" else {"lossless": True, "exact": True}
    said["icc_profile"] = said.pop("icc")
    said["exif"] = said["exif"] and b"Exif\0\0" + said["exif"]
    options |= {name: value for name, value in said.items() if value}
    replace(path, lambda p: image.save(p, picture.format, **options))
