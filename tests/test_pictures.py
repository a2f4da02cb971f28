"""Laws of picture files: what a file says comes back, whatever its kind; a broken one is one line."""

import io
import os
import pathlib
import resource
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from pydicom.data import get_testdata_file

from cdm.images.encode import write_png
from cdm.images.pictures import FORMATS, TURNS, Picture, fit, header, read, upright_exif, write
from cdm.images.provenance import SOURCE, provenance, upright

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(channels, dtype=np.uint8, shape=(13, 11), seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (*shape, channels), dtype, endpoint=True)


def smooth(shape=(12, 20), seed=0):
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(blocks).resize(shape[::-1], Image.Resampling.BICUBIC)


def encoded(image, format, **options):
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def camera(orientation=6):
    """An EXIF block with what cameras write: texts, fractions, a place, a maker's note, its own size."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0132] = "Maker", orientation, "2024:01:02 03:04:05"
    exif[0x8769] = {0x829A: (1, 250), 0x927C: b"\x01\x02note", 0xA002: 20, 0xA003: 12}
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.5)}
    return exif.tobytes()


def inner(exif, group=0x8769):
    block = Image.Exif()
    block.load(exif)
    return dict(block.get_ifd(group))


def outer(exif):
    block = Image.Exif()
    block.load(exif)
    return {tag: block[tag] for tag in block if tag not in (0x8769, 0x8825)}


LOSSLESS = [(format, channels, dtype) for format, dtypes in (("png", "BH"), ("tiff", "BH"), ("webp", "B"))
            for dtype in dtypes for channels in (1, 2, 3, 4)]


@pytest.mark.parametrize("format, channels, dtype", LOSSLESS)
def test_pixels_and_all_that_is_said_come_back(format, channels, dtype, tmp_path):
    pixels = noise(channels, np.dtype(dtype))
    picture = Picture(pixels, format, SRGB, camera(1)[6:], provenance({"a": "<&>"}), (300.0, 150.0))
    picture = fit(picture, format, pixels.shape[:2])
    path = tmp_path / f"a{FORMATS[format]}"
    write(path, picture)
    if (format, channels, dtype) == ("tiff", 2, "H"):
        return  # which Pillow does not read
    back = read(path.read_bytes())
    if format == "webp" and channels < 3:  # which has no grey
        assert (back.pixels[..., :3] == pixels[..., :1]).all()
    else:
        assert back.pixels.dtype == pixels.dtype and (back.pixels == pixels).all()
    assert header(path.read_bytes()) == (13, 11, format)
    assert (back.format, back.icc, back.notes) == (format, SRGB, ()) and SOURCE.encode() in back.xmp
    assert outer(back.exif) == outer(picture.exif)
    assert inner(back.exif) == inner(picture.exif) and inner(back.exif, 0x8825) == inner(picture.exif, 0x8825)
    if format == "png":
        assert back.exif == picture.exif and back.xmp == picture.xmp
    if format != "webp":
        np.testing.assert_allclose(back.dpi, (300, 150), rtol=1e-3)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_many_bands_are_one_png(monkeypatch, tmp_path):
    monkeypatch.setattr("cdm.images.encode.BAND", 200)
    for channels, dtype in ((1, np.uint8), (3, np.uint16)):
        write_png(tmp_path / "a.png", noise(channels, dtype))
        assert (read((tmp_path / "a.png").read_bytes()).pixels == noise(channels, dtype)).all()


def test_jpeg_keeps_grey_profile_exif_xmp_and_resolution(tmp_path):
    for channels in (1, 3):
        pixels = np.asarray(smooth().convert("L" if channels == 1 else "RGB")).reshape(12, 20, channels)
        write(tmp_path / "a.jpg", fit(Picture(pixels, "jpeg", SRGB, camera(1)[6:], provenance({}), (72, 72)), "jpeg",
                                      (12, 20)))
        back = read((tmp_path / "a.jpg").read_bytes())
        assert np.abs(back.pixels.astype(int) - pixels).mean() < 2 and back.pixels.shape == pixels.shape
        assert (back.icc, back.exif, back.dpi) == (SRGB, upright_exif(camera(1), (12, 20)), (72, 72))
        assert SOURCE.encode() in back.xmp


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation):
    image = smooth()
    data = encoded(image, "PNG", exif=camera(orientation))
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    picture = read(data)
    assert (picture.pixels == expected).all() and header(data)[:2] == picture.pixels.shape[:2]
    assert outer(picture.exif)[0x0112] == 1
    assert (inner(picture.exif)[0xA003], inner(picture.exif)[0xA002]) == picture.pixels.shape[:2]


def test_the_rest_of_an_exif_block_stays_byte_by_byte():
    before, after = camera(6)[6:], upright_exif(camera(6), (48, 80))
    differ = [i for i in range(len(before)) if before[i] != after[i]]
    assert len(before) == len(after) and 0 < len(differ) <= 20
    assert upright_exif(b"Exif\0\0nonsense", (1, 1)) is None and upright_exif(before[:30], (1, 1)) is None


def test_a_tag_that_is_there_twice_moves_nothing():
    entry = struct.pack("<HHLL", 0x0100, 4, 1, 7)
    block = b"II*\0" + struct.pack("<LH", 8, 3) + entry + entry + struct.pack("<HHLHH", 0x0112, 3, 1, 6, 0)
    upright_ = block[:-4] + struct.pack("<HH", 1, 0)
    assert upright_exif(block + b"\1\2\3\4", (1, 1)) == upright_ + bytes(4)


def test_what_a_picture_has_no_place_for_is_told():
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">L", 45455))
    info.add_text("Author", "somebody")
    info.add_itxt("XML:com.adobe.xmp", provenance({}).decode())
    assert read(encoded(smooth(), "PNG", pnginfo=info)).notes == ("its gamma is left out", "its texts are left out")
    record = b"\x1c\x02\x50\0\4Name"
    block = b"Photoshop 3.0\08BIM\4\4\0\0" + struct.pack(">L", len(record)) + record + b"\0"
    jpeg = encoded(smooth(), "JPEG")
    with_iptc = jpeg[:2] + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]
    assert read(jpeg).notes == () and read(with_iptc).notes == ("its IPTC records are left out",)
    assert read(encoded(smooth(), "JPEG", comment="a word")).notes == ("its texts are left out",)


def test_a_tiff_of_its_own_says_the_same_as_a_png(tmp_path):
    exif = Image.Exif()
    exif.load(camera(8))
    data = encoded(smooth(), "TIFF", exif=exif, icc_profile=SRGB, dpi=(96, 96))
    picture = read(data)
    assert picture.pixels.shape == (20, 12, 3) and header(data) == (20, 12, "tiff")
    assert (picture.pixels == TURNS[8](np.asarray(smooth()))).all()
    assert picture.dpi == (96, 96) and picture.icc == SRGB
    assert outer(picture.exif) == {0x010F: "Maker", 0x0132: "2024:01:02 03:04:05"}
    assert inner(picture.exif)[0x927C] == b"\x01\x02note" and inner(picture.exif, 0x8825)[1] == "N"


def test_grey_palette_bits_and_cmyk():
    image = smooth()
    for mode, channels in (("L", 1), ("1", 1), ("P", 3), ("LA", 2), ("RGBA", 4), ("RGB", 3)):
        picture = read(encoded(image.convert(mode), "PNG"))
        assert picture.pixels.shape == (12, 20, channels) and picture.pixels.dtype == np.uint8
        np.testing.assert_array_equal(picture.pixels.squeeze(), np.asarray(image.convert(mode).convert(
            {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels])))
    assert "palette" in read(encoded(image.convert("P"), "PNG")).notes[0]
    see_through = encoded(image.quantize(8), "PNG", transparency=bytes([0, 128, 255, 255, 255, 255, 255, 255]))
    assert {0, 128} <= set(read(see_through).pixels[..., 3].flat)
    picture = read(encoded(image.convert("CMYK"), "JPEG", quality=100))
    assert picture.notes == ("CMYK became sRGB",) and picture.icc is None
    assert np.abs(picture.pixels.astype(int) - np.asarray(image)).mean() < 3


def test_lab_goes_through_its_profile_and_cmyk_with_a_broken_one_does_without():
    lab = read(encoded(Image.new("LAB", (3, 2), (128, 128, 128)), "TIFF"))  # L = 50
    assert lab.notes == ("LAB became sRGB",) and np.abs(lab.pixels.astype(int) - 119).max() <= 2
    cmyk = smooth().convert("CMYK")
    plain, broken = (read(encoded(cmyk, "TIFF", icc_profile=icc)) for icc in (None, b"no profile"))
    assert (plain.pixels == broken.pixels).all() and broken.icc is None


def sixteen(pixels, colour, extra=b"", interlaced=False):
    """A PNG of 16 bits as another program would write it: no filters, its colour type, chunks before the pixels."""
    def chunk(name, data):
        return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))

    passes = [pixels]
    if interlaced:
        passes = [pixels[y::dy, x::dx] for x, y, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4),
                                                            (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in passes if part.size for row in part)
    head = struct.pack(">LLBBBBB", pixels.shape[1], pixels.shape[0], 16, colour, 0, 0, int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


@pytest.mark.parametrize("interlaced", (False, True))
@pytest.mark.parametrize("channels, colour", ((1, 0), (2, 4), (3, 2), (4, 6)))
def test_16_bits_of_other_programs(channels, colour, interlaced):
    pixels = noise(channels, np.uint16)
    assert (read(sixteen(pixels, colour, interlaced=interlaced)).pixels == pixels).all()


@pytest.mark.parametrize("channels, colour", ((1, 0), (3, 2)))
def test_the_transparent_colour_of_16_bits_is_alpha(channels, colour):
    pixels = noise(channels, np.uint16)
    key = pixels[3, 4].astype(">u2").tobytes()
    data = struct.pack(">L", len(key)) + b"tRNS" + key + struct.pack(">L", zlib.crc32(b"tRNS" + key))
    picture = read(sixteen(pixels, colour, data))
    assert (picture.pixels[..., :channels] == pixels).all()
    assert (np.argwhere(picture.pixels[..., channels] == 0) == [[3, 4]]).all()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("extra", (None, 2, 1))
def test_16_bit_tiffs_of_either_order_and_of_colour_times_alpha(order, extra):
    pixels = noise(4 if extra else 3, np.uint16)
    stored = pixels.copy()
    if extra == 1:  # stored as colour times alpha
        pixels[..., 3] |= 0xF000
        stored = pixels.copy()
        stored[..., :3] = np.rint(pixels[..., :3] * (pixels[..., 3:] / 65535))
    data = stored.astype(order + "u2").tobytes()
    entries = [(256, 3, 1, 11), (257, 3, 1, 13), (258, 3, 0, 0), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 0),
               (277, 3, 1, stored.shape[2]), (278, 3, 1, 13), (279, 4, 1, len(data))]
    entries += [(338, 3, 1, extra)] if extra else []
    end = 8 + 2 + 12 * len(entries) + 4
    bits = struct.pack(order + f"{stored.shape[2]}H", *[16] * stored.shape[2])
    lines = b"".join(
        struct.pack(order + "HHL", tag, kind, stored.shape[2] if tag == 258 else count)
        + (struct.pack(order + "HH", value, 0) if kind == 3 and tag != 258 else
           struct.pack(order + "L", {258: end, 273: end + len(bits)}.get(tag, value)))
        for tag, kind, count, value in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8)
    picture = read(head + struct.pack(order + "H", len(entries)) + lines + b"\0\0\0\0" + bits + data)
    assert picture.pixels.dtype == np.uint16
    assert np.abs(picture.pixels.astype(int) - pixels).max() <= (1 if extra == 1 else 0) and picture.dpi is None


def test_what_holds_several_pictures_or_floats_is_refused():
    frames = [smooth(seed=i) for i in range(3)]
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        with pytest.raises(ValueError, match="holds 3 pictures"):
            read(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
    with pytest.raises(ValueError, match="32 bits"):
        read(encoded(Image.new("F", (3, 3)), "TIFF"))
    several = read(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    assert several.format == "jpeg" and several.notes == ("its further pictures are left out",)


def test_a_large_picture_is_no_bomb():
    data = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    before = Image.MAX_IMAGE_PIXELS
    assert header(data) == (10_000, 20_000, "png") and Image.MAX_IMAGE_PIXELS == before


def test_what_a_format_can_not_hold_is_known_before():
    alpha = Picture(noise(4))
    with pytest.raises(ValueError, match="`format` .=jpeg. must hold transparency"):
        fit(alpha, "jpeg", (13, 11))
    with pytest.raises(ValueError, match="20000x10 pixels"):
        fit(alpha, "webp", (10, 20_000))
    with pytest.raises(ValueError, match="`format` .=bmp."):
        fit(alpha, "bmp", (13, 11))
    with pytest.raises(ValueError, match="`format` .=tiff. must hold 30000x30000 pixels; a file has 4 GiB"):
        fit(Picture(noise(4, np.uint16)), "tiff", (30_000, 30_000))
    assert [note.split()[0] for note in fit(Picture(noise(1), dpi=(72, 72)), "webp", (1, 1)).notes] == ["grey", "its"]
    assert "16 bits became 8" in fit(Picture(noise(3, np.uint16)), "webp", (1, 1)).notes[0]
    long = fit(Picture(noise(3), exif=camera()[6:] + bytes(70_000), xmp=bytes(70_000)), "jpeg", (1, 1))
    assert long.exif is None and long.xmp is None and len(long.notes) == 2


def test_provenance_is_added_to_what_a_picture_says_and_replaces_what_was_said_of_its_source():
    first = provenance({"seed": 1})
    theirs = first.replace(b"<cdm:made>", b'<dc:title xmlns:dc="x">T</dc:title><cdm:made>')
    again = provenance({"seed": 2}, theirs).decode()
    assert again.count(SOURCE) == 1 and "T</dc:title>" in again and '{"seed": 2}' in again and "seed\": 1" not in again
    camera_made = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="r"><rdf:Description
        xmlns:Iptc4xmpExt="i" Iptc4xmpExt:DigitalSourceType="digitalCapture" tiff:Orientation="6"/>
        </rdf:RDF></x:xmpmeta>"""
    now = provenance({}, upright(camera_made)).decode()
    assert "digitalCapture" not in now and SOURCE in now and 'tiff:Orientation="1"' in now
    ElementTree.fromstring(provenance({"a": "<&>"}, b"no xmp").decode().split("?>", 1)[1])


def test_a_full_disk_leaves_nothing(tmp_path):
    """The limit of a file's size stands in for the disk's end."""
    scan = pathlib.Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes()
    picture = Picture(noise(3, shape=(200, 200)), source=read(scan).source)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for format in FORMATS:
        write(tmp_path / "a", picture._replace(format=format))
        before = (tmp_path / "a").read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            with pytest.raises(OSError):
                write(tmp_path / "a", picture._replace(format=format))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == before


def malformed(count=200, seed=0):
    """Broken files of every kind: cut short, bits turned, another's name, with what cameras write in them."""
    random, exif = np.random.default_rng(seed), camera()
    big = smooth((16, 24))
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", provenance({}).decode())
    whole = [encoded(big, "PNG", exif=exif, icc_profile=SRGB, pnginfo=info),
             encoded(big, "JPEG", exif=exif, icc_profile=SRGB),
             encoded(big, "JPEG", progressive=True), encoded(big, "WEBP", exif=exif, icc_profile=SRGB),
             encoded(big, "TIFF", compression="tiff_lzw", dpi=(96, 96), icc_profile=SRGB), encoded(big, "TIFF"),
             encoded(big.convert("P"), "GIF"), encoded(big, "BMP"), encoded(big, "PPM"),
             encoded(big.convert("CMYK"), "JPEG"), encoded(big.convert("P"), "PNG", transparency=3),
             sixteen(noise(4, np.uint16, (12, 16)), 6), sixteen(noise(3, np.uint16, (12, 16)), 2, interlaced=True)]
    for i in range(count):
        data = whole[i % len(whole)]
        kind = ("cut", "turned", "both", "filled", "named")[i // len(whole) % 5]
        if kind in ("cut", "both"):
            data = data[:random.integers(0, len(data))]
        if kind in ("turned", "both"):
            turned = bytearray(data)
            for at in random.integers(0, max(len(data), 1), random.integers(1, 20)) if data else ():
                turned[at] ^= 1 << random.integers(8)
            data = bytes(turned)
        if kind == "filled":
            at = random.integers(0, len(data))
            data = data[:at] + random.bytes(len(data) - at)
        yield f"{i:03d}_{kind}{('.png', '.jpg', '.tif', '.webp')[i % 4]}", data


def test_a_malformed_file_is_a_picture_or_one_line():
    read_, refused = 0, 0
    for name, data in malformed(600):
        try:
            height, width, _ = header(data)
            if height * width > 100_000:  # as a limit of pixels would
                refused += 1
                continue
            picture = read(data)
            assert picture.pixels.shape[:2] == (height, width) and picture.pixels.dtype in (np.uint8, np.uint16)
            fit(picture, "tiff", (height, width))
            read_ += 1
        except ValueError as e:
            assert "\n" not in str(e) and str(e), name
            refused += 1
    assert read_ > 100 and refused > 200
