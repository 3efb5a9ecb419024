"""JPEG 2000 decoded no finer than needed.

A JPEG 2000 codestream holds a picture as a pyramid: level `r` is the picture at `1 / 2**r` of
its size, and decoding it skips the finer levels, which is where the time goes. Everything this
module needs to choose a level, and to notice a codestream that was cut off, stands in a few
marker segments, which it reads itself; the decoding is Pillow's (OpenJPEG). What Pillow refuses is
shown to pylibjpeg-openjpeg, which is slower, before it is called broken.

References:
    ISO/IEC 15444-1 (ITU-T T.800) Annex A: codestream syntax.
"""

from __future__ import annotations

import importlib.util
import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, Jpeg2KImagePlugin

from cxr.dicom import reasons
from cxr.errors import DicomReadError

_SOC_SIZ = b"\xff\x4f\xff\x51"
_SIZ, _COD, _COC, _SOT, _EOC = 0xFF51, 0xFF52, 0xFF53, 0xFF90, b"\xff\xd9"


@dataclass(frozen=True)
class Codestream:
    """What the main header of a codestream says.

    Attributes:
        rows: Height of the picture.
        columns: Width of the picture.
        components: Number of components.
        precision: Bits of a sample.
        signed: Whether samples are signed.
        levels: Number of times the picture can be halved, 0 where it had better not be.
        reversible: Whether the wavelet is the 5/3 of lossless coding, else the 9/7.
        complete: Whether all tile parts are there to their last byte, as far as their lengths say.
        open_ended: Whether only a decoder can tell: the last tile part has no length of its own, and no
            end marker follows.
        stream: The data from its start to its end marker: what followed is cut off, and a lost marker
            is there again. DICOM pads data of odd length by a byte, which decoders take amiss.
    """

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool
    levels: int
    reversible: bool
    complete: bool
    open_ended: bool
    stream: bytes


def read_codestream(data: bytes, name: str) -> Codestream:
    """Read the main header and follow the tile parts to the end.

    Args:
        data: A codestream, bare or in a JP2 file.
        name: File name, for messages.

    Returns:
        The codestream's facts.

    Raises:
        DicomReadError: `decode_failed` where it is not JPEG 2000, `truncated` where it ends
            within its main header.
    """
    start = data.find(_SOC_SIZ, 0, 4096)
    if start < 0:
        raise DicomReadError(reasons.DECODE_FAILED, f"{name}: the pixel data is not JPEG 2000")
    try:
        return _parse(data, start)
    except (struct.error, IndexError) as error:
        raise DicomReadError(reasons.TRUNCATED, f"{name}: JPEG 2000 data ends within its header") from error


def _parse(data: bytes, start: int) -> Codestream:
    (x1, y1, x0, y0) = struct.unpack_from(">4I", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    depth = data[start + 42]
    levels, reversible = None, True
    special = x0 != 0 or y0 != 0
    position = start + 2
    while True:
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == _SOT:
            break
        if marker < 0xFF01 or length < 2:
            raise IndexError(position)
        if marker == _COD:
            levels, reversible = data[position + 9], data[position + 13] == 1
        special |= marker == _COC
        position += 2 + length
    if levels is None:
        raise IndexError(position)
    end, complete, open_ended = _end(data, position)
    whole = data[end - 2 : end] == _EOC
    return Codestream(
        rows=y1 - y0,
        columns=x1 - x0,
        components=components,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        # A component with levels of its own and a grid that does not start at 0 are rare enough to
        # be decoded in full.
        levels=0 if special else min(levels, 32),
        reversible=reversible,
        complete=complete,
        open_ended=open_ended,
        stream=data if whole and end == len(data) else data[:end] + (b"" if whole else _EOC),
    )


def _end(data: bytes, position: int) -> tuple[int, bool, bool]:
    """Follow the chain of tile parts; OpenJPEG itself may fill what is missing with grey.

    Args:
        data: The codestream.
        position: Of the first tile part.

    Returns:
        Where the picture ends, its end marker included where there is one, and `complete` and
        `open_ended` of `Codestream`.

    References:
        ISO/IEC 15444-1 A.4.2: a length of 0 means "until the end of the codestream".
    """
    while position + 12 <= len(data):
        marker, _, _, length = struct.unpack_from(">HHHI", data, position)
        if marker != _SOT:
            break
        if length == 0:
            # Packets hold no code above FF8F, so this is the marker and no data.
            found = data.rfind(_EOC, position + 12)
            return (found + 2, True, False) if found >= 0 else (len(data), True, True)
        if length < 14 or position + length > len(data):
            return len(data), False, False
        position += length
    # All tile parts are whole; a lost end marker is harmless.
    here = data[position : position + 2] == _EOC
    return min(position + 2 * here, len(data)), position <= len(data), False


def level_for(codestream: Codestream, longest_side: int | None) -> int:
    """The coarsest level whose longer side is still at least `longest_side`."""
    if longest_side is None:
        return 0
    level = 0
    size = max(codestream.rows, codestream.columns)
    while level < codestream.levels and -(-size >> (level + 1)) >= longest_side:
        level += 1
    return level


def decode(codestream: Codestream, level: int, name: str) -> tuple[np.ndarray, int]:
    """Decode one grey picture at one level.

    Args:
        codestream: The codestream and its facts.
        level: 0 for all of it, `r` for `1 / 2**r` of its size.
        name: File name, for messages.

    Returns:
        Samples `(ceil(rows / 2**level), ceil(columns / 2**level))`, `uint8`, `uint16`, or
        `int32` where the codestream is signed, in the codestream's own range; and the level they have,
        which is 0 where only a decoder could read them that knows no levels.

    Raises:
        DicomReadError: `decode_failed`; `truncated` where the end is open.
    """
    try:
        return _by_pillow(codestream, level), level
    except MemoryError as error:
        raise DicomReadError(reasons.OUT_OF_MEMORY, f"{name}: not enough memory to decode") from error
    except Exception as error:
        refused = type(error).__name__
    try:
        return _by_pylibjpeg(codestream), 0
    except MemoryError as error:
        raise DicomReadError(reasons.OUT_OF_MEMORY, f"{name}: not enough memory to decode") from error
    except Exception as error:
        # The decoders' own texts may quote the data.
        also = type(error).__name__
    if codestream.open_ended:
        raise DicomReadError(
            reasons.TRUNCATED, f"{name}: the JPEG 2000 data has no end marker and no decoder finds it whole"
        )
    raise DicomReadError(
        reasons.DECODE_FAILED,
        f"{name}: the JPEG 2000 data is damaged, two decoders refuse it ({refused}, {also})",
    )


def _by_pillow(codestream: Codestream, level: int) -> np.ndarray:
    with Image.open(io.BytesIO(codestream.stream), formats=["JPEG2000"]) as image:
        assert isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile)
        image.reduce = level
        # Pillow rounds the reduced size to the nearest, the standard (B-15) rounds it up; from a
        # size that is a multiple of the reduction both come to the same.
        wide, high = (-(-side >> level) << level for side in image.size)
        image._size = wide, high
        image.load()
        samples = np.asarray(image)
    if samples.ndim != 2 or samples.dtype.itemsize > 2:
        raise ValueError(f"expected 8 or 16 bit grey, got {samples.dtype} {samples.shape}")
    # Pillow stretches N bits to 8 or 16 and lifts signed samples to unsigned.
    samples = samples.astype(f"u{samples.dtype.itemsize}", copy=False)
    shift = 8 * samples.dtype.itemsize - codestream.precision
    if shift:
        samples = samples >> shift
    if codestream.signed:
        return samples.astype(np.int32) - (1 << (codestream.precision - 1))
    return samples


def _by_pylibjpeg(codestream: Codestream) -> np.ndarray:
    samples = decode_plainly(codestream.stream)
    if samples.ndim != 2 or samples.dtype.kind not in "iu" or samples.dtype.itemsize > 2:
        raise ValueError(f"expected 8 or 16 bit grey, got {samples.dtype} {samples.shape}")
    return samples.astype(np.int32) if codestream.signed else samples.view(f"u{samples.dtype.itemsize}")


def decode_plainly(stream: bytes) -> np.ndarray:
    """All components of a codestream in full, by pylibjpeg-openjpeg.

    Args:
        stream: A codestream to its end marker.

    Returns:
        `(H, W)` or `(H, W, components)` in the codestream's own range.

    Raises:
        ImportError: The package is not installed.
        Exception: Whatever the decoder says.
    """
    if importlib.util.find_spec("openjpeg") is None:
        raise ImportError("pylibjpeg-openjpeg is not installed")
    import openjpeg

    decoded: np.ndarray = openjpeg.decode(stream, 0)  # type: ignore[attr-defined]
    return decoded
