"""Radiographs with boxes on them: readers' boxes, truth and detections, galleries, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cxr.plots._style import BAD, GOOD, MISSED, TRUTH, contrast, message, new_grid, styled
from cxr.schema import BOX_COLUMNS, CLASS_ID, IMAGE_ID, RAD_ID, SCORE, ClassTable

READER_COLORS = ("#5bc0eb", "#f2c14e", "#ff6b6b", "#7ddf64", "#c792ea", "#ffa94d")
"""Colours of the readers of one image, in the order of their names."""


@dataclass(frozen=True)
class Mark:
    """A rectangle on an image.

    Attributes:
        box: x_min, y_min, x_max, y_max in pixels of the panel's image.
        color: Hex colour.
        label: Short text at the box, empty for none.
        dashed: Dashed outline.
    """

    box: tuple[float, float, float, float]
    color: str
    label: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One image of a gallery.

    Attributes:
        pixels: Grey image, `uint8` (H, W), or any array that spans its own range.
        title: One or two lines above it.
        marks: Rectangles in its pixels.
    """

    pixels: np.ndarray
    title: str = ""
    marks: Sequence[Mark] = field(default=())


def short(name: str, length: int = 18) -> str:
    """A class name or an image id that fits on a small label."""
    return name if len(name) <= length else name[: length - 1] + "…"


def scaled_boxes(
    rows: pd.DataFrame, original_size: tuple[int, int], shape: tuple[int, ...]
) -> list[tuple[float, float, float, float]]:
    """Boxes of a table, original pixels, as tuples in pixels of an image of `shape`.

    Args:
        rows: Table with the box columns, original pixels.
        original_size: Rows and columns of the original image.
        shape: Shape of the image to draw on, (H, W).
    """
    down, across = shape[0] / original_size[0], shape[1] / original_size[1]
    boxes = rows[BOX_COLUMNS].to_numpy(dtype=float) * (across, down, across, down)
    return [(left, top, right, bottom) for left, top, right, bottom in boxes.tolist()]


def reader_marks(
    rows: pd.DataFrame, original_size: tuple[int, int], shape: tuple[int, ...], *, classes: ClassTable
) -> list[Mark]:
    """Every reader's boxes of one image, one colour a reader.

    Args:
        rows: Annotation rows of one image, boxes in original pixels; rows without a box are passed over.
        original_size: Rows and columns of the original image.
        shape: Shape of the image to draw on, (H, W).
        classes: The data set's classes.
    """
    readers = {name: i for i, name in enumerate(sorted(rows[RAD_ID].unique()))}
    drawn = rows.dropna(subset=BOX_COLUMNS)
    boxes = scaled_boxes(drawn, original_size, shape)
    return [
        Mark(box, READER_COLORS[readers[rad] % len(READER_COLORS)], f"{rad} {short(classes.name(class_id))}")
        for box, rad, class_id in zip(boxes, drawn[RAD_ID], drawn[CLASS_ID], strict=True)
    ]


def class_marks(
    rows: pd.DataFrame,
    original_size: tuple[int, int],
    shape: tuple[int, ...],
    *,
    classes: ClassTable,
    note: str = "",
) -> list[Mark]:
    """Boxes of one image in the colours of their classes.

    Args:
        rows: Boxes of one image in original pixels, with a class id; a score is written when there is one.
        original_size: Rows and columns of the original image.
        shape: Shape of the image to draw on, (H, W).
        classes: The data set's classes.
        note: Column whose value is written behind the class name, for example `n_readers`.
    """
    drawn = rows.dropna(subset=BOX_COLUMNS)
    drawn = drawn[drawn[CLASS_ID] != classes.normal_id]
    labels = [short(classes.name(class_id)) for class_id in drawn[CLASS_ID]]
    column = note or (SCORE if SCORE in drawn else "")
    if column:
        labels = [f"{a} {_brief(b)}" for a, b in zip(labels, drawn[column], strict=True)]
    colors = [classes.color(class_id) for class_id in drawn[CLASS_ID]]
    boxes = scaled_boxes(drawn, original_size, shape)
    return [Mark(box, color, label) for box, color, label in zip(boxes, colors, labels, strict=True)]


def outcome_marks(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    original_size: tuple[int, int],
    shape: tuple[int, ...],
    *,
    classes: ClassTable,
) -> list[Mark]:
    """Detections and truth of one image, coloured by what became of each.

    Args:
        detections: Boxes with class id, score and a truth value `hit`; original pixels.
        truth: Boxes with class id and a truth value `found`; original pixels.
        original_size: Rows and columns of the original image.
        shape: Shape of the image to draw on, (H, W).
        classes: The data set's classes.
    """
    marks = []
    for box, (_, row) in zip(scaled_boxes(truth, original_size, shape), truth.iterrows(), strict=True):
        name = short(classes.name(int(row[CLASS_ID])))
        found = bool(row["found"])
        marks.append(Mark(box, TRUTH if found else MISSED, "" if found else f"missed {name}", dashed=True))
    for box, (_, row) in zip(
        scaled_boxes(detections, original_size, shape), detections.iterrows(), strict=True
    ):
        name = short(classes.name(int(row[CLASS_ID])))
        marks.append(Mark(box, GOOD if row["hit"] else BAD, f"{name} {row[SCORE]:.2f}"))
    return marks


class ImageSource(Protocol):
    """What is needed of an image store."""

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Pixels of one image, uint8 (H, W)."""

    def original_size(self, image_id: str) -> tuple[int, int]:
        """Rows and columns of the original image."""


def outcome_panel(
    source: ImageSource,
    image_id: str,
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    classes: ClassTable,
    note: str = "",
    most: int = 8,
) -> Panel:
    """One image with its detections and its truth, coloured by what became of each.

    Args:
        source: Where the image is.
        image_id: The image.
        detections: All detections with a `kind`, as `metrics.error_breakdown` returns them.
        truth: All truth boxes with a `kind`, likewise.
        classes: The data set's classes.
        note: Second line of the title.
        most: Most detections to draw: hits first, then the surest of the others.
    """
    pixels, size = source[image_id], source.original_size(image_id)
    boxes = detections[detections[IMAGE_ID] == image_id]
    boxes = boxes.assign(order=boxes["kind"].ne("hit")).sort_values(["order", SCORE], ascending=[True, False])
    boxes = boxes.head(most)
    drawn = truth[truth[IMAGE_ID] == image_id]
    marks = outcome_marks(
        boxes.assign(hit=boxes["kind"] == "hit"),
        drawn.assign(found=drawn["kind"] == "hit"),
        size,
        pixels.shape,
        classes=classes,
    )
    return Panel(pixels, f"{short(image_id, 18)}\n{note}" if note else short(image_id, 18), marks)


OUTCOME_LEGEND = (
    (GOOD, "hit", False),
    (BAD, "wrong", False),
    (TRUTH, "truth, found", True),
    (MISSED, "truth, missed", True),
)


@styled
def gallery(
    panels: Sequence[Panel],
    *,
    columns: int = 4,
    title: str = "",
    legend: Sequence[tuple[str, str, bool]] = (),
    cell: float = 3.2,
    empty: str = "No image to show.",
) -> Figure:
    """Radiographs side by side on black, each with its boxes.

    Args:
        panels: The images, in reading order.
        columns: Images in a row.
        title: Line above all.
        legend: Colour, meaning and whether dashed, for each kind of box.
        cell: Width of one image, inches.
        empty: What to say when there is no panel.
    """
    if not panels:
        return message(empty)
    shapes = [panel.pixels.shape for panel in panels]
    tallest = float(np.clip(np.median([h / w for h, w in shapes]), 0.7, 1.5))
    # Two places wide where allowed, so that one image alone leaves room for the title and the legend.
    figure, axes = new_grid(
        len(panels),
        columns=columns,
        least=min(2, columns),
        width=cell,
        height=cell * tallest + 0.45,
        dark=True,
    )
    for place, panel in zip(axes, panels, strict=True):
        show(place, panel, width=cell)
    if title:
        figure.suptitle(title, color="white", fontsize=12, fontweight="bold", x=0.01, ha="left")
    if legend:
        handles = [
            Rectangle((0, 0), 1, 1, fill=False, edgecolor=c, linewidth=1.8, linestyle="--" if dashed else "-")
            for c, _, dashed in legend
        ]
        names = [name for _, name, _ in legend]
        figure.legend(
            handles, names, loc="outside lower center", ncols=min(6, len(names)), labelcolor="white"
        )
    return figure


def show(axes: Axes, panel: Panel, *, width: float = 3.2) -> None:
    """Draw one panel.

    Args:
        axes: Where.
        panel: What.
        width: Width of the axes in inches; the labels' places are worked out from it.
    """
    pixels = panel.pixels
    limits = (0, 255) if pixels.dtype == np.uint8 else (float(pixels.min()), float(pixels.max()))
    axes.imshow(pixels, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="antialiased")
    axes.set_axis_off()
    axes.set_title(panel.title, fontsize=9, fontweight="normal", color="#e8eef2", loc="left")
    height_px, width_px = pixels.shape[:2]
    px_per_point = max(width_px, height_px / 1.4) / (width * 72 * 0.94)
    taken: list[tuple[float, float, float, float]] = []
    for mark in panel.marks:
        x0, y0, x1, y1 = mark.box
        style = (0, (4, 2)) if mark.dashed else "-"
        axes.add_patch(
            Rectangle(
                (x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=mark.color, linewidth=1.6, linestyle=style
            )
        )
    for mark in panel.marks:
        if mark.label:
            _write_label(axes, mark, taken, px_per_point, (height_px, width_px))
    axes.set_xlim(-0.5, width_px - 0.5)
    axes.set_ylim(height_px - 0.5, -0.5)


def _write_label(
    axes: Axes,
    mark: Mark,
    taken: list[tuple[float, float, float, float]],
    px_per_point: float,
    shape: tuple[int, int],
) -> None:
    """Put a mark's label at the first corner of its box where no other label is."""
    size = 6.5
    wide = (0.66 * size * len(mark.label) + 3) * px_per_point
    high = (size + 4) * px_per_point
    x0, y0, x1, y1 = mark.box
    corners = [(x0, y0 - high), (x0, y1), (x1 - wide, y0 - high), (x1 - wide, y1), (x0, y0), (x0, y1 - high)]
    corners += [(x0, y0 + k * high) for k in range(1, 8)]
    placed = [
        (float(np.clip(x, 0, max(0, shape[1] - wide))), float(np.clip(y, 0, max(0, shape[0] - high))))
        for x, y in corners
    ]
    free = [(x, y) for x, y in placed if not any(_overlap((x, y, x + wide, y + high), t) for t in taken)]
    x, y = (free or placed)[0]
    taken.append((x, y, x + wide, y + high))
    axes.text(
        x + 1.5 * px_per_point,
        y + high / 2,
        mark.label,
        fontsize=size,
        color=contrast(mark.color),
        va="center",
        ha="left",
        bbox={"facecolor": mark.color, "edgecolor": "none", "pad": 1.0, "alpha": 0.88},
    )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _brief(value: object) -> str:
    if isinstance(value, float) and not float(value).is_integer():
        return f"{value:.2f}"
    return str(int(value)) if isinstance(value, (int, float, np.number)) else str(value)


@styled
def before_after(
    pairs: Sequence[tuple[np.ndarray, np.ndarray, str, str]], *, title: str = "", cell: float = 2.6
) -> Figure:
    """The stored numbers stretched from smallest to largest, above the image the network sees.

    Args:
        pairs: For each file the array as stored in the DICOM (any type), the image of the
            store (`uint8`), and a title for each.
        title: Line above all.
        cell: Width of one image, inches.
    """
    if not pairs:
        return message("No pair of images to show.")
    tallest = float(np.clip(np.median([b.shape[0] / b.shape[1] for _, b, _, _ in pairs]), 0.7, 1.5))
    figure, axes = new_grid(
        2 * len(pairs), columns=len(pairs), width=cell, height=cell * tallest + 0.5, dark=True
    )
    for column, (before, after, above, below) in enumerate(pairs):
        show(axes[column], Panel(before.astype(np.float32), above), width=cell)
        show(axes[column + len(pairs)], Panel(after, below), width=cell)
    if title:
        figure.suptitle(title, color="white", fontsize=12, fontweight="bold", x=0.01, ha="left")
    return figure
