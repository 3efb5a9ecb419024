"""What kind of file is this, and what does its DICOM header say, within bounds of memory."""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

from cxr.dicom import reasons
from cxr.errors import DicomReadError, printable

MAX_FILE_BYTES = 256 << 20
"""Nothing bigger is one radiograph; the largest detectors give 40 MB uncompressed."""

MAX_INFLATED_BYTES = 128 << 20
"""Cap on the deflated transfer syntax, where 294 KB can open as 300 MB."""

_DEFLATED = "1.2.840.10008.1.2.1.99"
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"

_SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (128, b"DICM", "dicom"),
)

_OTHERS = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\0\0\0\x0cjP  ", "a bare JPEG 2000 picture"),
    (b"\x08\0", "DICOM without its file meta group"),
)
"""What often lies among radiographs, by its first bytes."""

_KEYWORDS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientSex",
    "PatientAge",
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "ModalityLUTSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "PlanarConfiguration",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
]
"""All that is ever read of a data set: what the picture needs and what may leave the file."""

OVERLAY_BIT_POSITIONS = [group << 16 | 0x0102 for group in range(0x6000, 0x6020, 2)]
"""Overlay Bit Position of each of the 16 overlay groups (PS3.3 C.9.2)."""


def sniff(path: Path) -> str:
    """Tell the kind of a file by its first bytes, whatever its name says.

    A DICOM file must carry the `DICM` marker of PS3.10. Files without it are refused: every
    text file parses as *some* data set once the marker is waived, and a guess that is wrong
    is a picture that is wrong.

    Args:
        path: Any file.

    Returns:
        `"dicom"`, `"png"` or `"jpeg"`.

    Raises:
        DicomReadError: The file cannot be read, is empty, is larger than `MAX_FILE_BYTES`,
            or is none of the three.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(132)
    except OSError as error:
        raise DicomReadError(
            reasons.MISSING, f"{printable(path.name)}: cannot be opened ({error.strerror})"
        ) from error
    if size == 0:
        raise DicomReadError(reasons.EMPTY, f"{printable(path.name)}: the file is empty")
    if size > MAX_FILE_BYTES:
        raise DicomReadError(
            reasons.FILE_TOO_LARGE,
            f"{printable(path.name)}: {size >> 20} MiB, "
            f"more than the {MAX_FILE_BYTES >> 20} MiB a radiograph may have",
        )
    for offset, signature, kind in _SIGNATURES:
        if start[offset : offset + len(signature)] == signature:
            return kind
    raise DicomReadError(
        reasons.NOT_AN_IMAGE,
        f"{printable(path.name)}: neither DICOM (no DICM marker at byte 128) nor PNG nor JPEG; "
        f"it starts like {_kind(start)}",
    )


def _kind(start: bytes) -> str:
    """What a file that is no image seems to be, in our own words: its bytes may be a patient's name."""
    for signature, kind in _OTHERS:
        if start.startswith(signature):
            return kind
    if not start.strip(b"\0"):
        return "zeros"
    text = start.decode("latin-1")
    return "text" if all(letter.isprintable() or letter.isspace() for letter in text) else "binary data"


class _Silent(logging.Filter):
    """Keeps pydicom from logging in threads that read a file: it quotes the values it does not like."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread not in self.threads


_silent = _Silent()
logging.getLogger("pydicom").addFilter(_silent)


@contextmanager
def _quiet() -> Iterator[None]:
    """A damaged value warns where pydicom meets it; it is judged where it is used."""
    thread = threading.get_ident()
    outermost = thread not in _silent.threads
    _silent.threads.add(thread)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if outermost:
            _silent.threads.discard(thread)


@contextmanager
def open_dataset(path: Path) -> Iterator[tuple[FileDataset, BinaryIO]]:
    """Read a DICOM header and leave the file positioned at the pixel data element.

    Only the attributes the picture and the header table need are kept; the patient's name
    and all the rest never enter memory.

    Args:
        path: A file that `sniff` calls `"dicom"`.

    Yields:
        The data set without pixel data, and the open file, positioned at the tag of the
        first pixel data element, or at the end where there is none.

    Raises:
        DicomReadError: `damaged_header`, `transfer_syntax` (missing), or `truncated`.
    """
    with open(path, "rb") as file, _quiet():
        stream: BinaryIO = file
        try:
            # The file meta group, which names the transfer syntax, stands at the start and is short.
            perhaps = _DEFLATED.encode() in file.read(8192)
            file.seek(0)
            deflated = perhaps and transfer_syntax(read_file_meta_info(path)) == _DEFLATED
            if deflated:
                stream = _inflate(file, path)
            tags: list[Any] = [*_KEYWORDS, *OVERLAY_BIT_POSITIONS]
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=tags)
            if deflated:
                dataset.file_meta.TransferSyntaxUID = UID(_DEFLATED)
        except DicomReadError:
            raise
        except MemoryError as error:
            raise DicomReadError(
                reasons.OUT_OF_MEMORY, f"{printable(path.name)}: header too large"
            ) from error
        except Exception as error:
            # pydicom raises nine kinds of exception on damaged files; to a reader they are one.
            raise DicomReadError(
                reasons.DAMAGED_HEADER,
                f"{printable(path.name)}: header cannot be parsed ({type(error).__name__})",
            ) from error
        yield dataset, stream


def transfer_syntax(meta: Dataset) -> str:
    """Transfer syntax UID of a file meta group, `""` where it has none that can be read."""
    try:
        return str(meta.get("TransferSyntaxUID", None) or "").strip()
    except Exception:
        return ""


def _inflate(file: BinaryIO, path: Path) -> BinaryIO:
    """A deflated file as the same file in Explicit VR Little Endian, in bounded memory.

    References:
        DICOM PS3.5 A.5: the file meta group stays plain, the data set after it is deflated.
    """
    meta = read_file_meta_info(path)
    group_length = meta.get("FileMetaInformationGroupLength", None)
    if group_length is None:
        raise DicomReadError(
            reasons.DAMAGED_HEADER, f"{printable(path.name)}: file meta group length missing"
        )
    start = 132 + 12 + int(group_length)
    head = file.read(start)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflater.decompress(file.read(), MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise DicomReadError(
            reasons.TOO_MANY_PIXELS,
            f"{printable(path.name)}: inflates to more than {MAX_INFLATED_BYTES >> 20} MiB",
        )
    # Equal lengths keep the group length right; UIDs are padded with NUL.
    plain = _EXPLICIT_LITTLE.encode().ljust(len(_DEFLATED) + len(_DEFLATED) % 2, b"\0")
    return io.BytesIO(head.replace(_DEFLATED.encode(), plain[: len(_DEFLATED)], 1) + body)
