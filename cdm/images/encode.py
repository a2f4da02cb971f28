"""PNG (W3C, third edition) and TIFF (6.0) of 8 and 16 bits a sample, which Pillow writes at 8 bits only."""

import struct
import zlib

import numpy as np
from PIL import Image, TiffImagePlugin

BAND = 1 << 24  # bytes of rows at a time
GROUPS = (0x8769, 0x8825)  # EXIF's own tags and those of the place: directories within the directory


def _bands(pixels):
    """The rows of [H, W, C], a few at a time, each with the row above the first of them (None at the top)."""
    rows = max(1, BAND // pixels[0].nbytes)
    for top in range(0, len(pixels), rows):
        yield pixels[top - 1] if top else None, pixels[top:top + rows]


def _paeth(above, rows, stride):
    """PNG's filter 4 of rows of bytes [N, B] under the row `above` [B]: each less the one of left, up and upper left
    that is nearest to left + up - upper left."""
    seen = np.zeros((len(rows) + 1, rows.shape[1] + stride), np.int16)
    seen[1:, stride:] = rows
    seen[0, stride:] = above
    left, up, corner = seen[1:, :-stride], seen[:-1, stride:], seen[:-1, :-stride]
    to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    nearest = np.where(to_up <= to_corner, up, corner)
    nearest = np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest)
    return (seen[1:, stride:] - nearest).astype(np.uint8)


def write_png(path, pixels, icc=None, exif=None, xmp=None, dpi=None):
    """[H, W, C] uint8 or uint16 as PNG; C: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha."""
    height, width, channels = pixels.shape

    def bytes_of(rows):
        return np.ascontiguousarray(rows, rows.dtype.newbyteorder(">")).view(np.uint8).reshape(-1, stride * width)

    stride = channels * pixels.itemsize
    with open(path, "wb") as f:
        def chunk(name, data):
            f.write(struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data)))

        f.write(b"\x89PNG\r\n\x1a\n")
        chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8 * pixels.itemsize, (0, 4, 2, 6)[channels - 1], 0, 0, 0))
        if icc:
            chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
        if dpi:
            chunk(b"pHYs", struct.pack(">LLB", *(round(d / 0.0254) for d in dpi), 1))
        if exif:
            chunk(b"eXIf", exif)
        if xmp:
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        deflate = zlib.compressobj()
        for above, rows in _bands(pixels):
            lines = np.full((len(rows), 1 + stride * width), 4, np.uint8)
            lines[:, 1:] = _paeth(0 if above is None else bytes_of(above)[0], bytes_of(rows), stride)
            if data := deflate.compress(lines):
                chunk(b"IDAT", data)
        chunk(b"IDAT", deflate.flush())
        chunk(b"IEND", b"")


def directory(exif):
    """An EXIF block as a TIFF directory, its groups of tags inside."""
    block, tags = Image.Exif(), TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    block.load(exif)
    for tag in block:
        tags[tag] = block.get_ifd(tag) if tag in GROUPS else block[tag]
    return tags


def write_tiff(path, pixels, icc=None, exif=None, xmp=None, dpi=None):
    """[H, W, C] as `write_png` takes it, as TIFF: strips, horizontal differences, deflated."""
    height, width, channels = pixels.shape
    strips, rows = [], max(1, (1 << 18) // pixels[0].nbytes)
    for top in range(0, height, rows):
        strip = pixels[top:top + rows].astype(pixels.dtype.newbyteorder("<"))
        strip[:, 1:] -= pixels[top:top + rows, :-1]
        strips.append(zlib.compress(strip.tobytes()))
    tags = directory(exif) if exif else TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    tags[256], tags[257], tags[258], tags[259] = width, height, (8 * pixels.itemsize,) * channels, 8
    tags[262], tags[274], tags[277], tags[278] = 2 if channels > 2 else 1, 1, channels, rows
    tags[284], tags[317], tags[339] = 1, 2, (1,) * channels
    tags.tagtype[273] = tags.tagtype[279] = 4
    sizes = [len(strip) for strip in strips]
    tags[273], tags[279] = tuple(np.cumsum([0, *sizes[:-1]]).tolist()), tuple(sizes)  # from where the directory ends
    if channels in (2, 4):
        tags[338] = 2  # unassociated
    if dpi:
        tags[282], tags[283], tags[296] = dpi[0], dpi[1], 2
    if icc:
        tags.tagtype[34675], tags[34675] = 7, icc
    if xmp:
        tags.tagtype[700], tags[700] = 1, xmp
    with open(path, "wb") as f:
        tags.save(f)
        f.writelines(strips)
