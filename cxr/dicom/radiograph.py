"""Load one radiograph: from any file the project reads to a picture ready to display."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cxr.dicom import codecs, colour, resample, tone
from cxr.dicom.container import open_dataset, sniff
from cxr.dicom.header import header_row, picture_row
from cxr.dicom.layout import Layout, read_layout
from cxr.dicom.picture import read_picture
from cxr.errors import printable


@dataclass(frozen=True)
class Radiograph:
    """A radiograph ready to display.

    Attributes:
        pixels: `uint8 (H, W)`, row 0 at the top, white is dense tissue.
        original_size: `(rows, columns)` of the file, to which annotated boxes refer.
        header: A value for each of `schema.HEADER_COLUMNS`; `""` where the file has none.
    """

    pixels: np.ndarray
    original_size: tuple[int, int]
    header: dict[str, str]


def load_radiograph(path: Path, *, longest_side: int | None = None) -> Radiograph:
    """Read one chest radiograph as an 8-bit greyscale image ready to display.

    Modality LUT or rescale, then VOI LUT or window where it is sane, else a window from the
    image's percentiles; MONOCHROME1 is inverted, so white means dense tissue. Decoding does
    no more than it must: JPEG 2000 is decoded at the lowest resolution that still covers
    `longest_side`, and windows are applied after the resize.

    Args:
        path: DICOM file with one frame, or PNG or JPEG of 8 or 16 bits, told apart by content. Grey,
            or of colours that are all grey: three equal channels, a grey palette. Pixels of an 8-bit
            picture and of a colour DICOM are taken as they are.
        longest_side: Longer side of the result in pixels, aspect kept; `None` keeps the
            stored size.

    Returns:
        The pixels, the file's own size and the header row.

    Raises:
        DicomReadError: The file cannot be read as one grey radiograph; `reason` is one of
            `cxr.dicom.reasons`, the message names the file and the attribute.

    References:
        DICOM PS3.3 C.7.6.3.1.2 (photometric interpretation), C.11.1, C.11.2 (LUTs).
    """
    return _load(Path(path), longest_side, full=False)


def load_reference(path: Path, *, longest_side: int | None = None) -> Radiograph:
    """Read a radiograph the plain way: full-resolution decode, area resize, the same window.

    What `load_radiograph` is measured against; slower, and otherwise its equal.

    Args:
        path: As for `load_radiograph`.
        longest_side: As for `load_radiograph`.

    Returns:
        As `load_radiograph`.

    Raises:
        DicomReadError: As `load_radiograph`.
    """
    return _load(Path(path), longest_side, full=True)


def _load(path: Path, longest_side: int | None, *, full: bool) -> Radiograph:
    if longest_side is not None and longest_side < 1:
        raise ValueError(f"longest_side must be at least 1, got {longest_side}")
    if sniff(path) != "dicom":
        values = read_picture(path)
        size = (values.shape[0], values.shape[1])
        return Radiograph(_picture_pixels(values, target_size(size, longest_side)), size, picture_row(path))
    with open_dataset(path) as (dataset, stream):
        header = header_row(dataset, path)
        layout = read_layout(dataset, printable(path.name))
        if layout.coloured:
            values = colour.read_grey(dataset, stream, path, layout)
            size = (layout.rows, layout.columns)
            return Radiograph(_picture_pixels(values, target_size(size, longest_side)), size, header)
        tones = tone.read_tone(dataset, layout)
        whole = full or tones.modality is not None or tones.voi is not None or _padding_shows(tones, layout)
        size = (layout.rows, layout.columns)
        target = target_size(size, longest_side)
        samples = codecs.decode(
            dataset,
            stream,
            path,
            layout,
            longest_side=None if whole else longest_side,
            by_rows=not whole and target[0] < size[0] and target[1] <= size[1],
        )
        pixels = _dicom_pixels(samples, layout, tones, target, plain=full)
    return Radiograph(pixels, size, header)


def target_size(size: tuple[int, int], longest_side: int | None) -> tuple[int, int]:
    """Size `(rows, columns)` after a resize that keeps the aspect and sets the longer side."""
    if longest_side is None:
        return size
    scale = longest_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _picture_pixels(values: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    values = resize(values, target)
    if values.dtype == np.uint8:
        return values
    return tone.to_uint8(values, tone.IDENTITY, tone.choose_window(tone.sample(values), ()))


def _dicom_pixels(
    samples: codecs.Samples,
    layout: Layout,
    tones: tone.Tone,
    target: tuple[int, int],
    *,
    plain: bool,
) -> np.ndarray:
    """Resize, choose a window, apply it, invert; `plain` resizes with OpenCV instead of `resample`."""
    size = (layout.rows, layout.columns)
    values = samples.values if tones.modality is None else tones.modality(samples.values)
    covered = _coverage(samples.values, tones, layout, target)

    def shrink(image: np.ndarray) -> np.ndarray:
        if covered is not None:
            return _resize_without(image, _is_padding(samples.values, tones), target, covered)
        if plain or not samples.level:
            return resize(image, target, plain=plain)
        level, reversible = samples.level, samples.reversible
        return resample.area_average(image, size, target, level=level, reversible=reversible)

    small = shrink(values)
    window = None
    if tones.voi is not None:
        mapped = shrink(tones.voi(np.rint(tones.rescale(values))))
        white = (1 << tones.voi.used_bits) - 1
        full_range = tone.Window(white / 2, white, "LINEAR_EXACT")
        if tone.is_sane(full_range(_judged(mapped, covered, None))):
            small, window, tones = mapped, full_range, tone.IDENTITY
    if window is None:
        judged = _judged(small, covered, tones.padding)
        window = tone.choose_window(tones.rescale(judged), tones.windows)
    pixels = tone.to_uint8(small, tones, window)
    if layout.inverted:
        np.subtract(255, pixels, out=pixels)
    if covered is not None:
        pixels[covered < 0.5] = 0
    return pixels


def _judged(values: np.ndarray, covered: np.ndarray | None, padding: tuple[int, int] | None) -> np.ndarray:
    """The pixels that decide about a window: a sample of those that are not padding."""
    chosen = tone.sample(values)
    if covered is not None:
        return chosen[tone.sample(covered) >= 0.5]
    if padding is not None:
        # Half a value of tolerance, for these are averages.
        return chosen[(chosen < padding[0] - 0.5) | (chosen > padding[1] + 0.5)]
    return chosen.ravel()


def _padding_shows(tones: tone.Tone, layout: Layout) -> bool:
    """Whether padding would not come out black by itself, so that it must be masked."""
    if tones.padding is None:
        return False
    low, high = layout.value_range
    dark_is_high = layout.inverted != (tones.slope < 0)
    return tones.padding[0] < high if dark_is_high else tones.padding[1] > low


def _is_padding(stored: np.ndarray, tones: tone.Tone) -> np.ndarray:
    assert tones.padding is not None
    return (stored >= tones.padding[0]) & (stored <= tones.padding[1])


def _coverage(
    stored: np.ndarray, tones: tone.Tone, layout: Layout, target: tuple[int, int]
) -> np.ndarray | None:
    """Share of each result pixel that is image; `None` where padding is absent or black by itself."""
    if not _padding_shows(tones, layout):
        return None
    padding = _is_padding(stored, tones)
    return resize((~padding).astype(np.float32), target) if padding.any() else None


def _resize_without(
    values: np.ndarray, padding: np.ndarray, target: tuple[int, int], covered: np.ndarray
) -> np.ndarray:
    """Averages over what is image in each area, so that padding leaves no halo."""
    image = np.where(padding, 0, values).astype(np.float32)
    return resize(image, target) / np.maximum(covered, 1e-3)


def resize(values: np.ndarray, target: tuple[int, int], *, plain: bool = False) -> np.ndarray:
    """Average over areas, or interpolate where the picture must grow.

    Args:
        values: `(H, W)`, 8 or 16 bit integers or `float32`.
        target: `(rows, columns)`.
        plain: Average with OpenCV, which is slower and the reference.

    Returns:
        `uint8` where `values` is, else `float32`, or `values` where nothing is to be done.
    """
    if values.shape == target:
        return values
    if target[0] > values.shape[0] or target[1] > values.shape[1]:
        return cv2.resize(values, (target[1], target[0]), interpolation=cv2.INTER_LINEAR)
    if plain:
        values = values.astype(np.float32)
        return cv2.resize(values, (target[1], target[0]), interpolation=cv2.INTER_AREA)
    averages = resample.area_average(values, values.shape, target)
    return np.rint(averages).astype(np.uint8) if values.dtype == np.uint8 else averages
