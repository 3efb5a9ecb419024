"""From stored values to grey levels: modality LUT, VOI LUT or window, and when to distrust them.

The order is the standard's: modality LUT or rescale, then VOI LUT or window, then inversion.
Windows are applied after the resize, where they cost next to nothing; look-up tables before it,
because a table need not be smooth.

References:
    DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.3.1.2 (photometric interpretation).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from cxr.dicom.layout import Layout

_MIN_INSIDE = 0.10
"""A window is distrusted when fewer of the pixels than this lie strictly inside it..."""

_MIN_SPREAD = 64
"""...or when the middle 98% of the pixels get fewer grey levels than this."""

_PERCENTILES = (0.5, 99.5)
"""The window taken instead: all but the darkest and brightest half percent."""

_SAMPLES = 1 << 15


@dataclass(frozen=True)
class Table:
    """A look-up table of PS3.3 C.11.1 or C.11.2.

    Attributes:
        first: Stored value that the first entry stands for.
        entries: `uint16` values.
        bits: Nominal depth of the values; see `used_bits`.
    """

    first: int
    entries: np.ndarray
    bits: int

    @property
    def used_bits(self) -> int:
        """Depth that the entries have, whatever the descriptor says, and at least 8.

        Some consoles announce 16 bits and write 12: their white is 4,095. With fewer than 8 bits in
        use a picture has too few grey levels to be stretched.
        """
        return max(8, int(self.entries.max()).bit_length())

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Look up integers; values before or beyond the table get its first or last entry."""
        index = np.clip(values.astype(np.int32) - self.first, 0, len(self.entries) - 1)
        return self.entries[index]


@dataclass(frozen=True)
class Window:
    """A transfer function from values to grey levels.

    Attributes:
        center: Value that becomes mid-grey.
        width: Span of values between black and white.
        function: `LINEAR`, `LINEAR_EXACT` or `SIGMOID`.
    """

    center: float
    width: float
    function: str = "LINEAR"

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Grey levels in `[0, 255]` as floats; PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and .2."""
        values = np.asarray(values, dtype=np.float32)
        if self.function == "SIGMOID":
            return 255.0 / (1.0 + np.exp(np.clip(-4.0 * (values - self.center) / self.width, -60.0, 60.0)))
        center, width = self.center, self.width
        if self.function == "LINEAR":
            # The standard maps center - 0.5 to mid-grey and width - 1 steps to the full range.
            center, width = center - 0.5, max(width - 1.0, 1e-6)
        gain = 255.0 / width
        levels = values * np.float32(gain)
        levels += np.float32(127.5 - center * gain)
        return np.clip(levels, 0.0, 255.0, out=levels)


@dataclass(frozen=True)
class Tone:
    """All that a header says about turning stored values into grey levels.

    Attributes:
        modality: Modality LUT, or `None`.
        slope: Rescale slope, 1 where absent or unusable.
        intercept: Rescale intercept, 0 where absent or unusable.
        voi: VOI LUT, or `None`.
        windows: Windows in the order of the header, unusable ones left out.
        padding: Lowest and highest stored value that mean "no image here", or `None`.
    """

    modality: Table | None
    slope: float
    intercept: float
    voi: Table | None
    windows: tuple[Window, ...]
    padding: tuple[int, int] | None

    def rescale(self, values: np.ndarray) -> np.ndarray:
        """Stored values (or what the modality LUT made of them) in modality units."""
        if self.modality is not None or (self.slope == 1.0 and self.intercept == 0.0):
            return values
        return values.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)


IDENTITY = Tone(None, 1.0, 0.0, None, (), None)
"""The tone of a file that says nothing."""


def read_tone(dataset: FileDataset, layout: Layout) -> Tone:
    """Collect the tables, windows and padding of a header; what cannot be used is left out."""
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if slope is None or slope == 0.0 or intercept is None:
        slope, intercept = 1.0, 0.0
    function = str(_value(dataset, "VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    minimum = 1.0 if function == "LINEAR" else 0.0
    windows = tuple(
        Window(center, width, function)
        for center, width in zip(
            _numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth"), strict=False
        )
        if math.isfinite(center) and math.isfinite(width) and width > minimum
    )
    padding = None
    value = _number(dataset, "PixelPaddingValue")
    if value is not None:
        limit = _number(dataset, "PixelPaddingRangeLimit")
        ends = [int(value), int(value if limit is None else limit)]
        padding = (min(ends), max(ends))
    little = bool(dataset.original_encoding[1])
    return Tone(
        modality=_table(dataset, "ModalityLUTSequence", layout, little=little),
        slope=slope,
        intercept=intercept,
        voi=_table(dataset, "VOILUTSequence", layout, little=little),
        windows=windows,
        padding=padding,
    )


def is_sane(levels: np.ndarray) -> bool:
    """Whether a picture with these grey levels still shows something.

    Args:
        levels: Grey levels in `[0, 255]` of a sample of the pixels, padding left out.

    Returns:
        `False` for a window beside the data, a hair-thin one, and one far wider than the data.
    """
    if levels.size == 0:
        return False
    inside = np.count_nonzero((levels > 0.5) & (levels < 254.5)) / levels.size
    low, high = np.percentile(levels, (1.0, 99.0))
    return bool(inside >= _MIN_INSIDE and high - low >= _MIN_SPREAD)


def choose_window(values: np.ndarray, windows: tuple[Window, ...]) -> Window:
    """The first window that shows the picture, else one from the picture's own percentiles.

    Args:
        values: A sample of the pixels in modality units, padding left out.
        windows: Candidates in order of preference.

    Returns:
        A window; for an image of one value, one that makes it black.
    """
    for window in windows:
        if is_sane(window(values)):
            return window
    if values.size == 0:
        return Window(0.0, 1.0, "LINEAR_EXACT")
    low, high = (float(v) for v in np.percentile(values, _PERCENTILES))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low:
        return Window(low + 0.5, 1.0, "LINEAR_EXACT")
    return Window((low + high) / 2, high - low, "LINEAR_EXACT")


def sample(values: np.ndarray) -> np.ndarray:
    """About 32,000 pixels on a regular grid: enough to judge a window, cheap at any size."""
    step = max(1, math.isqrt(values.size // _SAMPLES))
    return values[::step, ::step]


def to_uint8(values: np.ndarray, tone: Tone, window: Window) -> np.ndarray:
    """Apply rescale and window to pixels.

    Args:
        values: Stored values (or modality LUT output) `(H, W)`: `uint8`, `uint16`, `int16` or float.
        tone: For the rescale.
        window: In modality units.

    Returns:
        `uint8 (H, W)`.
    """
    if values.dtype.kind == "f":
        levels = window(tone.rescale(values))
        return np.rint(levels, out=levels).astype(np.uint8)
    # One entry for each value an integer can have beats arithmetic on each pixel.
    bits = 8 * values.dtype.itemsize
    every = np.arange(1 << bits, dtype=f"u{values.dtype.itemsize}").view(values.dtype)
    levels = np.rint(window(tone.rescale(every))).astype(np.uint8)
    return levels[values.view(f"u{values.dtype.itemsize}")]


# -- reading values that may be damaged --------------------------------------------------------------


def _value(dataset: Dataset, keyword: str) -> object:
    try:
        return dataset.get(keyword, None)
    except Exception:
        # A value that breaks its own representation counts as absent.
        return None


def _numbers(dataset: Dataset, keyword: str) -> list[float]:
    value: Any = _value(dataset, keyword)
    if value is None or value == "":
        return []
    values = (
        [value] if isinstance(value, (str, int, float)) or not hasattr(value, "__iter__") else list(value)
    )
    out = []
    for item in values:
        try:
            out.append(float(item))
        except (TypeError, ValueError):
            out.append(math.nan)
    return out


def _number(dataset: Dataset, keyword: str) -> float | None:
    values = _numbers(dataset, keyword)
    return values[0] if values and math.isfinite(values[0]) else None


def _table(dataset: Dataset, keyword: str, layout: Layout, *, little: bool) -> Table | None:
    """First table of a LUT sequence, `None` where there is none that can be used."""
    try:
        items = dataset.get(keyword, None)
        if not items:
            return None
        return _make_table(items[0].LUTDescriptor, items[0].LUTData, layout, little=little)
    except Exception:
        return None


def read_palette(dataset: FileDataset, layout: Layout) -> list[Table | None]:
    """The tables of a palette for red, green and blue; `None` for one that cannot be used (PS3.3 C.7.9)."""
    tables: list[Table | None] = []
    for channel in ("Red", "Green", "Blue"):
        try:
            descriptor = dataset[f"{channel}PaletteColorLookupTableDescriptor"].value
            data = dataset[f"{channel}PaletteColorLookupTableData"].value
            tables.append(_make_table(descriptor, data, layout, little=bool(dataset.original_encoding[1])))
        except Exception:
            tables.append(None)
    return tables


def _make_table(descriptor: Iterable[int], data: object, layout: Layout, *, little: bool) -> Table | None:
    entries, first, bits = (int(v) for v in descriptor)
    entries = entries or 1 << 16
    if layout.signed and first >= 1 << 15:
        # The descriptor's second value has the sign of the pixels, whatever its own type says.
        first -= 1 << 16
    if isinstance(data, bytes):
        wide = len(data) >= 2 * entries
        values = np.frombuffer(data, dtype=("<u2" if little else ">u2") if wide else np.uint8, count=entries)
    else:
        values = np.asarray(data)[:entries]
    if not 1 <= bits <= 16 or len(values) < entries:
        return None
    return Table(first=first, entries=values.astype(np.uint16), bits=bits)
