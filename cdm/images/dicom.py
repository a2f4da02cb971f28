"""One picture in a DICOM file (PS3.3, PS3.10; extra [dicom]): its values in and out, its records at another size.

Grey of up to 16 bits becomes p = (v - low) / (high - low), low and high the least and the largest value that the
picture has, white and black changed for MONOCHROME1, and comes back as v = low + p (high - low), rounded: where nothing
is enlarged, to the same value. What is written is a derived picture, which the standard wants said: image type, source,
a description, its own UIDs; one for the series too, that of all pictures enlarged from a series. Sizes of pixels follow
its size, and the place of the first pixel's centre.
"""

import fractions
import hashlib
import io
import uuid
import warnings
from typing import NamedTuple

import numpy as np

from cdm.images.files import Unreadable

SUFFIX = ".dcm"
# What counts in pixels of the picture as it was, or vouches for its bytes.
LEFT = ("ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge",
        "ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter",
        "VerticesOfThePolygonalShutter", "CollimatorShape", "CollimatorLeftVerticalEdge", "CollimatorRightVerticalEdge",
        "CollimatorUpperHorizontalEdge", "CollimatorLowerHorizontalEdge", "CenterOfCircularCollimator",
        "RadiusOfCircularCollimator", "VerticesOfThePolygonalCollimator", "SequenceOfUltrasoundRegions",
        "IconImageSequence", "SmallestImagePixelValue", "LargestImagePixelValue", "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths", "DigitalSignaturesSequence", "MACParametersSequence",
        "EncryptedAttributesSequence")
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
MOST = 65535  # rows and columns
DERIVED = "Enlarged by a generative model: its detail is invented, not evidence. Not for identification or diagnosis."


class Dicom(NamedTuple):
    """The file that a picture came from, and what its pixels mean."""

    data: bytes
    low: int
    high: int
    notes: tuple  # what of its records a derived picture leaves out


def is_dicom(data):
    """Whether the bytes of a file begin as those of DICOM do."""
    return data[128:132] == b"DICM"


def _dataset(data, **options):
    """The records in the bytes of a file; Unreadable if it is not read."""
    try:
        import pydicom
    except ImportError as e:
        raise Unreadable("is DICOM, which needs pip install '.[dicom]'") from e
    records = pydicom.dcmread(io.BytesIO(data), **options)
    for name, ok, rule in (
            ("NumberOfFrames", int(records.get("NumberOfFrames") or 1) == 1, "one picture can be read"),
            ("SharedFunctionalGroupsSequence", "SharedFunctionalGroupsSequence" not in records,
             "records of enhanced pictures are not read"),
            ("TransferSyntaxUID", records.original_encoding[1], "big endian, which the standard retired, is not read"),
            ("BitsAllocated", records.get("BitsAllocated") in (8, 16), "8 and 16 can be read"),
            ("PhotometricInterpretation", str(records.get("PhotometricInterpretation")).startswith(
                ("MONOCHROME", "RGB", "YBR")), "grey, RGB and YBR can be read")):
        if not ok:
            said = records.get(name)
            raise Unreadable(f"is DICOM with {name} {said if isinstance(said, (int, str)) else ''}".rstrip()
                             + f": {rule}")
    return records


def header(data):
    """(height, width) of the picture in the bytes of a file; its pixels are not decoded."""
    records = _dataset(data, stop_before_pixels=True)
    return int(records.Rows), int(records.Columns)


def read(data):
    """(pixels [H, W, 1 or 3] uint8 or uint16, Dicom) of the bytes of a file; 8 bits without sign as they are."""
    records = _dataset(data)  # which tells if pydicom is missing
    from pydicom.pixels import pixel_array

    values = pixel_array(records)
    values = values[..., None] if values.ndim == 2 else values
    if values.shape not in ((records.Rows, records.Columns, channels) for channels in (1, 3)):
        raise Unreadable(f"is DICOM of {records.Columns}x{records.Rows}, and its pixels are {list(values.shape)}")
    grey, stored, signed = values.shape[2] == 1, int(records.BitsStored), bool(records.PixelRepresentation)
    if signed and not grey:
        raise Unreadable("is DICOM of colour with sign, which the standard does not know")
    low, high, least = int(values.min()), int(values.max()), -(1 << stored - 1) if signed else 0
    if low < least or high >= least + (1 << stored):  # where a decoder does not heed it
        raise Unreadable(f"is DICOM with BitsStored {stored}, and its pixels have more")
    if not grey or stored == 8 and not signed:
        low, high = 0, (1 << stored) - 1
    deep = values.dtype.itemsize == 2 or signed
    white = 65535 if deep else 255
    pixels = np.rint((values.astype(np.float64) - low) * (white / max(high - low, 1)))
    pixels = white - pixels if records.PhotometricInterpretation == "MONOCHROME1" else pixels
    named, overlays = _left(records)
    left = [*named, *(["overlays"] if overlays else [])]
    notes = (f"its {', '.join(left)} {'is' if len(left) == 1 else 'are'} left out",) if left else ()
    return pixels.astype(np.uint16 if deep else np.uint8), Dicom(data, low, high, notes)


def _left(records):
    """What a derived picture leaves out of the records: (names of LEFT, tags of overlays)."""
    return ([name for name in LEFT if name in records],
            [tag for tag in records.keys() if 0x6000 <= tag.group <= 0x60FF])


def _uid(*of):
    """A UID (PS3.5, B.2) that is a function of what it is of."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join(map(str, of))).int}"


def _sizes(records, shape):
    """Bring what tells of the size of pixels to a picture of `shape` (height, width)."""
    from pydicom.valuerep import DSfloat

    def numbers(name):
        return np.array([float(value) for value in records.get(name) or ()])

    def say(name, values):
        records[name].value = [DSfloat(float(value), auto_format=True) for value in values]

    ratios = np.array([records.Rows / shape[0], records.Columns / shape[1]])
    place, turn, spacing = map(numbers, ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    if place.size and turn.size and spacing.size:
        along_columns, along_rows = turn.reshape(2, 3)
        rows, columns = spacing * (ratios - 1) / 2
        say("ImagePositionPatient", place + along_columns * columns + along_rows * rows)
    for name in SPACINGS:
        if (spacing := numbers(name)).size:
            say(name, spacing * ratios)
    if records.get("PixelAspectRatio"):
        ratio = fractions.Fraction(records.PixelAspectRatio[0]) / fractions.Fraction(records.PixelAspectRatio[1])
        ratio *= fractions.Fraction(records.Rows * shape[1], shape[0] * records.Columns)
        records.PixelAspectRatio = [*map(str, ratio.limit_denominator(10_000).as_integer_ratio())]
    records.Rows, records.Columns = shape


def _write(file, source, shape, values, said=None):
    """Write the records of the Dicom `source`, derived, with the bytes of `values` of a picture of `shape`."""
    from pydicom.dataset import Dataset
    from pydicom.uid import ExplicitVRLittleEndian

    records = _dataset(source.data)
    named, overlays = _left(records)
    for key in (*named, *overlays):
        del records[key]
    if records.SamplesPerPixel == 3:
        records.PhotometricInterpretation, records.PlanarConfiguration = "RGB", 0
    _sizes(records, shape)
    records.HighBit, records.PixelData = records.BitsStored - 1, values + b"\0" * (len(values) % 2)
    records["PixelData"].VR = "OW" if records.BitsAllocated == 16 else "OB"
    before = Dataset()
    before.ReferencedSOPClassUID, before.ReferencedSOPInstanceUID = records.SOPClassUID, records.SOPInstanceUID
    records.SourceImageSequence, records.DerivationDescription = [before], DERIVED
    kinds = records.get("ImageType") or ()
    records.ImageType = ["DERIVED", "SECONDARY", *([] if isinstance(kinds, str) else kinds[2:])]
    if records.get("SeriesInstanceUID"):
        records.SeriesInstanceUID = _uid("cdm", records.SeriesInstanceUID)
    records.SOPInstanceUID = _uid(before.ReferencedSOPInstanceUID, hashlib.sha256(values).hexdigest())
    if said:  # but for the mark of byte order, which most character sets have not
        records.private_block(0x0013, "cdm", create=True).add_new(0x01, "UT", said.decode().replace("\ufeff", ""))
    records.file_meta.MediaStorageSOPInstanceUID = records.SOPInstanceUID
    records.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    records.save_as(file, implicit_vr=False, little_endian=True, enforce_file_format=True)


def check(source, shape):
    """Raise, of any type, what is wrong with the records of a Dicom if a picture of `shape` derived from it can not be
    written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _write(io.BytesIO(), source, shape, b"", b"said")


def write(path, pixels, source, said=None):
    """Write [H, W, C] as `read` gave them, of any size, as a picture derived from the Dicom `source`; `said`: more on
    how it was made, bytes of text, as a private record of "cdm"."""
    with warnings.catch_warnings(), open(path, "wb") as f:
        warnings.simplefilter("ignore")
        records, white = _dataset(source.data, stop_before_pixels=True), np.iinfo(pixels.dtype).max
        values = white - pixels if records.PhotometricInterpretation == "MONOCHROME1" else pixels
        values = np.rint(source.low + values * ((source.high - source.low) / white))
        kind = "<i" if records.PixelRepresentation else "<u"
        values = values.astype(f"{kind}{records.BitsAllocated // 8}").tobytes()
        _write(f, source, pixels.shape[:2], values, said)
