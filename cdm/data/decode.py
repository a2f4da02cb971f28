"""From the bytes of a picture file to RGB, and what is odd about a file."""

import io

import numpy as np
from PIL import Image

from cdm.images.pictures import reason, transparent, turn_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
# EXIF 2.3: how a picture that was stored so comes upright, of those that do not lie so.
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}
HEAD = 1 << 16  # bytes that hold the header of nearly every file


class Unreadable(ValueError):
    """A picture that can not be read; `name` and `reason` are those of a list of bad files."""

    def __init__(self, name, error):
        self.name, self.reason = name, reason(error)
        super().__init__(f"`data.source`: {name} can not be read ({self.reason})")


def decode(data):
    """Bytes of an image file as [H, W, 3] uint8 RGB: the first frame, turned as its EXIF says, composited on white."""
    with Image.open(io.BytesIO(data)) as image:
        if turn := TURNS.get(turn_of(image)):
            image = image.transpose(turn)
        if image.mode == "F":
            raise ValueError("its pixels are floats, whose black and white nobody knows")
        if image.mode.startswith("I"):  # 16 bits, which Pillow would clip, not scale
            return np.repeat((np.asarray(image)[..., None] / 257).round().clip(0, 255).astype(np.uint8), 3, axis=2)
        if transparent(image):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert("RGB"))


def check_header(read):
    """(height, width) by a file's header, before any turn; raises whatever Pillow does of one that it can not open.
    `read(limit)` gives its first bytes, or all with -1. Pixels are not decoded, and of most formats only the first HEAD
    bytes are read."""
    def size(data):
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width

    try:
        return size(read(HEAD))
    except Exception:  # the header may be longer than that, or at the end
        return size(read(-1))


def oddities(data):
    """What is odd about the bytes of an image file, each with what `decode` does to it: {kind: remedy}."""
    with Image.open(io.BytesIO(data)) as image:
        found = {}
        if image.mode == "CMYK":
            found["CMYK"] = "converted to RGB, without a colour profile"
        elif image.mode == "P":
            found["palette"] = "converted to RGB"
        elif image.mode.startswith("I") or any(";16" in str(tile[-1]) for tile in image.tile):
            found["16-bit"] = "scaled to 8 bits"
        elif image.mode not in ("RGB", "RGBA", "L", "LA", "1"):
            found[f"mode {image.mode}"] = "converted to RGB"
        if transparent(image):
            found["alpha"] = "composited on white"
        if turn_of(image) in TURNS:
            found["EXIF-rotated"] = "turned upright"
        if getattr(image, "is_animated", False):
            found["animated"] = "its first frame is read"
        return found
