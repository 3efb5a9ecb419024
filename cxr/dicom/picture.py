"""Greyscale PNG and JPEG files, for people who work from a converted copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cxr.dicom import reasons
from cxr.dicom.layout import MAX_PIXELS
from cxr.errors import DicomReadError, printable


def read_picture(path: Path) -> np.ndarray:
    """Read a grey PNG or JPEG.

    Args:
        path: A file that `container.sniff` calls `"png"` or `"jpeg"`.

    Returns:
        `uint8` or `uint16`, `(H, W)`, turned as EXIF says it is to be shown: so do the tools in which
        boxes are drawn. Three equal channels count as grey.

    Raises:
        DicomReadError: `colour`, `too_many_pixels`, `truncated` or `decode_failed`.
    """
    name = printable(path.name)
    try:
        with Image.open(path, formats=["PNG", "JPEG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DicomReadError(
                    reasons.TOO_MANY_PIXELS,
                    f"{name}: {image.height} x {image.width} pixels, at most {MAX_PIXELS:,} are read",
                )
            if getattr(image, "n_frames", 1) > 1:
                raise DicomReadError(reasons.SEVERAL_FRAMES, f"{name}: an animation, one frame was expected")
            turn = _turn(image)
            mode = image.mode
            if mode in ("1", "LA", "P", "PA"):
                image = image.convert("RGBA" if mode in ("LA", "P", "PA") else "L")
            values = np.asarray(image)
    except DicomReadError:
        raise
    except MemoryError as error:
        raise DicomReadError(reasons.OUT_OF_MEMORY, f"{name}: not enough memory to decode") from error
    except Image.DecompressionBombError as error:
        raise DicomReadError(reasons.TOO_MANY_PIXELS, f"{name}: a decompression bomb") from error
    except Exception as error:
        cut = "truncated" in str(error).lower()
        raise DicomReadError(
            reasons.TRUNCATED if cut else reasons.DECODE_FAILED,
            f"{name}: cannot be decoded ({type(error).__name__})",
        ) from error
    if values.ndim == 3:
        values = _grey(values, mode, name)
    if values.dtype == np.int32:
        # Pillow before 11 opens 16-bit PNG as 32-bit integers.
        values = values.astype(np.uint16)
    if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
        raise DicomReadError(reasons.COLOUR, f"{name}: mode {mode}, 8 or 16 bit grey was expected")
    return np.ascontiguousarray(_TURNS[turn](values) if turn in _TURNS else values)


def picture_size(path: Path) -> tuple[int, int] | None:
    """Size `(rows, columns)` that `read_picture` would give, from the file's head; `None` if unknown."""
    try:
        with Image.open(path, formats=["PNG", "JPEG"]) as image:
            size = (image.height, image.width)
            return size[::-1] if _turn(image) >= 5 else size
    except Exception:
        # Pillow has many kinds of exception for damaged files and for decompression bombs; to a caller
        # that wants a size they all mean that it is not known.
        return None


_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda values: np.rot90(values, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda values: np.rot90(values, -1),
    7: lambda values: np.rot90(np.transpose(values), 2),
    8: np.rot90,
}
"""From stored to shown, by EXIF orientation (CIPA DC-008, tag 0x0112); 1 and all others are as stored."""


def _turn(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:
        # Damaged EXIF data says nothing about orientation, and the picture may be sound.
        return 1


def _grey(values: np.ndarray, mode: str, name: str) -> np.ndarray:
    channels = values.shape[2]
    if channels not in (3, 4) or mode == "CMYK":
        raise DicomReadError(reasons.COLOUR, f"{name}: mode {mode}, a grey picture was expected")
    first = values[:, :, 0]
    if not all(np.array_equal(first, values[:, :, channel]) for channel in (1, 2)):
        raise DicomReadError(reasons.COLOUR, f"{name}: a colour picture, a grey one was expected")
    return np.ascontiguousarray(first)
