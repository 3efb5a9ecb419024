"""What the readers drew: classes, readers, agreement, box geometry and where findings sit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cxr.plots._style import (
    ACCENT,
    INK,
    MUTED,
    SECOND,
    bar_labels,
    contrast,
    heat,
    horizontal,
    ink,
    message,
    new_figure,
    new_grid,
    plain_log,
    styled,
)
from cxr.schema import CLASS_ID, CLASS_NAME, IMAGE_ID, RAD_ID, ClassTable

ONE_READER = "One reader: no agreement to show."


@styled
def class_counts(counts: pd.DataFrame, *, classes: ClassTable) -> Figure:
    """Images and rows of every class, the commonest finding first and the normal class last.

    Args:
        counts: `class_id, class_name, rows, images`, as `annotations.class_counts` returns it.
        classes: The data set's classes.
    """
    normal = counts[CLASS_ID] == classes.normal_id
    shown = pd.concat([counts[~normal].sort_values("images", ascending=False), counts[normal]])
    shown = shown[(shown[CLASS_ID] != classes.normal_id) | (shown["rows"] > 0)]
    colors = [MUTED if i == classes.normal_id else ACCENT for i in shown[CLASS_ID]]
    figure = new_figure(10.5, 0.32 * len(shown) + 1.2)
    titles = {"images": "Images", "rows": "Rows, one a box and reader"}
    for axes, (column, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        axes.barh(range(len(shown)), shown[column], color=colors, height=0.72)
        horizontal(axes, shown[CLASS_NAME].tolist())
        bar_labels(axes, shown[column].tolist())
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_title(title)
    return figure


@styled
def reader_counts(counts: pd.DataFrame) -> Figure:
    """How many images each reader read, split by whether that reader saw a finding.

    Args:
        counts: `rad_id, normal, abnormal`, as `annotations.reader_counts` returns it.
    """
    figure = new_figure(9.0, 3.4)
    axes = figure.subplots()
    place = np.arange(len(counts))
    width = min(0.75, 0.12 * len(counts) + 0.1)
    axes.bar(place, counts["normal"], width, color=MUTED, label="nothing found")
    axes.bar(place, counts["abnormal"], width, bottom=counts["normal"], color=SECOND, label="findings")
    axes.set_xticks(place, counts[RAD_ID])
    axes.set_xlim(-0.7, max(len(counts) - 0.3, 1.7))
    axes.grid(False, axis="x")
    axes.set_ylabel("images")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_title("Images read by each reader", pad=22)
    _legend_above(axes, columns=2)
    return figure


def _legend_above(axes: Axes, *, columns: int) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, columnspacing=1.2)


@styled
def reader_agreement(pairs: pd.DataFrame, *, measures: dict[str, str]) -> Figure:
    """How well each two readers agree: a square of cells for each measure.

    Args:
        pairs: `rad_a, rad_b` and the measures, as `annotations.reader_agreement` returns it.
        measures: Column to title; values in `[0, 1]`, higher is better.
    """
    if pairs.empty:
        return message(ONE_READER)
    pairs = pairs[pairs[list(measures)].notna().any(axis=1)]
    if pairs.empty:
        return message("No two readers saw an image on which they could disagree.")
    readers = list(dict.fromkeys([*pairs["rad_a"], *pairs["rad_b"]]))
    readers.sort(key=lambda name: (len(str(name)), str(name)))
    side = max(0.3 * len(readers) + 1.2, 2.6)
    figure = new_figure(len(measures) * (side + 0.4), side + 0.5)
    for axes, (column, title) in zip(
        figure.subplots(1, len(measures), squeeze=False)[0], measures.items(), strict=True
    ):
        both = pd.concat([pairs, pairs.rename(columns={"rad_a": "rad_b", "rad_b": "rad_a"})])
        values = both.pivot(index="rad_a", columns="rad_b", values=column).reindex(readers, columns=readers)
        cells = values.to_numpy(dtype=float)
        texts = np.array([[f"{v:.2f}".replace("0.", ".", 1) for v in row] for row in cells])
        heat(axes, cells, rows=readers, columns=readers, texts=texts, low=0, high=1, size=7, turn=False)
        axes.set_aspect("equal")
        axes.tick_params(labelsize=8)
        axes.set_title(title, fontsize=10)
    return figure


@styled
def agreement_by_class(counts: pd.DataFrame) -> Figure:
    """For each finding, the share of its images that one, two, three... readers marked.

    Args:
        counts: `class_name, positives, by_1, by_2, ...`, as `annotations.positives_by_reader_count`
            returns it.
    """
    columns = [name for name in counts if str(name).startswith("by_")]
    counts = counts[counts["positives"] > 0]
    if len(columns) < 2 or counts.empty:
        return message(ONE_READER)
    share = counts[columns].div(counts["positives"], axis=0)
    order = share[columns[-1]].sort_values(ascending=False, kind="stable").index
    share, counts = share.loc[order], counts.loc[order]
    figure = new_figure(9.5, 0.32 * len(share) + 1.4)
    axes = figure.subplots()
    shades = sns.color_palette("blend:#d5e2e6,#1f6f8b", len(columns)).as_hex()
    left = np.zeros(len(share))
    for column, shade in zip(columns, shades, strict=True):
        number = column.removeprefix("by_")
        values = share[column].to_numpy()
        name = "1 reader" if number == "1" else f"{number} readers"
        axes.barh(range(len(share)), values, left=left, color=shade, height=0.74, label=name)
        for i in np.flatnonzero(values > 0.07):
            middle, share_of = left[i] + values[i] / 2, f"{values[i]:.0%}"
            axes.text(middle, int(i), share_of, ha="center", va="center", fontsize=8, color=contrast(shade))
        left += values
    names = zip(counts[CLASS_NAME], counts["positives"], strict=True)
    horizontal(axes, [f"{name} ({count:,})" for name, count in names])
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of the images where anybody marked it (their number in brackets)")
    axes.set_title("How many readers marked it", pad=22)
    _legend_above(axes, columns=len(columns))
    return figure


@styled
def cooccurrence(annotations: pd.DataFrame, *, classes: ClassTable) -> Figure:
    """Which findings share an image: of the images with the row's finding, the share with the column's.

    Args:
        annotations: One row per box (readers' or fused).
        classes: The data set's classes.
    """
    found = annotations[annotations[CLASS_ID] != classes.normal_id]
    if found.empty:
        return message("No finding in this table.")
    present = pd.crosstab(found[IMAGE_ID], found[CLASS_ID]).gt(0).astype(float)
    present = present.reindex(columns=list(classes.finding_ids), fill_value=0.0).to_numpy()
    together = present.T @ present
    alone = np.diag(together).copy()
    share = np.divide(together, alone[:, None], out=np.full_like(together, np.nan), where=alone[:, None] > 0)
    np.fill_diagonal(share, np.nan)
    names = list(classes.finding_names)
    figure = new_figure(0.52 * len(names) + 3.0, 0.4 * len(names) + 2.2)
    axes = figure.subplots()
    texts = np.array([[f"{v:.0%}" if np.isfinite(v) and v >= 0.005 else "" for v in row] for row in share])
    rows = [f"{name} ({int(n):,})" for name, n in zip(names, alone, strict=True)]
    heat(axes, share, rows=rows, columns=names, texts=texts, low=0, high=1, size=8)
    axes.set_title("Of the images with the row's finding, the share that also has the column's")
    return figure


@styled
def boxes_per_image(annotations: pd.DataFrame, *, classes: ClassTable) -> Figure:
    """How many boxes one reader draws on an image where that reader sees something.

    Args:
        annotations: One row per box and reader.
        classes: The data set's classes.
    """
    found = annotations[annotations[CLASS_ID] != classes.normal_id]
    if found.empty:
        return message("No box in this table.")
    counts = found.groupby([IMAGE_ID, RAD_ID]).size()
    cap = int(max(3, np.ceil(counts.quantile(0.99))))
    shown = counts.clip(upper=cap).value_counts().reindex(range(1, cap + 1), fill_value=0)
    figure = new_figure(8.0, 3.0)
    axes = figure.subplots()
    axes.bar(shown.index, shown, color=ACCENT, width=0.8)
    last = f"{cap}+" if counts.max() > cap else str(cap)
    axes.set_xticks(shown.index, [*map(str, shown.index[:-1]), last])
    axes.grid(False, axis="x")
    axes.set_xlabel("boxes drawn by one reader on one image")
    axes.set_ylabel("readings")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_title("Boxes per reading, where anything was found")
    return figure


@styled
def box_geometry(geometry: pd.DataFrame, *, classes: ClassTable) -> Figure:
    """How large and how elongated the boxes of each finding are.

    Args:
        geometry: One row per box, as `annotations.box_geometry` returns it; sizes are shares of the
            image's where those are known for all boxes, else pixels.
        classes: The data set's classes.
    """
    if geometry.empty:
        return message("No box in this table.")
    known = geometry["area"].notna().all()
    side = np.sqrt(geometry["area" if known else "area_px"].to_numpy(dtype=float))
    unit = "share of the image's" if known else "original pixels"
    ids = geometry[CLASS_ID].to_numpy()
    present = [i for i in classes.finding_ids if (ids == i).any()]
    present.sort(key=lambda i: -float(np.median(side[ids == i])))
    figure = new_figure(11.0, 0.34 * len(present) + 1.5)
    left, right = figure.subplots(1, 2, sharey=True)
    measures = (
        (left, side, f"square root of the box's area, {unit}"),
        (right, geometry["aspect"].to_numpy(dtype=float), "width / height"),
    )
    for axes, values, label in measures:
        _box_rows(axes, [values[ids == i] for i in present], [ink(classes.color(i)) for i in present])
        horizontal(axes, [classes.name(i) for i in present])
        axes.set_xscale("log")
        axes.set_xlabel(label)
        plain_log(axes.xaxis)
    left.set_title("Size")
    right.set_title("Shape")
    right.axvline(1.0, color=INK, linewidth=1, linestyle=":")
    return figure


def _box_rows(axes: Axes, groups: Sequence[np.ndarray], colors: Sequence[str]) -> None:
    """Horizontal box plots: median, quartiles, and whiskers from the 5th to the 95th percentile."""
    for place, (values, color) in enumerate(zip(groups, colors, strict=True)):
        low, first, middle, third, high = np.percentile(values, [5, 25, 50, 75, 95])
        axes.plot([low, high], [place, place], color=color, linewidth=1.4)
        axes.plot([first, third], [place, place], color=color, linewidth=8, solid_capstyle="butt", alpha=0.85)
        axes.plot([middle], [place], marker="|", color="white", markersize=8, markeredgewidth=2)


@styled
def heat_maps(maps: np.ndarray, counts: Sequence[int], *, classes: ClassTable, columns: int = 5) -> Figure:
    """Where each finding sits: the share of its boxes that cover each place of the image.

    Args:
        maps: Shape (findings, bins, bins), as `annotations.heat_maps` returns it.
        counts: Boxes of each finding; those with none are left out.
        classes: The data set's classes.
        columns: Maps in a row.
    """
    present = [i for i in classes.finding_ids if counts[i] > 0]
    if not present:
        return message("No box on an image of known size: no positions to show.")
    figure, axes = new_grid(len(present), columns=columns, width=2.3, height=2.6, dark=True)
    for place, class_id in zip(axes, present, strict=True):
        place.imshow(maps[class_id], cmap="magma", vmin=0, interpolation="bilinear")
        place.set_axis_off()
        title = f"{classes.name(class_id)}\n{counts[class_id]:,} boxes"
        place.set_title(title, fontsize=9, color="white", fontweight="normal")
    return figure
