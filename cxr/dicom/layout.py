"""How the samples of one frame lie in a file, checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import FileDataset

from cxr.dicom import reasons
from cxr.dicom.container import OVERLAY_BIT_POSITIONS, transfer_syntax
from cxr.errors import DicomReadError

MAX_PIXELS = 40_000_000
"""The largest mammography detectors have 28 million; what claims more is damaged or hostile."""

_PHOTOMETRIC = {
    1: ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"),
    3: ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"),
}
"""Photometric interpretations that are read, by samples per pixel."""


@dataclass(frozen=True)
class Layout:
    """The image pixel attributes of one frame, consistent with each other.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
        bits_allocated: 8 or 16.
        bits_stored: 1 to `bits_allocated`.
        high_bit: Index of the most significant stored bit.
        signed: Whether samples are two's complement.
        inverted: Whether the lowest value is shown white (MONOCHROME1).
        transfer_syntax: UID.
        overlay_bits: Mask of the bits of a pixel cell that hold overlays and no grey.
        samples: Samples of a pixel: 1, or 3 for a colour picture, which may have grey content.
        by_plane: Whether the samples of a colour picture come channel after channel.
        photometric: Photometric Interpretation.
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    inverted: bool
    transfer_syntax: str
    overlay_bits: int = 0
    samples: int = 1
    by_plane: bool = False
    photometric: str = "MONOCHROME2"

    @property
    def coloured(self) -> bool:
        """Whether the header says colour; `colour.read_grey` looks whether the content is grey."""
        return not self.photometric.startswith("MONOCHROME")

    @property
    def dtype(self) -> np.dtype:
        """Type of a stored sample in the machine's byte order."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    @property
    def shape(self) -> tuple[int, ...]:
        """`(rows, columns)`, of a colour picture `(rows, columns, samples)`."""
        size = (self.rows, self.columns)
        return size if self.samples == 1 else (*size, self.samples)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8

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
        The layout of its one frame: grey, or coloured as far as the header goes.

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
    if samples not in _PHOTOMETRIC or photometric not in _PHOTOMETRIC[samples]:
        kind = "known" if any(photometric in words for words in _PHOTOMETRIC.values()) else "unknown"
        raise DicomReadError(
            reasons.COLOUR,
            f"{name}: {samples} samples per pixel with {kind} Photometric Interpretation; expected 1 with "
            "MONOCHROME1, MONOCHROME2 or PALETTE COLOR, or 3 with RGB or YBR",
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
        overlay_bits=_overlay_bits(dataset, high, allocated) if samples == 1 else 0,
        samples=samples,
        by_plane=samples == 3 and _integer(dataset, "PlanarConfiguration", name, default=0) == 1,
        photometric=photometric,
    )


def _overlay_bits(dataset: FileDataset, high: int, allocated: int) -> int:
    """Mask of the bits that overlays take of a pixel cell, 0 for none.

    A value that runs over Bits Stored does so bit by bit from below, so it cannot reach past an
    overlay: from the lowest overlay upwards nothing is grey.

    References:
        DICOM PS3.5 8.1.1 (unused bits of a pixel cell), PS3.3 C.9.2 (Overlay Bit Position, retired
        use), where 0 means that the overlay has data of its own.
    """
    places = []
    for tag in OVERLAY_BIT_POSITIONS:
        try:
            places.append(int(dataset[tag].value))
        except Exception:
            # No such overlay, or a position that is no number.
            continue
    lowest = min((place for place in places if high < place < allocated), default=allocated)
    return ((1 << allocated) - 1) >> lowest << lowest


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
