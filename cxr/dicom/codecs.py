"""Samples out of a file: one decoder for each transfer syntax, none of them trusted.

All that VinBigData uses (uncompressed and JPEG 2000) needs NumPy and Pillow alone. JPEG-LS and
JPEG Lossless are optional packages; a missing one is named in the error. What can abort the
process (GDCM on corrupt data) runs in a child of its own.
"""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.uid import UID

from cxr.dicom import jpeg2000, reasons
from cxr.dicom.layout import Layout
from cxr.dicom.native import read_native, stored_bits
from cxr.errors import DicomReadError, printable

_PIXEL_DATA = (0x7FE0, 0x0010)
_ITEM, _ITEM_LIST_END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF

NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"}
JPEG_2000 = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"}
JPEG_LS = {"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}
JPEG_DCT = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}
JPEG_LOSSLESS = {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
RLE = {"1.2.840.10008.1.2.5"}

_CHILD_SECONDS = 30.0
"""For callers without a time limit of their own; `IsolatedReader` takes the child along with its own."""


@dataclass(frozen=True)
class Samples:
    """Decoded samples.

    Attributes:
        values: Integers `(H, W)`; `DiskRows` only where the caller asked for them.
        level: How often the picture was halved in decoding; 0 is its full size.
        reversible: With a level above 0, which wavelet halved it; see `resample`.
    """

    values: np.ndarray
    level: int = 0
    reversible: bool = True


def decode(
    dataset: FileDataset,
    stream: BinaryIO,
    path: Path,
    layout: Layout,
    *,
    longest_side: int | None,
    by_rows: bool = False,
) -> Samples:
    """Decode the frame of an open DICOM file.

    Args:
        dataset: Header of the file.
        stream: The file, positioned at the pixel data element.
        path: The file's path, for messages and for a decoder in a child process.
        layout: What the header says about the frame.
        longest_side: The caller needs no more pixels than this on the longer side; `None`
            asks for the full size whatever the codec offers.
        by_rows: The caller can do with `DiskRows`, while `stream` is open.

    Returns:
        Samples as stored: no LUT, no rescale, no window.

    Raises:
        DicomReadError: `no_pixel_data`, `transfer_syntax`, `truncated`, `codec_missing`,
            `bad_size`, `colour` or `decode_failed`.
    """
    syntax, name = layout.transfer_syntax, printable(path.name)
    length, little, words = pixel_data(dataset, stream, name, syntax)
    if syntax in NATIVE:
        return Samples(read_native(stream, name, layout, length, little=little, words=words, by_rows=by_rows))
    if syntax in JPEG_2000:
        return _jpeg_2000(joined_frame(stream, name), name, layout, longest_side)
    if syntax in RLE:
        return Samples(stored_bits(rle(joined_frame(stream, name), name, layout), layout))
    if syntax in JPEG_LS:
        return Samples(stored_bits(jpeg_ls(joined_frame(stream, name), name, layout), layout))
    if syntax in JPEG_DCT or syntax in JPEG_LOSSLESS:
        frame = joined_frame(stream, name)
        precision = check_jpeg(frame, name, layout)
        if syntax in JPEG_DCT and precision == 8:
            return Samples(jpeg(frame, name))
        return Samples(stored_bits(gdcm(path, layout), layout))
    raise not_read(syntax, name)


# -- the pixel data element --------------------------------------------------------------------------


def pixel_data(dataset: FileDataset, stream: BinaryIO, name: str, syntax: str) -> tuple[int, bool, bool]:
    """Step to the value of the pixel data element.

    Args:
        dataset: Header of the file.
        stream: The file, positioned at the element.
        name: The file's name, for messages.
        syntax: Transfer syntax.

    Returns:
        Length of the value, whether it is little endian, and whether it is of 16-bit words.

    Raises:
        DicomReadError: `no_pixel_data`, `truncated`, `damaged_header`, or `transfer_syntax` where
            that says compressed and the element says not, or the other way round.
    """
    implicit, little = (bool(value) for value in dataset.original_encoding)
    length, words = _pixel_data_head(stream, name, implicit=implicit, little=little)
    if (length == _UNDEFINED) == (syntax in NATIVE):
        found = "encapsulated" if length == _UNDEFINED else "not encapsulated"
        raise DicomReadError(
            reasons.TRANSFER_SYNTAX,
            f"{name}: transfer syntax {syntax_name(syntax)}, but the pixel data is {found}",
        )
    return length, little, words


def not_read(syntax: str, name: str) -> DicomReadError:
    """The error for a transfer syntax that no decoder here reads."""
    return DicomReadError(
        reasons.TRANSFER_SYNTAX, f"{name}: transfer syntax {syntax_name(syntax)} is not read"
    )


def _pixel_data_head(stream: BinaryIO, name: str, *, implicit: bool, little: bool) -> tuple[int, bool]:
    """Step over the element's header: length of its value, and whether that is 16-bit words (PS3.5 7.1)."""
    order = "<" if little else ">"
    head = stream.read(8)
    if len(head) < 8 or struct.unpack_from(f"{order}HH", head) != _PIXEL_DATA:
        raise DicomReadError(reasons.NO_PIXEL_DATA, f"{name}: no Pixel Data element")
    if implicit:
        return struct.unpack_from(f"{order}I", head, 4)[0], True
    if head[4:6] not in (b"OB", b"OW", b"UN"):
        raise DicomReadError(
            reasons.DAMAGED_HEADER, f"{name}: Pixel Data has an unexpected type, expected OB, OW or UN"
        )
    tail = stream.read(4)
    if len(tail) < 4:
        raise DicomReadError(reasons.TRUNCATED, f"{name}: the file ends where the pixel data starts")
    return struct.unpack(f"{order}I", tail)[0], head[4:6] == b"OW"


def joined_frame(stream: BinaryIO, name: str) -> bytes:
    """All fragments after the offset table, joined: with one frame they are that frame (PS3.5 A.4)."""
    fragments: list[bytes] = []
    first = True
    while head := stream.read(8):
        if len(head) < 8:
            raise DicomReadError(reasons.TRUNCATED, f"{name}: the file ends within the pixel data")
        group, element, length = struct.unpack("<HHI", head)
        if (group, element) == _ITEM_LIST_END:
            break
        if (group, element) != _ITEM or length == _UNDEFINED:
            raise DicomReadError(reasons.DECODE_FAILED, f"{name}: the pixel data's fragments are damaged")
        fragment = stream.read(length)
        if len(fragment) < length:
            raise DicomReadError(
                reasons.TRUNCATED,
                f"{name}: the file ends {length - len(fragment)} bytes before its pixel data does",
            )
        if not first:
            fragments.append(fragment)
        first = False
    frame = b"".join(fragments)
    if not frame:
        raise DicomReadError(reasons.NO_PIXEL_DATA, f"{name}: the pixel data has no fragment")
    return frame


# -- compressed --------------------------------------------------------------------------------------


def _jpeg_2000(frame: bytes, name: str, layout: Layout, longest_side: int | None) -> Samples:
    codestream = jpeg2000.read_codestream(frame, name)
    same_size((codestream.rows, codestream.columns), codestream.components, name, layout)
    if not codestream.complete:
        raise DicomReadError(reasons.TRUNCATED, f"{name}: the JPEG 2000 data ends before the picture does")
    # Where header and codestream disagree about the sign the bits are to be reinterpreted, which
    # averages do not survive.
    same_sign = codestream.signed == layout.signed
    # Overlays are told apart by bits, which averages do not survive either. Where only a decoder can
    # tell whether all is there, it has to see all.
    whole = not same_sign or layout.overlay_bits or codestream.open_ended
    level = 0 if whole else jpeg2000.level_for(codestream, longest_side)
    values, level = jpeg2000.decode(codestream, level, name)
    expected = tuple(-(-side >> level) for side in (layout.rows, layout.columns))
    if values.shape != expected:
        raise DicomReadError(
            reasons.BAD_SIZE, f"{name}: decoded to {values.shape}, level {level} should give {expected}"
        )
    if not same_sign:
        span = 1 << codestream.precision
        values = values.astype(np.int32) & (span - 1)
        if layout.signed:
            values = np.where(values >= span // 2, values - span, values)
    if values.dtype == np.int32:
        values = values.astype(np.int16 if layout.signed else np.uint16)
    if layout.overlay_bits and not layout.signed:
        values = values & values.dtype.type(~layout.overlay_bits & ((1 << 8 * values.dtype.itemsize) - 1))
    return Samples(values, level, codestream.reversible)


def rle(frame: bytes, name: str, layout: Layout) -> np.ndarray:
    """Byte planes, sample by sample, most significant first, each packed by PackBits (PS3.5 Annex G).

    Returns:
        `(H, W)`, or `(H, W, samples)` where there are several.
    """
    size = layout.bits_allocated // 8
    planes = size * layout.samples
    count = layout.rows * layout.columns
    if len(frame) < 64:
        raise DicomReadError(reasons.TRUNCATED, f"{name}: RLE data ends within its header")
    header = struct.unpack_from("<16I", frame)
    bounds = [*header[1 : planes + 1], len(frame)]
    if header[0] != planes or bounds != sorted(bounds) or bounds[0] < 64:
        raise DicomReadError(
            reasons.DECODE_FAILED, f"{name}: RLE data has {header[0]} segments, {planes} were expected"
        )
    out = np.empty((count, planes), dtype=np.uint8)
    for plane in range(planes):
        packed = frame[bounds[plane] : bounds[plane + 1]]
        unpacked = _unpack_bits(packed, count)
        if len(unpacked) < count:
            raise DicomReadError(
                reasons.TRUNCATED, f"{name}: RLE segment {plane + 1} gives {len(unpacked)} of {count} bytes"
            )
        # Most significant first in the file, last in little-endian memory.
        sample, byte = divmod(plane, size)
        out[:, sample * size + size - 1 - byte] = np.frombuffer(unpacked, dtype=np.uint8, count=count)
    values = out.view(layout.dtype.newbyteorder("<")).astype(layout.dtype)
    return values.reshape(layout.shape)


def _unpack_bits(packed: bytes, size: int) -> bytearray:
    """PackBits, at most `size` bytes and a run: the packed data may claim 64 times its length."""
    out = bytearray()
    position, end = 0, len(packed)
    while position < end and len(out) < size:
        control = packed[position]
        if control < 128:
            out += packed[position + 1 : position + 2 + control]
            position += 2 + control
        else:
            if control > 128:
                out += packed[position + 1 : position + 2] * (257 - control)
            position += 2
        if control == 128:
            position -= 1
    return out


def jpeg_ls(frame: bytes, name: str, layout: Layout) -> np.ndarray:
    """Samples of a JPEG-LS stream, `(H, W)`, or `(H, W, samples)` where there are several."""
    check_jpeg(frame, name, layout)
    if importlib.util.find_spec("jpeg_ls") is None:
        raise DicomReadError(
            reasons.CODEC_MISSING, f"{name}: JPEG-LS needs the package pyjpegls (pip install pyjpegls)"
        )
    import jpeg_ls as decoder

    try:
        data, info = decoder.decode_pixel_data(frame)
        dtype = layout.dtype if info["bits_per_sample"] > 8 else np.dtype(layout.dtype.kind + "1")
        values = np.frombuffer(data, dtype=dtype)
        if layout.samples > 1 and info["interleave_mode"] == 0:
            values = np.moveaxis(values.reshape(layout.samples, layout.rows, layout.columns), 0, 2)
        values = values.reshape(layout.shape)
    except Exception as error:
        raise DicomReadError(
            reasons.DECODE_FAILED, f"{name}: the JPEG-LS data is damaged ({type(error).__name__})"
        ) from error
    return values.astype(layout.dtype, copy=False)


def jpeg(frame: bytes, name: str, *, raw: bool = False) -> np.ndarray:
    """An 8-bit JPEG, as RGB where it has colour; `raw` leaves out the conversion to RGB."""
    try:
        with Image.open(io.BytesIO(frame), formats=["JPEG"]) as image:
            if raw:
                image.draft("YCbCr", None)
            return np.asarray(image)
    except Exception as error:
        raise DicomReadError(
            reasons.DECODE_FAILED, f"{name}: the JPEG data is damaged ({type(error).__name__})"
        ) from error


def gdcm(path: Path, layout: Layout) -> np.ndarray:
    """Decode in a child process: GDCM aborts its process on corrupt data."""
    if importlib.util.find_spec("gdcm") is None:
        raise DicomReadError(
            reasons.CODEC_MISSING,
            f"{printable(path.name)}: JPEG Lossless and 12-bit JPEG need the package python-gdcm "
            "(pip install python-gdcm)",
        )
    script = Path(__file__).with_name("gdcm_child.py")
    try:
        child = subprocess.run(
            [sys.executable, str(script), str(path), str(_CHILD_SECONDS)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHILD_SECONDS,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired as error:
        raise DicomReadError(
            reasons.TIMEOUT, f"{printable(path.name)}: JPEG decoder took over {_CHILD_SECONDS:.0f} s"
        ) from error
    if child.returncode != 0 or len(child.stdout) < layout.frame_bytes:
        ended = f"ended with {child.returncode}" if child.returncode else "gave too few pixels"
        raise DicomReadError(
            reasons.DECODE_FAILED, f"{printable(path.name)}: the JPEG data is damaged, its decoder {ended}"
        )
    values = np.frombuffer(
        child.stdout, dtype=layout.dtype, count=layout.frame_bytes // layout.dtype.itemsize
    )
    return values.reshape(layout.shape)


def check_jpeg(frame: bytes, name: str, layout: Layout) -> int:
    """Compare the frame header of a JPEG or JPEG-LS stream with the data set; return its precision.

    References:
        ITU-T T.81 B.2.2 (frame header), T.87 C.2.2 (SOF55 of JPEG-LS).
    """
    position = 2
    while position + 10 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        (length,) = struct.unpack_from(">H", frame, position + 2)
        # SOF0..SOF15 without DHT, JPG and DAC, and SOF55.
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
            same_size((rows, columns), components, name, layout)
            if (precision > 8) != (layout.bits_allocated > 8) and precision > 8:
                raise DicomReadError(
                    reasons.BAD_BITS,
                    f"{name}: {precision}-bit JPEG in {layout.bits_allocated} allocated bits",
                )
            return precision
        position += 2 + length
    raise DicomReadError(reasons.DECODE_FAILED, f"{name}: the pixel data has no JPEG frame header")


def same_size(size: tuple[int, int], components: int, name: str, layout: Layout) -> None:
    """Compare what a compressed picture says of itself with the data set."""
    if components != layout.samples:
        raise DicomReadError(
            reasons.COLOUR,
            f"{name}: the compressed picture has {components} components, the header says {layout.samples}",
        )
    if size != (layout.rows, layout.columns):
        raise DicomReadError(
            reasons.BAD_SIZE,
            f"{name}: Rows x Columns is {layout.rows} x {layout.columns}, "
            f"the compressed picture is {size[0]} x {size[1]}",
        )


def syntax_name(syntax: str) -> str:
    """A transfer syntax of the standard in words; any other text of a file is not repeated."""
    uid = UID(syntax)
    return f"{syntax} ({uid.name})" if uid.is_transfer_syntax and uid.name != syntax else "unknown"
