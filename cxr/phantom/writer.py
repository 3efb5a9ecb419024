"""One radiograph as a DICOM Part 10 file that other software opens."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from cxr.phantom.headers import JPEG2000_LOSSLESS, Header

UID_ROOT = "2.25."
"""UUID-derived UIDs (PS3.5 B.2): valid anywhere, and no registered organisation is named."""


def uid(*parts: object) -> str:
    """A DICOM UID that depends on nothing but `parts`."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return UID_ROOT + str(int.from_bytes(digest[:16], "big"))


def write_dicom(path: Path, stored: np.ndarray, header: Header, *, identity: str) -> None:
    """Write one image, with no time of writing in it; its folder gets its name when all are there.

    Args:
        path: File to write.
        stored: Stored values, `uint16` of shape `(H, W)`, below `2 ** header.bits_stored`. In
            MONOCHROME1 the caller has inverted them already.
        header: What else stands in the file.
        identity: Text from which the UIDs are derived.

    References:
        DICOM PS3.10 7.1 (file meta information), PS3.5 8.2.4 (JPEG 2000).
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(header.sop_class)
    meta.MediaStorageSOPInstanceUID = UID(uid(identity, "instance"))
    meta.TransferSyntaxUID = UID(header.transfer_syntax)
    meta.ImplementationClassUID = UID(uid("implementation", header.version))
    # Present even when empty: pydicom would put its own name and version in place of a missing one.
    meta.ImplementationVersionName = header.version

    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID = meta.MediaStorageSOPClassUID
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = uid(identity, "study")
    ds.SeriesInstanceUID = uid(identity, "series")
    ds.Modality = "DX" if header.sop_class.endswith("1.1.1.1") else "CR"
    ds.PatientName = "PHANTOM^SYNTHETIC"
    ds.PatientID = "PHANTOM-" + hashlib.sha256(identity.encode()).hexdigest()[:8].upper()
    ds.PatientBirthDate = ""
    ds.PatientSex = header.sex
    if header.age is not None:
        # `Y` alone occurs in the published files; the library must not object.
        ds.add(DataElement("PatientAge", "AS", header.age, validation_mode=config.IGNORE))
    ds.StudyDate = ds.StudyTime = ds.StudyID = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.Manufacturer = "Synthetic phantom, no patient"
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = "PA"
    ds.PatientOrientation = ["L", "F"]
    ds.ImageType = ["DERIVED", "PRIMARY"]

    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME1" if header.inverted else "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated = 16
    ds.BitsStored = header.bits_stored
    ds.HighBit = header.bits_stored - 1
    ds.PixelRepresentation = 0
    ds.RescaleIntercept = "0"
    ds.RescaleSlope = "1"
    ds.RescaleType = "US"
    ds.LossyImageCompression = "00"
    if header.pixel_spacing is not None:
        ds.PixelSpacing = [f"{header.pixel_spacing:g}"] * 2
    if header.window is not None:
        ds.WindowCenter, ds.WindowWidth = (str(v) for v in header.window)

    pixels = np.ascontiguousarray(stored, dtype="<u2")
    if header.transfer_syntax == JPEG2000_LOSSLESS:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(
            JPEG2000_LOSSLESS,
            pixels,
            encoding_plugin="pylibjpeg",
            generate_instance_uid=False,
        )
    else:
        ds.PixelData = pixels.tobytes()
        ds["PixelData"].VR = "OW"
    ds.save_as(path, enforce_file_format=True)
