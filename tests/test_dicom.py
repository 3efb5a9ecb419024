"""One file in, one picture out: values by hand, pydicom and OpenCV beside us, and every bad file."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import pydicom
import pytest
from dicom_files import chest, dataset, lossless_jpeg, write_dicom
from PIL import Image, ImageOps
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxr import schema
from cxr.dicom import (
    DicomReadError,
    IsolatedReader,
    codecs,
    container,
    jpeg2000,
    load_radiograph,
    load_reference,
    read_header,
    reasons,
    resample,
    version_code,
)
from cxr.dicom.header import header_row
from cxr.dicom.picture import picture_size


def bundled(name: str) -> Path:
    """A file inside the pydicom package; nothing is downloaded."""
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"pydicom does not bundle {name}")
    return Path(path)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-12))


def reason_of(path: Path, **kwargs: object) -> str:
    with pytest.raises(DicomReadError) as caught:
        load_radiograph(path, **kwargs)
    assert str(caught.value).startswith(path.name), "the message names the file"
    assert caught.value.reason in reasons.ALL
    return caught.value.reason


# -- values ------------------------------------------------------------------------------------------


def test_window_by_hand(tmp_path: Path):
    # PS3.3 C.11.2.1.2.1 with centre 2048 and width 4096: 255 * ((x - 2047.5) / 4095 + 0.5).
    pixels = np.linspace(0, 4095, 16 * 16).reshape(16, 16).astype(np.uint16)
    got = load_radiograph(write_dicom(tmp_path / "a.dcm", pixels)).pixels
    assert got.dtype == np.uint8
    assert (got == np.rint(pixels / 4095 * 255)).all()
    assert got[0, 0] == 0 and got[-1, -1] == 255


def test_monochrome1_is_inverted(tmp_path: Path):
    plain = load_radiograph(write_dicom(tmp_path / "2.dcm")).pixels
    inverted = load_radiograph(
        write_dicom(tmp_path / "1.dcm", PhotometricInterpretation="MONOCHROME1")
    ).pixels
    assert (inverted == 255 - plain).all()


@pytest.mark.parametrize(
    ("rows", "columns", "target"), [(120, 96, (60, 48)), (96, 120, (48, 60)), (70, 33, (60, 28))]
)
def test_size_keeps_the_aspect(tmp_path: Path, rows: int, columns: int, target: tuple[int, int]):
    got = load_radiograph(write_dicom(tmp_path / "a.dcm", chest(rows, columns)), longest_side=60)
    assert got.pixels.shape == target
    assert got.original_size == (rows, columns)


def test_a_small_image_grows(tmp_path: Path):
    assert load_radiograph(write_dicom(tmp_path / "a.dcm", chest(40, 30)), longest_side=80).pixels.shape == (
        80,
        60,
    )


def test_a_thin_image_keeps_a_pixel(tmp_path: Path):
    pixels = np.tile(np.arange(0, 4000, 10, dtype=np.uint16), (2, 1))
    assert load_radiograph(write_dicom(tmp_path / "a.dcm", pixels), longest_side=20).pixels.shape == (1, 20)


def test_area_average_by_hand(tmp_path: Path):
    pixels = np.kron(np.array([[0, 1000], [2000, 4095]]), np.ones((20, 20))).astype(np.uint16)
    got = load_radiograph(write_dicom(tmp_path / "a.dcm", pixels), longest_side=2).pixels
    # Too few pixels lie inside the window to trust it, so the percentile window is taken; it is the same.
    assert got.tolist() == [[0, round(1000 / 4095 * 255)], [round(2000 / 4095 * 255), 255]]


def test_equals_pydicom(tmp_path: Path):
    path = write_dicom(tmp_path / "a.dcm", WindowCenter="1500", WindowWidth="2000")
    ds = pydicom.dcmread(path)
    theirs = apply_voi_lut(ds.pixel_array, ds) / 4095 * 255
    assert np.abs(load_radiograph(path).pixels - theirs).max() <= 1


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_voi_functions_equal_pydicom(tmp_path: Path, function: str):
    path = write_dicom(tmp_path / "a.dcm", WindowCenter="1500", WindowWidth="2000", VOILUTFunction=function)
    ds = pydicom.dcmread(path)
    theirs = apply_voi_lut(ds.pixel_array, ds) / 4095 * 255
    assert np.abs(load_radiograph(path).pixels - theirs).max() <= 1


def test_rescale_and_sign(tmp_path: Path):
    signed = chest().astype(np.int16) - 2048
    path = write_dicom(
        tmp_path / "a.dcm",
        signed,
        RescaleSlope="2",
        RescaleIntercept="-100",
        WindowCenter="-500",
        WindowWidth="5000",
    )
    ds = pydicom.dcmread(path)
    hounsfield = apply_modality_lut(ds.pixel_array, ds)
    theirs = np.clip((hounsfield + 500.5) / 4999 + 0.5, 0, 1) * 255
    assert np.abs(load_radiograph(path).pixels - theirs).max() <= 1


def lut(first: int, values: np.ndarray, bits: int) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) % 65536, first, bits])
    item.add_new("LUTData", "US", [int(v) for v in values])
    return [item]


def test_voi_lut_sequence(tmp_path: Path):
    table = (65535 * (np.arange(4096) / 4095) ** 2).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", VOILUTSequence=lut(0, table, 16))
    expected = table[pydicom.dcmread(path).pixel_array] / 65535 * 255
    assert np.abs(load_radiograph(path).pixels - expected).max() <= 1


def test_a_voi_lut_counts_with_the_bits_its_entries_use(tmp_path: Path):
    # The descriptor says 16 bits, the entries use 12.
    ramp = np.arange(4096, dtype=np.uint16).repeat(4).reshape(128, 128)
    table = np.rint(4095 * (np.arange(4096) / 4095) ** 2).astype(np.uint16)
    got = load_radiograph(write_dicom(tmp_path / "a.dcm", ramp, VOILUTSequence=lut(0, table, 16))).pixels
    assert got.ravel()[[0, 4 * 2048, -1]].tolist() == [0, 64, 255]
    says_12 = load_radiograph(write_dicom(tmp_path / "b.dcm", ramp, VOILUTSequence=lut(0, table, 12))).pixels
    assert (got == says_12).all()


def test_modality_lut_sequence(tmp_path: Path):
    table = np.arange(4096)[::-1].astype(np.uint16)
    item = lut(0, table, 12)
    item[0].ModalityLUTType = "US"
    path = write_dicom(tmp_path / "a.dcm", ModalityLUTSequence=item)
    plain = load_radiograph(write_dicom(tmp_path / "b.dcm")).pixels
    assert np.abs(load_radiograph(path).pixels.astype(int) - (255 - plain)).max() <= 1


def test_a_lut_that_blanks_the_image_is_left_out(tmp_path: Path):
    path = write_dicom(tmp_path / "a.dcm", VOILUTSequence=lut(0, np.zeros(4096, np.uint16), 16))
    assert (load_radiograph(path).pixels == load_radiograph(write_dicom(tmp_path / "b.dcm")).pixels).all()


WINDOWS = {
    "missing": (None, None),
    "empty": ("", ""),
    "centre empty": ("", "4096"),
    "hair-thin": ("1", "1"),
    "beside the data": ("60000", "100"),
    "far too wide": ("2048", "900000"),
    "zero": ("2048", "0"),
    "negative": ("2048", "-4096"),
    "two, both bad": (["1", "90000"], ["1", "2"]),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_that_would_blank_the_image(tmp_path: Path, name: str):
    centre, width = WINDOWS[name]
    got = load_radiograph(write_dicom(tmp_path / "a.dcm", WindowCenter=centre, WindowWidth=width)).pixels
    low, high = np.percentile(chest(), (0.5, 99.5))
    expected = np.clip((chest() - low) / (high - low), 0, 1) * 255
    assert np.abs(got - expected).max() <= 1.5


def test_a_window_that_is_no_number(tmp_path: Path):
    path = write_dicom(tmp_path / "a.dcm", WindowCenter="1234")
    path.write_bytes(path.read_bytes().replace(b"1234", b"12,a"))
    assert load_radiograph(path).pixels.std() > 30
    assert read_header(path)["Window Center"] == schema.INVALID


def test_the_first_sane_window_wins(tmp_path: Path):
    two = write_dicom(tmp_path / "a.dcm", WindowCenter=["1", "1500"], WindowWidth=["1", "2500"])
    one = write_dicom(tmp_path / "b.dcm", WindowCenter="1500", WindowWidth="2500")
    assert (load_radiograph(two).pixels == load_radiograph(one).pixels).all()


def test_a_constant_image_is_read(tmp_path: Path):
    path = write_dicom(tmp_path / "a.dcm", np.full((20, 20), 700, np.uint16))
    assert len(np.unique(load_radiograph(path).pixels)) == 1


def test_padding_is_black_and_leaves_no_halo(tmp_path: Path):
    pixels = chest()
    pixels[:, :33] = 4095
    path = write_dicom(
        tmp_path / "a.dcm", pixels, PixelPaddingValue=4095, WindowCenter=None, WindowWidth=None
    )
    small = load_radiograph(path, longest_side=40).pixels
    assert (small[:, :10] == 0).all()
    image = chest()[:, 33:]
    low, high = np.percentile(image, (0.5, 99.5))
    expected = cv2.resize(image[:, :63].astype(np.float32), (21, 40), interpolation=cv2.INTER_AREA)
    expected = np.clip((expected - low) / (high - low), 0, 1) * 255
    assert np.abs(small[:, 11:].astype(float) - expected).max() < 12


def test_overlay_in_the_unused_bits_is_dropped(tmp_path: Path):
    # HighBit 15, 12 stored: samples sit in the upper bits, the lower four are not image.
    lifted = (chest() << 4) | 0b1010
    path = write_dicom(tmp_path / "a.dcm", lifted, BitsStored=12, HighBit=15)
    assert (load_radiograph(path).pixels == load_radiograph(write_dicom(tmp_path / "b.dcm")).pixels).all()


OVER = (chest().astype(np.uint32) * 5 // 4).astype(np.uint16)
"""Values that run over 12 bits, smoothly."""


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("planes", [{0x6000: 12}, {0x6000: 13, 0x6002: 12, 0x601E: 15}])
def test_overlays_in_the_pixel_cells_are_no_grey(tmp_path: Path, syntax: str, planes: dict[int, int]):
    pixels = chest()
    plain = write_dicom(tmp_path / "plain.dcm", pixels, syntax=syntax)
    over = pixels.copy()
    for bit in planes.values():
        over[10 + bit : 30 + bit, 20:60] |= 1 << bit
    # Bit planes that the header gives to overlays need 16 bits in the compressed picture as well.
    path = write_dicom(tmp_path / "a.dcm", over, syntax=syntax, bits=16)
    ds = pydicom.dcmread(path)
    ds.BitsStored, ds.HighBit, ds.WindowCenter, ds.WindowWidth = 12, 11, "2048", "4096"
    for group, bit in planes.items():
        ds.add_new(group << 16 | 0x0100, "US", 16)
        ds.add_new(group << 16 | 0x0102, "US", bit)
    ds.save_as(path)
    for side in (None, 48):
        expected = load_radiograph(plain, longest_side=side).pixels.astype(int)
        got = load_radiograph(path, longest_side=side).pixels
        assert np.abs(expected - got).max() <= (2 if side else 0)


@pytest.mark.parametrize(("bit", "kept"), [(None, True), (0, True), (5, True), (14, True), (12, False)])
def test_values_that_run_over_are_kept_but_where_an_overlay_lies(tmp_path: Path, bit: int | None, kept: bool):
    path = write_dicom(tmp_path / "a.dcm", OVER, WindowCenter="3000", WindowWidth="6000")
    if bit is not None:
        ds = pydicom.dcmread(path)
        ds.add_new(0x60000102, "US", bit)
        ds.save_as(path)
    expected = np.clip(((OVER if kept else OVER & 4095) - 2999.5) / 5999 + 0.5, 0, 1) * 255
    assert np.abs(load_radiograph(path).pixels - expected).max() <= 1


# -- header ------------------------------------------------------------------------------------------


def test_header_row(tmp_path: Path):
    path = write_dicom(tmp_path / "a.dcm", WindowCenter=["100", "2048.5"], WindowWidth=["1", "4096"])
    header = read_header(path)
    assert list(header) == schema.HEADER_COLUMNS
    assert all(isinstance(value, str) for value in header.values())
    assert header["File Name"] == "a.dcm"
    assert header["Version"] == version_code("TEST_1") == "v" + hashlib.sha256(b"TEST_1").hexdigest()[:12]
    uid = str(pydicom.dcmread(path).SOPInstanceUID)
    assert header["SOP Instance UID"] == "u" + hashlib.sha256(uid.encode()).hexdigest()[:12]
    assert header["Transfer Syntax UID"] == ExplicitVRLittleEndian
    assert header["Pixel Spacing"] == "[0.139, 0.139]"
    assert header["Window Center"] == "[100, 2048.5]"
    assert header["Patient's Age"] == "051Y"
    assert header["Rescale Slope"] == ""
    assert header == load_radiograph(path).header


@pytest.mark.parametrize(
    ("keyword", "column", "kept", "refused"),
    [
        ("PatientSex", "Patient's Sex", ["F", "m", "O"], ["Jane", "FM"]),
        ("PatientAge", "Patient's Age", ["045Y", "Y", "000D", "238Y", "45"], ["JANE", "45 Y", "4500Y"]),
        ("LossyImageCompression", "Lossy Image Compression", ["00", "01"], ["02", "DOE"]),
        ("SOPClassUID", "SOP Class UID", ["1.2.840.10008.5.1.4.1.1.1"], ["1.2.3", "1.2.840.10008.1.2"]),
        ("RescaleSlope", "Rescale Slope", ["1", "-1.5e3", ".5"], ["1 mm", "Doe"]),
        ("WindowWidth", "Window Width", ["4096", "[1, 2.50]"], ["[1, Doe]"]),
    ],
)
def test_coded_attributes_leave_only_with_values_of_their_code(
    keyword: str, column: str, kept: list[str], refused: list[str]
):
    for text in [*kept, *refused]:
        ds = pydicom.FileDataset("a", {}, file_meta=FileMetaDataset())
        parts = text.strip("[]").split(", ") if text.startswith("[") else text
        with pydicom.config.disable_value_validation():
            ds.add_new(keyword, "LO", parts)
        expected = text.upper() if text in kept and "e" not in text else text if text in kept else "invalid"
        assert header_row(ds, Path("a"))[column] == expected, text


def test_no_other_field_leaves_the_file(tmp_path: Path):
    radiograph = load_radiograph(write_dicom(tmp_path / "a.dcm"))
    assert "Nobody" not in " ".join(radiograph.header.values())


def test_picture_header_is_its_name(tmp_path: Path):
    Image.fromarray(chest(bits=8)).save(tmp_path / "a.png")
    header = read_header(tmp_path / "a.png")
    assert header.pop("File Name") == "a.png"
    assert set(header) == set(schema.HEADER_COLUMNS) - {"File Name"}
    assert not any(header.values())


# -- transfer syntaxes -------------------------------------------------------------------------------

LOSSLESS = [
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
]


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.name)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_same_pixels_in_every_syntax(tmp_path: Path, syntax: str, bits: int):
    if syntax == JPEGLSLossless:
        pytest.importorskip("jpeg_ls")
    plain = load_radiograph(write_dicom(tmp_path / "a.dcm", bits=bits)).pixels
    if syntax == JPEGLosslessSV1:  # which pydicom does not write
        path = lossless_jpeg(tmp_path / "a.dcm", tmp_path / "b.dcm")
    else:
        path = write_dicom(tmp_path / "b.dcm", syntax=syntax, bits=bits)
    other = load_radiograph(path)
    assert (other.pixels == plain).all()
    assert other.header["Transfer Syntax UID"] == syntax


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=lambda s: s.name)
def test_signed_samples_compressed(tmp_path: Path, syntax: str):
    signed = chest().astype(np.int16) - 2048
    window = {"WindowCenter": "0", "WindowWidth": "4096"}
    plain = load_radiograph(write_dicom(tmp_path / "a.dcm", signed, **window), longest_side=40).pixels
    other = load_radiograph(write_dicom(tmp_path / "b.dcm", signed, syntax=syntax, **window), longest_side=40)
    assert np.abs(plain.astype(int) - other.pixels).max() <= (4 if syntax == JPEG2000Lossless else 0)


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_expb.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_padded.dcm",
        "J2K_pixelrep_mismatch.dcm",
        "693_J2KI.dcm",
        "JPEG2000.dcm",
        "image_dfl.dcm",
    ],
)
def test_bundled_files_equal_pydicom(name: str):
    path = bundled(name)
    ds = pydicom.dcmread(path)
    samples = ds.pixel_array
    with container.open_dataset(path) as (header, stream):
        layout = codecs_layout(header, name)
        ours = codecs.decode(header, stream, path, layout, longest_side=None).values
    assert (ours == samples).all()
    assert load_radiograph(path).original_size == samples.shape


def codecs_layout(header: pydicom.FileDataset, name: str):
    from cxr.dicom.layout import read_layout

    return read_layout(header, name)


def test_jpeg_ls_and_lossless_bundled_files():
    pytest.importorskip("jpeg_ls")
    plain = load_radiograph(bundled("MR_small.dcm")).pixels
    assert (load_radiograph(bundled("MR_small_jpeg_ls_lossless.dcm")).pixels == plain).all()


def test_twelve_bit_jpeg_runs_in_a_child():
    pytest.importorskip("gdcm")
    assert load_radiograph(bundled("JPGExtended.dcm")).pixels.shape == (1024, 256)


def test_all_bundled_files_are_read_or_named():
    folder = bundled("CT_small.dcm").parent
    read = failed = 0
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != "JPGExtended.dcm":
            try:
                got = load_radiograph(path, longest_side=64)
                assert max(got.pixels.shape) == 64
                read += 1
            except DicomReadError as error:
                assert error.reason in reasons.ALL
                failed += 1
    assert read >= 15 and failed >= 40


@pytest.mark.real
def test_real_files_in_five_syntaxes(real_dir: Path):
    pytest.importorskip("jpeg_ls")
    pytest.importorskip("gdcm")
    names = ["RG2_UNC", "RG2_J2KR", "RG2_JLSL.dcm", "RG2_JPLL.dcm", "RG2_RLE"]
    full = [load_radiograph(real_dir / "dicom" / name).pixels for name in names]
    assert all((pixels == full[0]).all() for pixels in full)
    small = [load_radiograph(real_dir / "dicom" / name, longest_side=1024).pixels for name in names]
    assert all((pixels == small[0]).all() for pixels in small[2:])
    # Decoded at half size; what differs is digital text and the border of the exposed field.
    assert psnr(small[1], small[0]) > 50
    assert np.mean(np.abs(small[1].astype(int) - small[0]) > 4) < 1e-3


@pytest.mark.real
@pytest.mark.parametrize("name", ["966_fixed.dcm", "RG1_J2KI.dcm"])
@pytest.mark.parametrize("side", [1024, 512])
def test_real_chests_equal_the_reference(real_dir: Path, name: str, side: int):
    path = real_dir / "dicom" / name
    ours = load_radiograph(path, longest_side=side).pixels.astype(int)
    reference = load_reference(path, longest_side=side).pixels
    inner = np.s_[side // 20 : -side // 20, side // 20 : -side // 20]
    # Letters and ruler marks burnt into the border are steps that no sensor makes; see the README.
    assert np.mean(np.abs(ours - reference)[inner] > 4) < 1e-4
    assert psnr(ours[inner], reference[inner]) >= 50


# -- the fast path against the reference -------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless], ids=lambda s: s.name)
@pytest.mark.parametrize(
    ("shape", "side"), [((600, 480), 200), ((601, 487), 260), ((480, 600), 290), ((512, 512), 120)]
)
def test_fast_path_equals_reference(tmp_path: Path, syntax: str, shape: tuple[int, int], side: int):
    pixels = cv2.GaussianBlur(chest(*shape), (0, 0), 1.0)
    path = write_dicom(tmp_path / "a.dcm", pixels, syntax=syntax, PhotometricInterpretation="MONOCHROME1")
    ours = load_radiograph(path, longest_side=side).pixels
    reference = load_reference(path, longest_side=side).pixels
    assert psnr(ours, reference) >= 50
    assert np.abs(ours.astype(int) - reference).max() <= 4


def test_jpeg_2000_is_decoded_no_finer_than_needed(tmp_path: Path):
    path = write_dicom(tmp_path / "a.dcm", chest(600, 480), syntax=JPEG2000Lossless)
    with container.open_dataset(path) as (header, stream):
        samples = codecs.decode(header, stream, path, codecs_layout(header, "a"), longest_side=150)
    assert samples.level == 2 and samples.values.shape == (150, 120)


@pytest.mark.parametrize("target", [(40, 30), (41, 17), (100, 1), (100, 80)])
def test_area_average_equals_opencv(target: tuple[int, int]):
    values = chest(100, 80)
    ours = resample.area_average(values, values.shape, target)
    theirs = cv2.resize(values.astype(np.float32), target[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(ours - theirs).max() < 0.05


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("reversible", [True, False])
def test_level_weights_keep_constants_and_ramps(level: int, reversible: bool):
    # A symmetric filter with unit gain leaves a straight line alone, so a level is the line's samples.
    step = 1 << level
    line = np.arange(0, 640, step, dtype=np.float32)
    band = np.tile(line, (8, 1))
    got = resample.area_average(band, (8 * step, 640), (8, 50), level=level, reversible=reversible)
    centres = (np.arange(50) + 0.5) * 12.8 - 0.5
    inner = slice(6, -6)
    assert np.abs(got[:, inner] - centres[inner]).max() < 0.35
    flat = resample.area_average(
        np.full((8, 80), 7.0), (8 * step, 80 * step), (4, 33), level=level, reversible=reversible
    )
    assert np.allclose(flat, 7.0, atol=1e-4)


# -- bad files ---------------------------------------------------------------------------------------


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Every kind of bad file that can be made here, and the reason it should get."""

    def raw(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    good = write_dicom(folder / "good.dcm").read_bytes()
    squeezed = write_dicom(folder / "good_j2k.dcm", syntax=JPEG2000Lossless).read_bytes()
    colour = np.arange(24 * 20 * 3).reshape(24, 20, 3).astype(np.uint8)
    bomb = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = write_dicom(folder / "deflated.dcm", syntax=DeflatedExplicitVRLittleEndian).read_bytes()
    start = 132 + 12 + int.from_bytes(deflated[140:144], "little")
    flood = deflated[:start] + bomb.compress(bytes(130 << 20)) + bomb.flush()
    cases = {
        "empty": (raw("empty.dcm", b""), reasons.EMPTY),
        "text": (raw("text.dicom", b"not a picture\n" * 40), reasons.NOT_AN_IMAGE),
        "no marker": (raw("headless.dcm", good[132:]), reasons.NOT_AN_IMAGE),
        "no pixel data": (write_dicom(folder / "a.dcm", PixelData=None), reasons.NO_PIXEL_DATA),
        "frames": (write_dicom(folder / "b.dcm", NumberOfFrames=3), reasons.SEVERAL_FRAMES),
        "colour": (
            write_dicom(
                folder / "c.dcm",
                colour,
                bits=8,
                SamplesPerPixel=3,
                PhotometricInterpretation="RGB",
                PlanarConfiguration=0,
            ),
            reasons.COLOUR,
        ),
        "palette": (write_dicom(folder / "d.dcm", PhotometricInterpretation="PALETTE COLOR"), reasons.COLOUR),
        "rows 0": (write_dicom(folder / "e.dcm", Rows=0), reasons.BAD_SIZE),
        "rows missing": (write_dicom(folder / "f.dcm", Rows=None), reasons.BAD_SIZE),
        "rows 65535": (write_dicom(folder / "g.dcm", Rows=65535), reasons.TRUNCATED),
        "too many pixels": (
            write_dicom(folder / "h.dcm", Rows=65535, Columns=65535),
            reasons.TOO_MANY_PIXELS,
        ),
        "rows too few": (write_dicom(folder / "i.dcm", Rows=20), reasons.BAD_SIZE),
        "bits stored 17": (write_dicom(folder / "j.dcm", BitsStored=17), reasons.BAD_BITS),
        "bits allocated 12": (write_dicom(folder / "k.dcm", BitsAllocated=12), reasons.BAD_BITS),
        "high bit 3": (write_dicom(folder / "l.dcm", HighBit=3), reasons.BAD_BITS),
        "no transfer syntax": (
            raw("m.dcm", good.replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x11\x00UI")),
            reasons.TRANSFER_SYNTAX,
        ),
        "says raw, is JPEG 2000": (
            raw("n.dcm", squeezed.replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.1\0\0\0")),
            reasons.TRANSFER_SYNTAX,
        ),
        "unknown syntax": (
            raw("o.dcm", squeezed.replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.99")),
            reasons.TRANSFER_SYNTAX,
        ),
        "JPEG 2000 rubbish": (
            raw("p.dcm", squeezed.replace(b"\xff\x4f\xff\x51", b"\0\0\0\0")),
            reasons.DECODE_FAILED,
        ),
        "other size inside": (
            raw(
                "q.dcm",
                squeezed.replace(b"\x28\x00\x10\x00US\x02\x00\x78", b"\x28\x00\x10\x00US\x02\x00\x79"),
            ),
            reasons.BAD_SIZE,
        ),
        "bomb": (raw("r.dcm", flood), reasons.TOO_MANY_PIXELS),
    }
    picture = io.BytesIO()
    Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(20, 20, 3)).save(picture, "PNG")
    cases["colour PNG"] = (raw("s.png", picture.getvalue()), reasons.COLOUR)
    picture = io.BytesIO()
    Image.fromarray(chest(bits=8)).save(picture, "PNG")
    cases["cut PNG"] = (raw("t.png", picture.getvalue()[:900]), reasons.TRUNCATED)
    picture = io.BytesIO()
    Image.new("1", (9000, 9000)).save(picture, "PNG")
    cases["PNG bomb"] = (raw("u.png", picture.getvalue()), reasons.TOO_MANY_PIXELS)
    return cases


BAD = [
    "empty", "text", "no marker", "no pixel data", "frames", "colour", "palette", "rows 0", "rows missing",
    "rows 65535", "too many pixels", "rows too few", "bits stored 17", "bits allocated 12", "high bit 3",
    "no transfer syntax", "says raw, is JPEG 2000", "unknown syntax", "JPEG 2000 rubbish",
    "other size inside", "bomb", "colour PNG", "cut PNG", "PNG bomb",
]  # fmt: skip


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    return bad_files(tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize("name", BAD)
def test_bad_file_has_its_reason(bad: dict[str, tuple[Path, str]], name: str):
    path, expected = bad[name]
    assert reason_of(path, longest_side=64) == expected
    assert set(bad) == set(BAD)


def test_missing_file(tmp_path: Path):
    assert reason_of(tmp_path / "nowhere.dcm") == reasons.MISSING
    assert reason_of(tmp_path) == reasons.MISSING


def test_file_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(container, "MAX_FILE_BYTES", 1000)
    assert reason_of(write_dicom(tmp_path / "a.dcm")) == reasons.FILE_TOO_LARGE


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless], ids=lambda s: s.name
)
def test_truncated_anywhere(tmp_path: Path, syntax: str):
    path = write_dicom(tmp_path / "a.dcm", chest(60, 48), syntax=syntax)
    content, whole = path.read_bytes(), load_radiograph(path, longest_side=24).pixels
    cut = tmp_path / "cut.dcm"
    for length in [*np.linspace(0, len(content) - 1, 60).astype(int).tolist(), len(content) - 9]:
        cut.write_bytes(content[:length])
        try:
            got = load_radiograph(cut, longest_side=24).pixels
        except DicomReadError:
            continue
        # Only bytes after the picture may be missing.
        assert length > len(content) - 20
        assert (got == whole).all()


@pytest.mark.parametrize(
    ("codec", "name", "package"),
    [("jpeg_ls", "MR_small_jpeg_ls_lossless.dcm", "pyjpegls"), ("gdcm", "JPGExtended.dcm", "python-gdcm")],
)
def test_missing_codec_is_named(monkeypatch: pytest.MonkeyPatch, codec: str, name: str, package: str):
    path = bundled(name)
    find = codecs.importlib.util.find_spec
    monkeypatch.setattr(codecs.importlib.util, "find_spec", lambda n: None if n == codec else find(n))
    with pytest.raises(DicomReadError, match=f"package {package}") as caught:
        load_radiograph(path)
    assert caught.value.reason == reasons.CODEC_MISSING


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        (b"\x28\0\x04\0CS", reasons.DAMAGED_HEADER),
        (b"\x02\0\x10\0UI", reasons.DAMAGED_HEADER),
        (b"\x02\0\x13\0SH", ""),
    ],
)
def test_unknown_value_representation(tmp_path: Path, element: bytes, reason: str):
    path = write_dicom(tmp_path / "a.dcm")
    content = path.read_bytes()
    assert content.count(element) == 1
    path.write_bytes(content.replace(element, element[:4] + b"QQ"))
    if reason:
        assert reason_of(path) == reason
    else:
        assert load_radiograph(path).header["Version"] == version_code("TEST_1")


def test_codestream_facts(tmp_path: Path):
    path = write_dicom(tmp_path / "a.dcm", chest(61, 48), syntax=JPEG2000Lossless)
    content = path.read_bytes()
    facts = jpeg2000.read_codestream(content[content.index(b"\xff\x4f\xff\x51") :], "a")
    assert (facts.rows, facts.columns, facts.components, facts.precision) == (61, 48, 1, 12)
    assert facts.reversible and facts.complete and not facts.signed
    assert jpeg2000.level_for(facts, None) == 0
    assert jpeg2000.level_for(facts, 31) == 1
    assert jpeg2000.level_for(facts, 32) == 0


# -- colour that is grey -----------------------------------------------------------------------------

GREY = chest(61, 48, bits=8)


def secondary_capture(path: Path, channels: np.ndarray, syntax: str, photometric: str, plane: int) -> Path:
    """A colour DICOM of `(H, W, 3)` samples; JPEG and JPEG 2000 as Pillow writes them."""
    stored = np.ascontiguousarray(np.moveaxis(channels, 2, 0)) if plane else channels
    made = write_dicom(
        path,
        channels,
        bits=8 * channels.dtype.itemsize,
        SamplesPerPixel=3,
        PhotometricInterpretation=photometric,
        PlanarConfiguration=plane,
        PixelData=stored.tobytes(),
    )
    ds = pydicom.dcmread(made)
    if syntax in (RLELossless, JPEGLSLossless):
        ds.compress(syntax, generate_instance_uid=False)
    elif syntax != ExplicitVRLittleEndian:
        picture = io.BytesIO()
        if syntax == JPEGBaseline8Bit:
            Image.fromarray(channels).save(picture, "JPEG", quality=95, keep_rgb=photometric == "RGB")
        else:
            Image.fromarray(channels).save(picture, "JPEG2000", no_jp2=True, mct=int(photometric != "RGB"))
        ds.PixelData = encapsulate([picture.getvalue()])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path)
    return path


CAPTURES = [
    (ExplicitVRLittleEndian, "RGB", 0),
    (ExplicitVRLittleEndian, "RGB", 1),
    (RLELossless, "RGB", 0),
    (JPEGLSLossless, "RGB", 0),
    (JPEG2000Lossless, "RGB", 0),
    (JPEG2000Lossless, "YBR_RCT", 0),
    (JPEGBaseline8Bit, "RGB", 0),
    (JPEGBaseline8Bit, "YBR_FULL_422", 0),
]


@pytest.mark.parametrize(("syntax", "photometric", "plane"), CAPTURES)
def test_a_colour_dicom_of_equal_channels_is_grey(tmp_path: Path, syntax: str, photometric: str, plane: int):
    channels = np.repeat(GREY[:, :, None], 3, axis=2)
    got = load_radiograph(secondary_capture(tmp_path / "a.dcm", channels, syntax, photometric, plane))
    assert got.original_size == GREY.shape
    lossy = syntax == JPEGBaseline8Bit
    assert np.abs(got.pixels.astype(int) - GREY).max() <= (8 if lossy else 0)
    Image.fromarray(channels).save(tmp_path / "a.png")
    as_png = load_radiograph(tmp_path / "a.png", longest_side=24).pixels.astype(int)
    small = load_radiograph(tmp_path / "a.dcm", longest_side=24).pixels
    assert np.abs(as_png - small).max() <= (4 if lossy else 0)
    channels = channels.copy()
    channels[20:40, 10:30, 1] //= 2
    assert reason_of(secondary_capture(tmp_path / "b.dcm", channels, syntax, photometric, plane)) == "colour"


@pytest.mark.parametrize("equal", [True, False])
def test_a_colour_dicom_in_lossless_jpeg_goes_through_gdcm(tmp_path: Path, equal: bool):
    channels = np.repeat(GREY[:, :, None], 3, axis=2)
    if not equal:
        channels[20:40, 10:30, 1] //= 2
    plain = secondary_capture(tmp_path / "a.dcm", channels, ExplicitVRLittleEndian, "RGB", 0)
    path = lossless_jpeg(plain, tmp_path / "b.dcm")
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    if equal:
        assert (load_radiograph(path).pixels == GREY).all()
    else:
        assert reason_of(path) == reasons.COLOUR


def test_colourless_chroma_is_grey(tmp_path: Path):
    channels = np.stack([GREY, np.full_like(GREY, 128), np.full_like(GREY, 128)], axis=2)
    path = secondary_capture(tmp_path / "a.dcm", channels, ExplicitVRLittleEndian, "YBR_FULL", 0)
    assert (load_radiograph(path).pixels == GREY).all()
    assert reason_of(secondary_capture(path, channels, ExplicitVRLittleEndian, "RGB", 0)) == reasons.COLOUR


def test_rgb_in_a_jpeg_without_a_marker(tmp_path: Path):
    channels = np.repeat(GREY[:, :, None], 3, axis=2)
    path = secondary_capture(tmp_path / "a.dcm", channels, JPEGBaseline8Bit, "RGB", 0)
    content = path.read_bytes()
    expected = load_radiograph(path).pixels
    # The Adobe marker becomes a comment, components R, G and B become 1, 2 and 3.
    content = content.replace(b"\xff\xee\x00\x0eAdobe", b"\xff\xfe\x00\x0eAdobe")
    for head in (b"\x03%c\x11\x00%c\x11\x00%c\x11\x00", b"\x03%c\x00%c\x00%c\x00"):
        assert head % (*b"RGB",) in content
        content = content.replace(head % (*b"RGB",), head % (1, 2, 3))
    path.write_bytes(content)
    assert (load_radiograph(path).pixels == expected).all()


def test_sixteen_bit_colour_is_windowed_as_a_png(tmp_path: Path):
    wide = chest(61, 48)
    path = secondary_capture(
        tmp_path / "a.dcm", np.repeat(wide[:, :, None], 3, axis=2), ExplicitVRLittleEndian, "RGB", 0
    )
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert (load_radiograph(path).pixels == load_radiograph(tmp_path / "a.png").pixels).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_palette_is_grey(tmp_path: Path, bits: int):
    path = write_dicom(tmp_path / "a.dcm", GREY, bits=8, PhotometricInterpretation="PALETTE COLOR")
    ds = pydicom.dcmread(path)
    table = (np.arange(256)[::-1] * (257 if bits == 16 else 1)).astype("<u2" if bits == 16 else np.uint8)
    for channel in ("Red", "Green", "Blue"):
        ds.add_new(f"{channel}PaletteColorLookupTableDescriptor", "US", [256, 0, bits])
        setattr(ds, f"{channel}PaletteColorLookupTableData", table.tobytes())
    ds.save_as(path)
    assert (load_radiograph(path).pixels == 255 - GREY).all()
    ds.RedPaletteColorLookupTableData = table[::-1].tobytes()
    ds.save_as(path)
    assert reason_of(path) == reasons.COLOUR


# -- JPEG 2000 as consoles write it ------------------------------------------------------------------


def tile_part(stream: bytes) -> tuple[int, int]:
    """Where the only tile part of a codestream starts and how long it is."""
    start = stream.index(b"\xff\x90\x00\x0a")
    return start, int.from_bytes(stream[start + 6 : start + 10], "big")


def streams() -> dict[str, tuple[bytes, np.ndarray]]:
    """Codestreams that are whole, written in ways that one decoder or another refuses."""
    pixels = chest(61, 48, bits=16)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "JPEG2000", irreversible=False, no_jp2=True)
    plain = picture.getvalue()
    start, length = tile_part(plain)
    assert plain[start + length :] == b"\xff\xd9"
    zero = plain[: start + 6] + bytes(4) + plain[start + 10 :]
    made = {
        "no length": zero,
        "no length, padded": zero + b"\0",
        "no length, no end": zero[:-2],
        "trailing bytes": plain + b"trailing",
        "no end": plain[:-2],
        "no end, padded": plain[:-2] + b"\0",
    }
    return {name: (stream, pixels) for name, stream in made.items()}


def wrap(path: Path, stream: bytes, pixels: np.ndarray) -> Path:
    """A DICOM file around a codestream, which it holds to the byte where its length is even."""
    ds = dataset(pixels, bits=16, PixelData=encapsulate([stream]))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("name", streams())
def test_a_codestream_is_read_however_it_ends(tmp_path: Path, name: str):
    stream, pixels = streams()[name]
    got = load_radiograph(wrap(tmp_path / "a.dcm", stream, pixels)).pixels
    assert (got == load_radiograph(write_dicom(tmp_path / "b.dcm", pixels, bits=16)).pixels).all()
    small = load_radiograph(tmp_path / "a.dcm", longest_side=24).pixels
    assert np.abs(small.astype(int) - load_radiograph(tmp_path / "b.dcm", longest_side=24).pixels).max() <= 3


def test_a_cut_codestream_without_lengths_is_truncated(tmp_path: Path):
    stream, pixels = streams()["no length, no end"]
    for share in (0.5, 0.9, 0.99):
        path = wrap(tmp_path / "a.dcm", stream[: int(share * len(stream))], pixels)
        assert reason_of(path, longest_side=24) == reasons.TRUNCATED


def test_what_one_decoder_refuses_is_shown_to_the_other():
    stream, pixels = streams()["no length, padded"]
    # As it lies in the file, Pillow refuses it.
    raw = replace(jpeg2000.read_codestream(stream, "a"), stream=stream)
    with pytest.raises(OSError, match="broken"):
        jpeg2000._by_pillow(raw, 0)
    values, level = jpeg2000.decode(raw, 1, "a")
    assert level == 0 and (values == pixels).all()


# -- PNG and JPEG ------------------------------------------------------------------------------------


def test_grey_png_is_taken_as_it_is(tmp_path: Path):
    pixels = chest(bits=8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (load_radiograph(tmp_path / "a.png").pixels == pixels).all()


def test_content_counts_not_the_name(tmp_path: Path):
    Image.fromarray(chest(bits=8)).save(tmp_path / "a.dicom", "PNG")
    assert load_radiograph(tmp_path / "a.dicom", longest_side=60).pixels.shape == (60, 48)


def test_colour_png_with_equal_channels_is_grey(tmp_path: Path):
    pixels = chest(bits=8)
    Image.fromarray(np.dstack([pixels] * 3)).save(tmp_path / "a.png")
    assert (load_radiograph(tmp_path / "a.png").pixels == pixels).all()


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str):
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(chest(60, 48, bits=8))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    got = load_radiograph(path)
    assert (got.pixels == expected).all()
    assert got.original_size == expected.shape == picture_size(path)
    assert load_radiograph(path, longest_side=30).pixels.shape == tuple(n // 2 for n in expected.shape)


def test_sixteen_bit_png_gets_a_percentile_window(tmp_path: Path):
    pixels = chest() * 3
    Image.fromarray(pixels).save(tmp_path / "a.png")
    low, high = np.percentile(pixels, (0.5, 99.5))
    expected = np.clip((pixels - low) / (high - low), 0, 1) * 255
    assert np.abs(load_radiograph(tmp_path / "a.png").pixels - expected).max() <= 1.5


@pytest.mark.parametrize("mode", ["1", "P", "LA"])
def test_other_grey_modes(tmp_path: Path, mode: str):
    Image.fromarray(chest(bits=8)).convert(mode).save(tmp_path / "a.png")
    assert load_radiograph(tmp_path / "a.png").pixels.std() > 20


def test_jpeg(tmp_path: Path):
    pixels = chest(bits=8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    assert psnr(load_radiograph(tmp_path / "a.jpg").pixels, pixels) > 35


# -- in a child process ------------------------------------------------------------------------------


def test_isolated_reader_gives_the_same(tmp_path: Path):
    path = write_dicom(tmp_path / "a.dcm")
    here = load_radiograph(path, longest_side=50)
    with IsolatedReader() as reader:
        there = reader.load(path, longest_side=50)
        assert (there.pixels == here.pixels).all()
        assert there.header == here.header and there.original_size == here.original_size
        with pytest.raises(DicomReadError, match=r"nowhere\.dcm"):
            reader.load(tmp_path / "nowhere.dcm")
        assert (reader.load(path, longest_side=50).pixels == here.pixels).all()


def leaving_pid(path: Path) -> str:
    """Python code that leaves its process's number in a file, whole from the file's first moment on."""
    made = f"{path}.new"
    return f"pathlib.Path({made!r}).write_text(str(os.getpid())); os.replace({made!r}, {str(path)!r})"


@pytest.mark.slow
def test_a_decoder_that_hangs_ends_with_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, seen = bundled("JPGExtended.dcm"), tmp_path / "pid"
    (tmp_path / "gdcm.py").write_text(
        "import os, pathlib, sys, time\n"
        "if 'gdcm_child' not in sys.argv[0]: raise ImportError\n"
        "class ImageReader:\n"
        "    def SetFileName(self, name): pass\n"
        f"    def Read(self):\n        {leaving_pid(seen)}\n        time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with IsolatedReader(seconds_per_file=4.0) as reader, pytest.raises(DicomReadError, match="after 4 s"):
        reader.load(path)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(int(seen.read_text())):
        assert time.monotonic() < deadline, "the decoder lives on"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_reader_that_hangs_ends_when_its_parent_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, seen = write_dicom(tmp_path / "a.dcm"), tmp_path / "pid"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib, sys, time\n"
        "if 'cxr.dicom.isolated_child' in sys.orig_argv:\n"
        "    import pydicom\n"
        "    def hang(*_, **__):\n"
        f"        {leaving_pid(seen)}\n        time.sleep(60)\n"
        "    pydicom.dcmread = hang\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = f"from cxr.dicom import IsolatedReader; IsolatedReader(seconds_per_file=1.0).load({str(path)!r})"
    root = Path(schema.__file__).parents[1]
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=root)
    deadline = time.monotonic() + 30
    while not seen.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    while psutil.pid_exists(int(seen.read_text())):
        assert time.monotonic() < deadline, "the reader lives on"
        time.sleep(0.05)


def test_a_limit_that_cannot_be_set_stops_no_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_dicom(tmp_path / "a.dcm")
    (tmp_path / "sitecustomize.py").write_text(
        "import resource\n"
        "def refuse(*_): raise ValueError('current limit exceeds maximum limit')\n"
        "resource.setrlimit = refuse\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with IsolatedReader() as reader:
        assert reader.load(path).original_size == (120, 96)


def test_error_survives_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(DicomReadError("empty", "a.dcm: the file is empty")))
    assert error.reason == "empty" and str(error) == "a.dcm: the file is empty"
