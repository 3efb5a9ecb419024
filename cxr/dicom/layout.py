"""How the samples of one frame lie in a file, checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import FileDataset

from cxr.dicom import reasons
from cxr.dicom.container import transfer_syntax
from cxr.errors import DicomReadError

MAX_PIXELS = 40_000_000
"""The largest mammography detectors have 28 million; what claims more is damaged or hostile."""


@dataclass(frozen=True)
class Layout:
    """The image pixel attributes of one grey frame, consistent with each other.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
        bits_allocated: 8 or 16.
        bits_stored: 1 to `bits_allocated`.
        high_bit: Index of the most significant stored bit.
        signed: Whether samples are two's complement.
        inverted: Whether the lowest value is shown white (MONOCHROME1).
        transfer_syntax: UID.
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    inverted: bool
    transfer_syntax: str

    @property
    def dtype(self) -> np.dtype:
        """Type of a stored sample in the machine's byte order."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def value_range(self) -> tuple[int, int]:
        """Lowest and highest value that `bits_stored` can hold."""
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


def read_layout(dataset: FileDataset, name: str) -> Layout:
    """Check the image pixel attributes of a data set.

    Args:
        dataset: Header as `container.open_dataset` gives it.
        name: File name, for messages.

    Returns:
        The layout of its one grey frame.

    Raises:
        DicomReadError: `transfer_syntax`, `several_frames`, `colour`, `bad_size`,
            `too_many_pixels` or `bad_bits`.

    References:
        DICOM PS3.3 C.7.6.3.1 (image pixel description).
    """
    syntax = transfer_syntax(dataset.file_meta)
    if not syntax:
        raise DicomReadError(reasons.TRANSFER_SYNTAX, f"{name}: Transfer Syntax UID is missing")

    if not any(keyword in dataset for keyword in ("Rows", "BitsAllocated", "PhotometricInterpretation")):
        raise DicomReadError(reasons.NO_PIXEL_DATA, f"{name}: not an image (no image pixel attributes)")
    samples = _integer(dataset, "SamplesPerPixel", name, default=1)
    photometric = _word(dataset, "PhotometricInterpretation", name)
    if photometric == "PALETTE COLOR":
        raise DicomReadError(reasons.COLOUR, f"{name}: palette colour, a grey radiograph was expected")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise DicomReadError(
            reasons.COLOUR,
            f"{name}: {samples} samples per pixel, Photometric Interpretation {photometric!r}; "
            "expected 1 and MONOCHROME1 or MONOCHROME2",
        )
    frames = _integer(dataset, "NumberOfFrames", name, default=1)
    if frames > 1:
        raise DicomReadError(reasons.SEVERAL_FRAMES, f"{name}: {frames} frames, one was expected")

    rows = _integer(dataset, "Rows", name, default=0)
    columns = _integer(dataset, "Columns", name, default=0)
    if rows < 1 or columns < 1:
        raise DicomReadError(
            reasons.BAD_SIZE, f"{name}: Rows {rows}, Columns {columns}; both must be at least 1"
        )
    if rows * columns > MAX_PIXELS:
        raise DicomReadError(
            reasons.TOO_MANY_PIXELS, f"{name}: {rows} x {columns} pixels, at most {MAX_PIXELS:,} are read"
        )

    allocated = _integer(dataset, "BitsAllocated", name, default=0)
    stored = _integer(dataset, "BitsStored", name, default=allocated)
    high = _integer(dataset, "HighBit", name, default=stored - 1)
    representation = _integer(dataset, "PixelRepresentation", name, default=0)
    if (
        allocated not in (8, 16)
        or not 1 <= stored <= allocated
        or not stored - 1 <= high < allocated
        or representation not in (0, 1)
    ):
        raise DicomReadError(
            reasons.BAD_BITS,
            f"{name}: Bits Allocated {allocated}, Bits Stored {stored}, High Bit {high}, "
            f"Pixel Representation {representation} do not fit together (8 or 16 bits are read)",
        )
    return Layout(
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        signed=representation == 1,
        inverted=photometric == "MONOCHROME1",
        transfer_syntax=syntax,
    )


def _word(dataset: FileDataset, keyword: str, name: str) -> str:
    try:
        return str(dataset.get(keyword, None) or "").strip().upper()
    except Exception as error:
        raise DicomReadError(reasons.DAMAGED_HEADER, f"{name}: {keyword} cannot be read") from error


def _integer(dataset: FileDataset, keyword: str, name: str, *, default: int) -> int:
    try:
        value = dataset.get(keyword, None)
        return default if value is None or value == "" else int(value)
    except Exception as error:
        raise DicomReadError(reasons.DAMAGED_HEADER, f"{name}: {keyword} is not a whole number") from error
