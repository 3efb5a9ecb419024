"""Colour pictures of grey content: secondary captures with three equal channels, grey palettes.

The same rule as for PNG and JPEG files: what shows grey in every pixel is grey, exactly, and all
else is refused. Such a picture is ready to display, so no window is applied (PS3.3 C.7.6.3.1.2).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom.dataset import FileDataset

from cxr.dicom import codecs, jpeg2000, reasons, tone
from cxr.dicom.layout import Layout
from cxr.dicom.native import read_native
from cxr.errors import DicomReadError, printable


def read_grey(dataset: FileDataset, stream: BinaryIO, path: Path, layout: Layout) -> np.ndarray:
    """Decode a colour picture and see that it is grey.

    Args:
        dataset: Header of the file.
        stream: The file, positioned at the pixel data element.
        path: The file's path, for messages and for a decoder in a child process.
        layout: What the header says about the frame, `layout.coloured`.

    Returns:
        `uint8` or `uint16`, `(H, W)`.

    Raises:
        DicomReadError: `colour`, and as `codecs.decode`.
    """
    grey = _by_palette if layout.samples == 1 else _by_channels
    values = grey(dataset, stream, path, layout)
    if values is None:
        raise DicomReadError(
            reasons.COLOUR, f"{printable(path.name)}: a colour picture, a grey one was expected"
        )
    return values.view(f"u{values.dtype.itemsize}")


def _by_palette(dataset: FileDataset, stream: BinaryIO, path: Path, layout: Layout) -> np.ndarray | None:
    red, green, blue = tone.read_palette(dataset, layout)
    if red is None or green is None or blue is None:
        return None
    if not all(_same_table(red, other) for other in (green, blue)):
        return None
    index = codecs.decode(dataset, stream, path, layout, longest_side=None).values
    # Palettes of 16 bits are those of 8 bits, stretched.
    return (red(np.asarray(index)) >> max(0, red.bits - 8)).astype(np.uint8)


def _same_table(one: tone.Table, other: tone.Table) -> bool:
    return (one.first, one.bits) == (other.first, other.bits) and np.array_equal(one.entries, other.entries)


def _by_channels(dataset: FileDataset, stream: BinaryIO, path: Path, layout: Layout) -> np.ndarray | None:
    syntax, name = layout.transfer_syntax, printable(path.name)
    length, little, words = codecs.pixel_data(dataset, stream, name, syntax)
    if syntax in codecs.NATIVE:
        if layout.photometric == "YBR_FULL_422":
            # Two pixels share their colour: uncompressed, this is retired and rare.
            return None
        return _grey(read_native(stream, name, layout, length, little=little, words=words), layout)
    frame = codecs.joined_frame(stream, name)
    if syntax in codecs.RLE:
        return _grey(codecs.rle(frame, name, layout), layout)
    if syntax in codecs.JPEG_LS:
        return _grey(codecs.jpeg_ls(frame, name, layout), layout)
    if syntax in codecs.JPEG_2000:
        return _grey(_jpeg_2000(frame, name, layout), layout)
    if syntax in codecs.JPEG_DCT and codecs.check_jpeg(frame, name, layout) == 8:
        return _jpeg(frame, name, layout)
    if syntax in codecs.JPEG_DCT or syntax in codecs.JPEG_LOSSLESS:
        codecs.check_jpeg(frame, name, layout)
        return _grey(codecs.gdcm(path, layout), layout)
    raise codecs.not_read(syntax, name)


def _jpeg(frame: bytes, name: str, layout: Layout) -> np.ndarray | None:
    grey = _grey(codecs.jpeg(frame, name), layout)
    if grey is None and layout.photometric == "RGB":
        # Without a marker that says so, RGB in a JPEG is taken for YCbCr and converted.
        with suppress(DicomReadError):
            return _grey(codecs.jpeg(frame, name, raw=True), layout)
    return grey


def _jpeg_2000(frame: bytes, name: str, layout: Layout) -> np.ndarray:
    codestream = jpeg2000.read_codestream(frame, name)
    codecs.same_size((codestream.rows, codestream.columns), codestream.components, name, layout)
    if not codestream.complete:
        raise DicomReadError(reasons.TRUNCATED, f"{name}: the JPEG 2000 data ends before the picture does")
    try:
        return jpeg2000.decode_plainly(codestream.stream)
    except Exception as error:
        raise DicomReadError(
            reasons.DECODE_FAILED, f"{name}: the JPEG 2000 data is damaged ({type(error).__name__})"
        ) from error


def _grey(values: np.ndarray, layout: Layout) -> np.ndarray | None:
    """The one channel that says it all, or `None`."""
    if values.shape != layout.shape:
        return None
    first, second, third = (values[:, :, channel] for channel in range(3))
    equal = np.array_equal(first, second) and np.array_equal(first, third)
    middle = 1 << (layout.bits_stored - 1)
    colourless = layout.photometric.startswith("YBR") and bool(
        (second == middle).all() and (third == middle).all()
    )
    return np.ascontiguousarray(first) if equal or colourless else None
