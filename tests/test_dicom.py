"""Laws of DICOM: values come back, a derived picture lies where the first one lay, and everything else is one line.

The files are pydicom's own examples of scanners and of encoders."""

import io
import pathlib

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.pixels import pixel_array
from pydicom.tag import Tag
from pydicom.uid import RLELossless

from cdm import cli
from cdm.images.dicom import DERIVED, is_dicom
from cdm.images.files import Unreadable
from cdm.images.pictures import Picture, fit, header, read, write
from cdm.images.resize import resize

# Grey with sign, of 16 and of 12 bits, with an overlay, of RLE, of JPEG 2000, implicit, deflated; RGB and YBR.
GREY = ("CT_small.dcm", "examples_overlay.dcm", "MR_small_RLE.dcm", "693_J2KI.dcm", "MR_small_implicit.dcm",
        "image_dfl.dcm", "J2K_pixelrep_mismatch.dcm")
COLOUR = ("SC_rgb_small_odd.dcm", "SC_rgb_rle_16bit.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm", "examples_rgb_color.dcm")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of what old files have otherwise


def data_of(name):
    return pathlib.Path(get_testdata_file(name, download=False)).read_bytes()


def written(records):
    out = io.BytesIO()
    records.save_as(out, enforce_file_format=True)
    return out.getvalue()


def enlarged(picture, times, path):
    """The records of a Picture written as DICOM with every pixel `times` (of rows, of columns) as it is."""
    pixels = picture.pixels.repeat(times[0], 0).repeat(times[1], 1)
    write(path, fit(picture, "dicom", pixels.shape[:2])._replace(pixels=pixels))
    return pydicom.dcmread(path)


@pytest.mark.parametrize("name", (*GREY, *COLOUR))
def test_values_come_back(name, tmp_path):
    data = data_of(name)
    picture, before = read(data), pydicom.dcmread(io.BytesIO(data))
    assert is_dicom(data) and header(data) == (*picture.pixels.shape[:2], "dicom")
    after = enlarged(picture, (1, 1), tmp_path / "a.dcm")
    np.testing.assert_array_equal(pixel_array(after), pixel_array(before))
    again = read((tmp_path / "a.dcm").read_bytes())
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    larger = enlarged(picture, (2, 3), tmp_path / "b.dcm")
    assert (larger.Rows, larger.Columns) == (2 * before.Rows, 3 * before.Columns)
    np.testing.assert_array_equal(pixel_array(larger)[1::2, 2::3], pixel_array(before))
    # What the values mean stays: their unit, and the window that they are shown in.
    for element in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "PatientName",
                    "StudyInstanceUID", "BitsStored", "PixelRepresentation"):
        assert larger.get(element) == before.get(element)


def test_black_and_white_are_the_values_that_there_are(tmp_path):
    picture = read(data_of("CT_small.dcm"))
    assert (picture.pixels.min(), picture.pixels.max()) == (0, 65535) and picture.pixels.dtype == np.uint16
    records = pydicom.dcmread(io.BytesIO(data_of("CT_small.dcm")))
    records.PhotometricInterpretation = "MONOCHROME1"
    inverted = read(written(records))
    np.testing.assert_array_equal(inverted.pixels, 65535 - picture.pixels)
    np.testing.assert_array_equal(pixel_array(enlarged(inverted, (1, 1), tmp_path / "a.dcm")), pixel_array(records))
    records.PixelData = np.full((128, 128), -7, "<i2").tobytes()  # of one value
    flat = read(written(records))
    assert (pixel_array(enlarged(flat, (2, 2), tmp_path / "b.dcm")) == -7).all()


@pytest.mark.parametrize("times", ((4, 4), (2, 3)))
def test_the_picture_lies_where_it_lay(times, tmp_path):
    """The corner of the first pixel and the one opposite, in millimetres of the patient (PS3.3, C.7.6.2.1.1)."""
    records = pydicom.dcmread(io.BytesIO(data_of("CT_small.dcm")))
    records.PixelSpacing = [0.75, 0.5]
    records.ImageOrientationPatient = [0.6, 0.8, 0.0, 0.0, 0.0, -1.0]  # an oblique slice

    def corners(records):
        x, y = np.reshape(np.array(records.ImageOrientationPatient, float), (2, 3))
        rows, columns = map(float, records.PixelSpacing)
        place = np.array(records.ImagePositionPatient, float)
        return [place + x * columns * (j - 0.5) + y * rows * (i - 0.5)
                for i, j in ((0, 0), (records.Rows, records.Columns))]

    before = corners(records)
    after = corners(enlarged(read(written(records)), times, tmp_path / "a.dcm"))
    assert not np.allclose(before[0], before[1])
    np.testing.assert_allclose(after, before, atol=1e-9)


def test_it_says_that_it_is_derived(tmp_path):
    picture = read(data_of("CT_small.dcm"))
    before = pydicom.dcmread(io.BytesIO(data_of("CT_small.dcm")))
    one, same = (enlarged(picture, (2, 2), tmp_path / name) for name in "ab")
    other = enlarged(picture, (4, 4), tmp_path / "c")
    assert one.ImageType[:2] == ["DERIVED", "SECONDARY"] and one.DerivationDescription == DERIVED
    assert one.SourceImageSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID == same.SOPInstanceUID
    assert len({before.SOPInstanceUID, one.SOPInstanceUID, other.SOPInstanceUID}) == 3
    assert one.SeriesInstanceUID == other.SeriesInstanceUID != before.SeriesInstanceUID
    assert all(uid.is_valid for uid in (one.SOPInstanceUID, one.SeriesInstanceUID))
    picture = read(data_of("examples_overlay.dcm"))
    left = enlarged(picture, (1, 1), tmp_path / "d")
    assert not [tag for tag in left.keys() if tag.group == 0x6000] and "IconImageSequence" not in left
    assert "overlays" in fit(picture, "dicom", (300, 484)).notes[0]


@pytest.mark.parametrize("data, why", (
    (lambda: data_of("SC_rgb_rle_2frame.dcm"), "NumberOfFrames 2: one picture"),
    (lambda: data_of("rtdose_1frame.dcm"), "BitsAllocated 32"),
    (lambda: data_of("MR_small_bigendian.dcm"), "big endian"),
    (lambda: data_of("examples_palette.dcm"), "PALETTE COLOR"),
    (lambda: data_of("liver_1frame.dcm"), "enhanced pictures"),
    (lambda: data_of("rtplan.dcm"), "BitsAllocated"),
    (lambda: data_of("MR_truncated.dcm"), "less than expected"),
    (lambda: data_of("badVR.dcm"), "ValueError"),
    (lambda: data_of("JPEGLSNearLossless_08.dcm"), "JPEG-LS")))
def test_what_can_not_be_read_is_a_line(data, why):
    with pytest.raises(Unreadable) as e:
        read(data())
    assert why in str(e.value) and "\n" not in str(e.value)


def test_broken_files_are_lines(tmp_path):
    data, rng = data_of("MR_small.dcm"), np.random.default_rng(0)
    read_whole = 0
    for i in range(60):
        broken = bytearray(data[:int(rng.integers(132, len(data)))] if i % 2 else data)
        for place in rng.integers(132, 1500, 4 * (1 - i % 2)):
            if place < len(broken):
                broken[place] ^= 1 << int(rng.integers(8))
        try:
            picture = read(bytes(broken))
            read_whole += 1
            fitting = fit(picture, "dicom", picture.pixels.shape[:2])
        except ValueError as e:
            assert "\n" not in str(e)
        else:  # once the work is done there is no way back
            write(tmp_path / "a.dcm", fitting)
    assert 0 < read_whole < 60


def recorded(**values):
    """A file of CT_small with records of these raw bytes, without those that are None."""
    records = pydicom.dcmread(io.BytesIO(data_of("CT_small.dcm")))
    for name, value in values.items():
        tag = Tag(tag_for_keyword(name))
        if value is None:
            del records[tag]
        else:
            records[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
    out = io.BytesIO()
    records.save_as(out)
    return out.getvalue()


@pytest.mark.parametrize("values, why", (
    ({"SOPInstanceUID": None}, "SOPInstanceUID"), ({"SOPClassUID": None}, "SOPClassUID"),
    ({"PixelSpacing": b"much"}, "convert"), ({"PixelSpacing": b"1\\1\\1 "}, "broadcast"),
    ({"ImageOrientationPatient": b"1\\0 "}, "reshape"), ({"ImagePositionPatient": b"1\\0 "}, "broadcast"),
    ({"PixelAspectRatio": b"0\\0 "}, "Fraction")))
def test_records_that_can_not_be_written_are_a_line_before_there_is_work(values, why):
    picture = read(recorded(**values))
    with pytest.raises(ValueError, match="^`format` .=dicom. must hold its records") as e:
        fit(picture, "dicom", (256, 256))
    assert why in str(e.value) and "\n" not in str(e.value)
    fit(picture, "png", (256, 256))


@pytest.mark.parametrize("name", ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "ImageType",
                                  "PixelAspectRatio", "SeriesInstanceUID", "NumberOfFrames"))
def test_records_may_be_empty(name, tmp_path):
    after = enlarged(read(recorded(**{name: b""})), (2, 2), tmp_path / "a.dcm")
    assert after.ImageType[:2] == ["DERIVED", "SECONDARY"] and (name == "ImageType" or not after[name].value)


def test_an_image_type_may_have_one_value(tmp_path):
    after = enlarged(read(recorded(ImageType=b"ORIGINAL")), (1, 1), tmp_path / "a.dcm")
    assert after.ImageType == ["DERIVED", "SECONDARY"]


def test_pixels_of_more_pictures_than_a_file_says_are_refused():
    records = pydicom.dcmread(io.BytesIO(data_of("CT_small.dcm")))
    records.PixelData = 3 * records.PixelData
    with pytest.raises(Unreadable, match="its pixels are"):
        read(written(records))


def test_offsets_into_compressed_pixels_go(tmp_path):
    records = pydicom.dcmread(io.BytesIO(data_of("CT_small.dcm")))
    records.compress(RLELossless, encapsulate_ext=True)
    after = enlarged(read(written(records)), (2, 2), tmp_path / "a.dcm")
    assert "ExtendedOffsetTable" in records and "ExtendedOffsetTable" not in after


@pytest.mark.parametrize("name, bits", (("SC_rgb_dcmtk_+eb+cy+np.dcm", 7), ("693_J2KI.dcm", 8)))
def test_pixels_of_more_bits_than_a_file_says_are_refused(name, bits):
    records = pydicom.dcmread(io.BytesIO(data_of(name)))
    records.BitsStored, records.HighBit = bits, bits - 1
    with pytest.raises(Unreadable, match=f"BitsStored {bits}"):
        read(written(records))


def test_colour_with_sign_is_refused():
    records = pydicom.dcmread(io.BytesIO(data_of("SC_rgb_small_odd.dcm")))
    records.PixelRepresentation = 1
    with pytest.raises(Unreadable, match="colour with sign"):
        read(written(records))


def test_only_dicom_becomes_dicom():
    with pytest.raises(ValueError, match="`format` .=dicom. must be of a picture that comes as DICOM"):
        fit(Picture(np.zeros((4, 4, 1), np.uint8)), "dicom", (8, 8))
    picture = fit(read(data_of("CT_small.dcm")), "png", (8, 8))
    assert picture.notes == ("its DICOM records are left out; black to white are its values 128 to 2191",)


def test_the_verb(stage_folder, tmp_path):
    source = tmp_path / "in" / "study" / "1.dcm"
    source.parent.mkdir(parents=True)
    records = pydicom.dcmread(io.BytesIO(data_of("MR_small.dcm")))
    values = pixel_array(records)[20:32, 20:30]
    records.Rows, records.Columns, records.PixelData = *values.shape, values.tobytes()
    source.write_bytes(written(records))
    call = ["upscale", str(tmp_path / "in"), "--stage", str(stage_folder), "--scale", "2", "--steps", "2"]
    assert cli.main([*call, "--out", str(tmp_path / "out"), "--format", "same", "--consistent", "--samples", "2"]) == 0
    made = pydicom.dcmread(tmp_path / "out" / "study" / "1.dcm")
    assert (made.Rows, made.Columns) == (24, 20)
    assert "compositeWithTrainedAlgorithmicMedia" in made.private_block(0x0013, "cdm")[0x01].value
    # The values are the scanner's: shrunk, they are the input's, within the rounding to them.
    shrunk = resize(pixel_array(made)[..., None].astype(np.float32), values.shape)[..., 0]
    inside = (values > values.min()) & (values < values.max())
    assert np.abs(shrunk - values)[inside].max() < 0.02 * np.ptp(values)
    versions = [pydicom.dcmread(tmp_path / "out" / "study" / "1.samples" / f"{i}.dcm") for i in (1, 2)]
    assert versions[0].SOPInstanceUID != versions[1].SOPInstanceUID
    assert cli.main([*call, "--out", str(tmp_path / "bare"), "--format", "same", "--no-metadata"]) == 0
    bare = pydicom.dcmread(tmp_path / "bare" / "study" / "1.dcm")
    assert bare.DerivationDescription == DERIVED and not [tag for tag in bare.keys() if tag.group == 0x0013]
    assert cli.main([*call, "--out", str(tmp_path / "png")]) == 0
    assert read((tmp_path / "png" / "study" / "1.png").read_bytes()).pixels.dtype == np.uint16
