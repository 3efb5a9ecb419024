"""Uncompressed samples, read as a whole or a few rows at a time."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, cast

import numpy as np

from cxr.dicom import reasons
from cxr.dicom.layout import Layout
from cxr.errors import DicomReadError


class DiskRows:
    """Rows of an uncompressed frame, read from the file when they are asked for.

    An area average needs a few rows at a time. Reading just those keeps them in the processor's
    cache, and the frame is never in memory as a whole. (A memory map would do the same and
    die of SIGBUS when a file on a network share shrinks under it.)

    Attributes:
        shape: `(H, W)`.
        dtype: Type of a sample.
    """

    def __init__(self, stream: BinaryIO, layout: Layout, name: str) -> None:
        self.shape = (layout.rows, layout.columns)
        self.dtype = layout.dtype
        self._file, self._start, self._name = stream.fileno(), stream.tell(), name

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, _ = rows.indices(self.shape[0])
        values = np.empty((last - first, self.shape[1]), dtype=self.dtype)
        view, offset = memoryview(values).cast("B"), self._start + first * self.shape[1] * self.dtype.itemsize
        done = 0
        while done < values.nbytes:
            step = os.preadv(self._file, [view[done:]], offset + done)
            if step == 0:
                raise DicomReadError(
                    reasons.TRUNCATED, f"{self._name}: the file ends in row {first} of {self.shape[0]}"
                )
            done += step
        return values


def read_native(
    stream: BinaryIO,
    name: str,
    layout: Layout,
    length: int,
    *,
    little: bool,
    words: bool,
    by_rows: bool = False,
) -> np.ndarray:
    """Stored values of an uncompressed frame.

    Args:
        stream: The file, positioned at the value of the pixel data element.
        name: The file's name, for messages.
        layout: What the header says about the frame.
        length: Bytes of the element's value.
        little: Whether the file is little endian.
        words: Whether the element holds 16-bit words.
        by_rows: The caller can do with `DiskRows`, while `stream` is open.

    Returns:
        Integers `(H, W)`, of a colour picture `(H, W, samples)`; `DiskRows` where they were asked for
        and the file's samples need no work.

    Raises:
        DicomReadError: `truncated` or `bad_size`.
    """
    _check_length(name, layout, length)
    plain = not _needs_shift(layout) and not layout.overlay_bits
    if by_rows and little and plain and isinstance(stream, io.BufferedReader):
        return cast(np.ndarray, DiskRows(stream, layout, name))  # sliced like one by those who asked for it
    values = _whole(stream, name, layout)
    if not little:
        values = _from_big_endian(values, words=words)
    return stored_bits(values, layout)


def stored_bits(values: np.ndarray, layout: Layout) -> np.ndarray:
    """Bring the stored bits down to bit 0 and extend their sign (PS3.5 8.1.1).

    Unsigned samples aligned at bit 0 keep the bits above Bits Stored, but for those that the header
    gives to overlays: too small a Bits Stored is a common slip, and masking would fold bright tissue
    into black.
    """
    lift = layout.bits_allocated - 1 - layout.high_bit
    down = layout.bits_allocated - layout.bits_stored
    if _needs_shift(layout):
        return (values << lift) >> down
    if layout.overlay_bits:
        return values & values.dtype.type(~layout.overlay_bits & ((1 << layout.bits_allocated) - 1))
    return values


def _needs_shift(layout: Layout) -> bool:
    unused = layout.bits_allocated > layout.bits_stored
    return (layout.signed and unused) or layout.high_bit + 1 > layout.bits_stored


def _check_length(name: str, layout: Layout, length: int) -> None:
    need = layout.frame_bytes
    if length < need:
        raise DicomReadError(
            reasons.TRUNCATED,
            f"{name}: {length} bytes of pixel data, {layout.rows} x {layout.columns} needs {need}",
        )
    # A little padding is common. Much more means that Rows and Columns are not the picture's.
    if length - need > max(4096, need // 100):
        raise DicomReadError(
            reasons.BAD_SIZE,
            f"{name}: {length} bytes of pixel data, {layout.rows} x {layout.columns} needs only {need}",
        )


def _whole(stream: BinaryIO, name: str, layout: Layout) -> np.ndarray:
    count = layout.rows * layout.columns * layout.samples
    if isinstance(stream, io.BytesIO):
        content = stream.read(layout.frame_bytes)
        values = np.frombuffer(content, dtype=layout.dtype, count=len(content) // layout.dtype.itemsize)
    else:
        values = np.fromfile(stream, dtype=layout.dtype, count=count)
    if values.size < count:
        raise DicomReadError(
            reasons.TRUNCATED,
            f"{name}: the file ends {layout.frame_bytes - values.nbytes} bytes before its pixel data does",
        )
    if layout.by_plane:
        return np.moveaxis(values.reshape(layout.samples, layout.rows, layout.columns), 0, 2)
    return values.reshape(layout.shape)


def _from_big_endian(values: np.ndarray, *, words: bool) -> np.ndarray:
    """Native order; 8-bit samples in 16-bit words come in swapped pairs (PS3.5 8.2)."""
    if values.itemsize == 2:
        return values.byteswap()
    if words and values.size % 2 == 0:
        return values.ravel().view(np.uint16).byteswap().view(values.dtype).reshape(values.shape)
    return values
