"""How every figure looks: sizes, colours, the style context, and figures that need no pyplot."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib import colors as mcolors
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

P = ParamSpec("P")
R = TypeVar("R")

INK = "#22303c"
"""Text and axes."""
ACCENT = "#1f6f8b"
"""The one colour of a chart that compares lengths."""
SECOND = "#e07a3f"
"""The colour of what is held against the accent."""
MUTED = "#b8c4cc"
"""Context: what is not the point of the chart."""
GOOD, BAD, MISSED, TRUTH = "#2aa876", "#e4572e", "#f2c14e", "#5bc0eb"
"""Hit, false alarm, missed truth, truth; apart for colour-blind eyes and on black."""
DARK = "#11161a"
"""Background of galleries: radiographs are read in the dark."""
SERIES = ("#1f6f8b", "#e07a3f", "#5a9e6f", "#8a5fa8", "#c44e6a", "#8a7a3d", "#4f7cc4", "#6b7680")
"""Colours of lines that share an axes."""

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8895a0",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.prop_cycle": cycler(color=SERIES),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "grid.color": "#e6eaed",
    "grid.linewidth": 0.8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a `$` in a file's or a class's name is a dollar sign, no mathematics
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


class Picture(Figure):
    """A figure that a notebook can show although pyplot never saw it.

    pyplot keeps every figure it makes alive in a global list; a chain of notebooks makes
    hundreds. A figure made directly is freed with its last reference.
    """

    _png: bytes = b""

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save as matplotlib does; a PNG file's bytes are kept, so that showing it draws nothing again."""
        with mpl.rc_context({"text.parse_math": STYLE["text.parse_math"]}):  # some ticks are made only now
            super().savefig(fname, **options)
        if isinstance(fname, str | Path) and str(fname).endswith(".png"):
            self._png = Path(fname).read_bytes()

    def _repr_png_(self) -> bytes:
        if not self._png:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
            self._png = buffer.getvalue()
        return self._png


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a figure function inside the project's style and leave the caller's settings alone."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(STYLE):
            return function(*args, **kwargs)

    return inside


def new_figure(width: float, height: float, *, dark: bool = False) -> Picture:
    """An empty figure, size in inches, layout kept free of overlaps by matplotlib."""
    figure = Picture(figsize=(width, height), facecolor=DARK if dark else "white")
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.02, hspace=0.02))
    return figure


def new_grid(
    count: int,
    *,
    columns: int,
    width: float,
    height: float,
    dark: bool = False,
    share: bool = False,
    least: int = 1,
) -> tuple[Picture, list[Axes]]:
    """A figure of `count` equal axes in rows of at most `columns`; unused places stay blank.

    Args:
        count: Number of axes, at least 1.
        columns: Axes in a full row.
        width: Inches of one axes' cell.
        height: Inches of one axes' cell.
        dark: Dark background, for radiographs.
        share: Share both axes' limits.
        least: Least number of places in a row, some of which may stay blank.
    """
    columns = max(least, min(columns, count))
    rows = max(1, math.ceil(count / columns))
    figure = new_figure(width * columns, height * rows, dark=dark)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


@styled
def message(text: str) -> Figure:
    """A figure that says in words why there is nothing to draw."""
    lines = textwrap.wrap(text, 95) or [""]  # matplotlib's own wrapping reads mathematics all the same
    figure = new_figure(7.0, max(1.2, 0.25 * len(lines)))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.text(0.5, 0.5, "\n".join(lines), ha="center", va="center", color="#5b6872", style="italic")
    return figure


def ink(color: str) -> str:
    """The colour, darkened where it would fade on white."""
    hue = mcolors.rgb_to_hsv(mcolors.to_rgb(color))
    light = luminance(color)
    if light > 0.55:
        hue[1] = max(hue[1], 0.55)
        hue[2] = min(hue[2], 0.72)
    return mcolors.to_hex(tuple(mcolors.hsv_to_rgb(hue)))


def luminance(color: str) -> float:
    """Relative luminance of a colour in `[0, 1]` (WCAG 2.1, relative luminance)."""
    rgb = np.asarray(mcolors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(color: str) -> str:
    """Black or white, whichever reads better on the colour."""
    return "#000000" if luminance(color) > 0.3 else "#ffffff"


def bar_labels(axes: Axes, values: Sequence[float], *, fmt: str = "{:,.0f}", size: float = 8) -> None:
    """Write the value at the end of each horizontal bar and make room for it."""
    top = max((v for v in values if np.isfinite(v)), default=0.0)
    for place, value in enumerate(values):
        if np.isfinite(value):
            axes.text(value + 0.01 * top, place, fmt.format(value), va="center", fontsize=size)
    if top > 0:
        axes.set_xlim(0, top * 1.14)


def plain_log(axis: Axis) -> None:
    """A logarithmic axis, already drawn on, whose ticks read 0.1, 0.2, 0.5 instead of powers of ten."""
    low, high = axis.get_view_interval()
    if high < 4 * low:
        axis.set_major_locator(MaxNLocator(5))
    else:
        axis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0) if high > 15 * low else (1.0, 2.0, 3.0, 5.0, 7.0))
        )
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def horizontal(axes: Axes, names: Sequence[str]) -> None:
    """Names on the y axis, first on top, with vertical grid lines only."""
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def heat(
    axes: Axes,
    values: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    texts: np.ndarray | None = None,
    cmap: str = "BuGn",
    low: float | None = None,
    high: float | None = None,
    size: float = 8,
    turn: bool = True,
) -> mpl.image.AxesImage:
    """A table as coloured cells with their values written in.

    Args:
        axes: Where to draw.
        values: Numbers that give the colours, shape (R, C); NaN cells stay grey.
        rows: Names of the R rows.
        columns: Names of the C columns.
        texts: What to write in each cell, shape (R, C); the values rounded when missing.
        cmap: Name of a colour map, light for low.
        low: Value of the lightest colour.
        high: Value of the darkest colour.
        size: Font size of the cells, points.
        turn: Turn the columns' names by 45 degrees.
    """
    colors = mpl.colormaps[cmap].with_extremes(bad="#eef1f3")
    drawn = axes.imshow(np.ma.masked_invalid(values), cmap=colors, vmin=low, vmax=high, aspect="auto")
    axes.set_yticks(range(len(rows)), list(rows))
    if turn:
        axes.set_xticks(range(len(columns)), list(columns), rotation=45, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(range(len(columns)), list(columns))
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            text = f"{value:.2f}" if texts is None else str(texts[i, j])
            fill = mcolors.to_hex(tuple(drawn.cmap(drawn.norm(value))))
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color=contrast(fill))
    return drawn
