"""Small DICOM files for the tests of reading and preprocessing, good and bad ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def chest(rows: int = 120, columns: int = 96, *, bits: int = 12, seed: int = 0) -> np.ndarray:
    """Something with the grey levels of a chest: a body, two lungs, smooth texture, noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    y, x = y / rows, x / columns
    body = np.exp(-(((x - 0.5) / 0.42) ** 6 + ((y - 0.6) / 0.62) ** 8))
    picture = 0.62 * body
    for centre in (0.3, 0.7):
        picture -= 0.36 * body * np.exp(-(((x - centre) / 0.14) ** 4 + ((y - 0.45) / 0.28) ** 4))
    texture = cv2.resize(
        rng.standard_normal((rows // 8 + 2, columns // 8 + 2)).astype(np.float32),
        (columns, rows),
        interpolation=cv2.INTER_CUBIC,
    )
    noise = cv2.GaussianBlur(rng.standard_normal((rows, columns)).astype(np.float32), (0, 0), 0.7)
    picture += 0.02 * texture + 0.008 * noise + 0.08
    top = (1 << bits) - 1
    return np.clip(picture * top, 0, top).astype(np.uint16 if bits > 8 else np.uint8)


def dataset(pixels: np.ndarray, *, bits: int = 12, **attributes: object) -> Dataset:
    """A data set around the pixels; keyword arguments set attributes, `None` deletes them."""
    signed = pixels.dtype.kind == "i"
    ds = Dataset()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[str(pixels.shape), str(bits)])
    ds.PatientName = "Nobody^Must^See"
    ds.PatientSex, ds.PatientAge = "F", "051Y"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(signed)
    ds.PixelSpacing = ["0.139", "0.139"]
    ds.WindowCenter, ds.WindowWidth = str(1 << (bits - 1)), str(1 << bits)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def write_dicom(
    path: Path,
    pixels: np.ndarray | None = None,
    *,
    syntax: str = ExplicitVRLittleEndian,
    bits: int = 12,
    **attributes: object,
) -> Path:
    """Write a DICOM file; see `dataset`."""
    pixels = chest(bits=bits) if pixels is None else pixels
    ds = dataset(pixels, bits=bits, **attributes)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.ImplementationVersionName = "TEST_1"
    native = syntax in NATIVE
    ds.file_meta.TransferSyntaxUID = UID(syntax) if native else ExplicitVRLittleEndian
    if syntax == ExplicitVRBigEndian:
        # Written as 16-bit words, whatever the size of a sample.
        ds.PixelData = pixels.ravel().view(np.uint16).byteswap().tobytes()
    if not native:
        ds.compress(UID(syntax), generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)
    return path


def lossless_jpeg(plain: Path, path: Path) -> Path:
    """The same file in JPEG Lossless, by GDCM."""
    gdcm = pytest.importorskip("gdcm")
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


# -- a marker in every text ----------------------------------------------------------------------------

MARKER = "ZQ7J"
"""Short enough for every value representation, and in no word of ours."""

TEXTS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
STRUCTURAL = {"PhotometricInterpretation", "NumberOfFrames", "SpecificCharacterSet"}
"""Without sound values of these a file is no picture."""


def plant(ds: Dataset) -> int:
    """Put the marker into every text attribute of the dictionary, into a sequence and private elements."""
    planted = 0
    with pydicom.config.disable_value_validation():
        for tag, (vr, *_, keyword) in DicomDictionary.items():
            group = tag >> 16
            if group in (0x0000, 0x0002, 0xFFFE, 0x7FE0) or keyword in STRUCTURAL or vr not in TEXTS:
                continue
            # Numbers as text take no text, so such an element gets its type afterwards.
            ds.add_new(tag, "LO" if vr in ("DS", "IS") else vr, MARKER)
            ds[tag].VR = vr
            planted += 1
        nested = Dataset()
        nested.add_new("PatientName", "PN", MARKER)
        nested.add_new("LUTExplanation", "LO", MARKER)
        for keyword in ("ReferencedImageSequence", "VOILUTSequence", "ModalityLUTSequence"):
            ds.add_new(keyword, "SQ", [nested])
        block = ds.private_block(0x0099, MARKER, create=True)
        block.add_new(1, "LO", MARKER)
        block.add_new(2, "OB", (MARKER * 4).encode())
        for group in (0x6000, 0x6002):
            ds.add_new(group << 16 | 0x0022, "LO", MARKER)
            ds.add_new(group << 16 | 0x1500, "LO", MARKER)
            ds.add_new(group << 16 | 0x0102, "US", 0)
            ds.add_new(group << 16 | 0x3000, "OW", (MARKER * 8).encode())
        for keyword in ("ImplementationVersionName", "SourceApplicationEntityTitle"):
            setattr(ds.file_meta, keyword, MARKER)
        ds.file_meta.PrivateInformationCreatorUID = "1.2.3"
        ds.file_meta.PrivateInformation = (MARKER * 4).encode()
    return planted + 20
