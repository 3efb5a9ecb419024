"""Images as text of a page: one size and quality for all, chosen so that they fit a budget."""

from __future__ import annotations

import base64
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cxr.dicom import IsolatedReader
from cxr.errors import DataError, DicomReadError
from cxr.plots.images import ImageSource


@dataclass(frozen=True)
class Reduction:
    """How pixels are reduced for a page.

    Attributes:
        longest_side: Longer side in pixels; smaller images keep their size.
        quality: WebP quality, 0 to 100; above 100 nothing is lost.
    """

    longest_side: int
    quality: int


EIGHT_BIT = tuple(
    Reduction(*step)
    for step in (
        (1024, 90),
        (1024, 80),
        (1024, 65),
        (896, 65),
        (768, 65),
        (640, 65),
        (512, 65),
        (512, 45),
        (384, 45),
        (256, 45),
        (160, 40),
    )
)
"""From the best to the smallest. A step down in quality is seen less than a step down in size."""

SIXTEEN_BIT = tuple(Reduction(side, 101) for side in (1024, 768, 512, 384, 256, 160, 96))
"""Lossless, since the two bytes of a value lie in two colours."""

_SAMPLE = 16
_MARGIN = 0.9
"""A step is tried on a few images first; they may be smaller than the others."""


@dataclass(frozen=True)
class Picture:
    """One image of a page.

    Attributes:
        image_id: Its id.
        size: Rows and columns in the page.
        webp: The image as base64.
    """

    image_id: str
    size: tuple[int, int]
    webp: str


class FileSource:
    """Image files as `plots.images.ImageSource`, read one at a time in a child process."""

    def __init__(
        self,
        paths: Mapping[str, Path],
        *,
        sizes: Mapping[str, tuple[int, int]] | None = None,
        longest_side: int = EIGHT_BIT[0].longest_side,
    ) -> None:
        """Take note of the files; none is opened.

        Args:
            paths: File of each image id.
            sizes: Rows and columns that boxes refer to, where they are not those of the file.
            longest_side: Longer side of what is read, in pixels.
        """
        self._paths, self._sizes, self._longest_side = dict(paths), dict(sizes or {}), longest_side
        self._reader = IsolatedReader()
        # The child process goes with the source, whoever forgets to close it.
        weakref.finalize(self, self._reader.close)
        self._last: tuple[str, np.ndarray, tuple[int, int]] | None = None

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._paths

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Pixels of one image, `uint8 (H, W)`.

        Raises:
            DataError: There is no such file.
            DicomReadError: The file cannot be read as one grey radiograph.
        """
        return self._load(image_id)[1]

    def original_size(self, image_id: str) -> tuple[int, int]:
        """Rows and columns of the original image; raises as `__getitem__`."""
        return self._sizes.get(image_id) or self._load(image_id)[2]

    def _load(self, image_id: str) -> tuple[str, np.ndarray, tuple[int, int]]:
        if self._last is None or self._last[0] != image_id:
            path = self._paths.get(image_id)
            if path is None or not path.is_file():
                raise DataError(f"{path or image_id}: no such file")
            image = self._reader.load(path, longest_side=self._longest_side)
            self._last = (image_id, image.pixels, image.original_size)
        return self._last


def fit(
    image_ids: Sequence[str],
    source: ImageSource,
    *,
    budget_bytes: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Picture], dict[str, str], Reduction]:
    """Compress images so that together they fit a budget, all alike.

    Where not even the smallest step fits, it is taken all the same.

    Args:
        image_ids: Images to take.
        source: Where they are, `uint8` or `uint16`.
        budget_bytes: Most characters of all pictures together.
        progress: Called with images done and in all.

    Returns:
        The pictures in order, the reason of each image that cannot be read, and how all were reduced.
    """
    every = max(1, len(image_ids) // _SAMPLE)
    sample = [pixels for i in image_ids[::every] if isinstance(pixels := _read(i, source), np.ndarray)]
    steps = SIXTEEN_BIT if any(pixels.dtype == np.uint16 for pixels in sample) else EIGHT_BIT
    share = _MARGIN * budget_bytes / max(1, len(image_ids)) * len(sample)
    first = next((n for n, step in enumerate(steps) if _length(sample, step) <= share), len(steps) - 1)
    for step in steps[first:]:
        pictures, failed = [], {}
        for done, image_id in enumerate(image_ids, start=1):
            pixels = _read(image_id, source)
            if isinstance(pixels, str):
                failed[image_id] = pixels
            else:
                pictures.append(encode(image_id, pixels, step))
            if progress:
                progress(done, len(image_ids))
        if sum(len(picture.webp) for picture in pictures) <= budget_bytes:
            break
    return pictures, failed, step


def _read(image_id: str, source: ImageSource) -> np.ndarray | str:
    """Pixels of an image, or the reason why there are none."""
    try:
        return source[image_id]
    except (DataError, DicomReadError) as error:
        return str(error)


def _length(sample: Sequence[np.ndarray], reduction: Reduction) -> int:
    return sum(len(encode("", pixels, reduction).webp) for pixels in sample)


def encode(image_id: str, pixels: np.ndarray, reduction: Reduction) -> Picture:
    """Reduce and compress one image.

    Args:
        image_id: Its id.
        pixels: `uint8` or `uint16 (H, W)`. The high byte of the latter goes into red, the low one
            into green.
        reduction: Size and quality.

    Returns:
        The image as WebP text.
    """
    scale = reduction.longest_side / max(pixels.shape)
    if scale < 1:
        size = [max(1, round(side * scale)) for side in pixels.shape[::-1]]
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=pixels.dtype)
    if pixels.dtype == np.uint16:
        low, high = (pixels & 255).astype(np.uint8), (pixels >> 8).astype(np.uint8)
        plane = cv2.merge([np.zeros_like(low), low, high])
    else:
        plane = pixels
    _, data = cv2.imencode(".webp", plane, [cv2.IMWRITE_WEBP_QUALITY, reduction.quality])
    return Picture(image_id, pixels.shape, base64.b64encode(data.tobytes()).decode("ascii"))
