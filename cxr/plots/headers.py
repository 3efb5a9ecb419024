"""What the DICOM headers say: how files are stored, who the patients are, and how large images are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr.plots._style import ACCENT, INK, MUTED, SERIES, bar_labels, horizontal, message, new_figure, styled

TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2": "Implicit VR little endian",
    "1.2.840.10008.1.2.1": "Explicit VR little endian",
    "1.2.840.10008.1.2.1.99": "Deflated explicit VR",
    "1.2.840.10008.1.2.2": "Explicit VR big endian",
    "1.2.840.10008.1.2.4.50": "JPEG baseline",
    "1.2.840.10008.1.2.4.51": "JPEG extended",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless SV1",
    "1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS near-lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE",
}
"""Names of DICOM PS3.5 transfer syntaxes, short enough for an axis."""

SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "CR (computed radiography)",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX (digital X-ray)",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary capture",
}


@styled
def header_facts(headers: pd.DataFrame) -> Figure:
    """How often each value of the telling header fields occurs.

    Args:
        headers: One row per file with `schema.HEADER_COLUMNS` as text, empty where a field is missing.
    """
    if headers.empty:
        return message("No header to show: the images are not there, or are not DICOM.")
    text = headers.astype("string").fillna("").apply(lambda column: column.str.strip())
    charts = {
        "Transfer syntax": text["Transfer Syntax UID"].replace(TRANSFER_SYNTAXES),
        "Kind of image": text["SOP Class UID"].replace(SOP_CLASSES),
        "Photometric interpretation": text["Photometric Interpretation"],
        "Bits stored": text["Bits Stored"],
        "Patient's sex": text["Patient's Sex"],
        "Patient's age": _age_kind(text["Patient's Age"]),
        "Window": _window_kind(text),
        "Pixel spacing": _spacing_kind(text["Pixel Spacing"]),
        "Software version (commonest)": text["Version"],
    }
    figure = new_figure(12.5, 7.2)
    for axes, (title, values) in zip(figure.subplots(3, 3).flat, charts.items(), strict=True):
        _count_bars(axes, values.replace("", "(empty)"), title)
    return figure


def _count_bars(axes: Axes, values: pd.Series, title: str, *, most: int = 6) -> None:
    counts = values.value_counts().sort_values(ascending=False, kind="stable")
    if len(counts) > most:
        rest = pd.Series({f"{len(counts) - most + 1} others": counts.iloc[most - 1 :].sum()})
        counts = pd.concat([counts.iloc[: most - 1], rest])
    names = [name if len(name) <= 26 else f"{name[:25]}…" for name in counts.index]
    colors = [MUTED if name in ("(empty)", "missing") else ACCENT for name in counts.index]
    axes.barh(range(len(counts)), counts, color=colors, height=0.7)
    horizontal(axes, names)
    axes.set_ylim(max(len(counts), 3) - 0.4, -0.6)
    bar_labels(axes, counts.tolist())
    axes.set_title(title)
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)


def _age_kind(ages: pd.Series) -> pd.Series:
    """Sort the age texts of PS3.5's AS form (`045Y`) by whether a person can have that age."""
    parts = ages.str.extract(r"^(\d{1,3})([DWMY])$")
    years = pd.to_numeric(parts[0]) / parts[1].map({"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}).astype(
        float
    )
    kind = pd.Series("not an age", index=ages.index, dtype="object")
    kind[ages == ""] = "missing"
    kind[years.notna() & (years <= 0)] = "zero"
    kind[years > 110] = "over 110 years"
    kind[(years > 0) & (years <= 110)] = "usable"
    return kind


def _window_kind(text: pd.DataFrame) -> pd.Series:
    """Sort windows by whether they fit the bits of the file."""
    width = pd.to_numeric(text["Window Width"].str.extract(r"(-?\d+\.?\d*)")[0], errors="coerce")
    bits = pd.to_numeric(text["Bits Stored"], errors="coerce")
    kind = pd.Series("within the bit range", index=text.index, dtype="object")
    kind[width > 1.2 * np.exp2(bits)] = "over 1.2 x the bit range"
    kind[width <= 1] = "one grey level or less"
    kind[width.isna()] = "missing"
    return kind


def _spacing_kind(spacing: pd.Series) -> pd.Series:
    kind = spacing.str.extract(r"(\d+\.?\d*)")[0].astype("float").map(lambda mm: f"{mm:.3f} mm")
    return kind.where(spacing != "", "missing")


@styled
def image_sizes(sizes: pd.DataFrame) -> Figure:
    """Rows against columns of the original images, point size by how often a size occurs.

    Args:
        sizes: `image_id, rows, columns`.
    """
    if sizes.empty:
        return message("No image size is known.")
    counts = sizes.groupby(["rows", "columns"]).size().rename("images").reset_index()
    figure = new_figure(6.2, 5.4)
    axes = figure.subplots()
    area = 18 + 500 * counts["images"] / max(counts["images"].max(), 20)
    axes.scatter(
        counts["columns"], counts["rows"], s=area, color=ACCENT, alpha=0.45, edgecolor=ACCENT, linewidth=0.6
    )
    top = 1.08 * max(counts["rows"].max(), counts["columns"].max())
    low = 0.9 * min(counts["rows"].min(), counts["columns"].min())
    axes.plot([low, top], [low, top], color="#8895a0", linestyle=":", linewidth=1)
    axes.text(low + 0.12 * (top - low), low + 0.03 * (top - low), "landscape", color="#5b6872", fontsize=9)
    axes.text(low + 0.03 * (top - low), top - 0.06 * (top - low), "portrait", color="#5b6872", fontsize=9)
    axes.set(xlim=(low, top), ylim=(low, top), xlabel="columns (px)", ylabel="rows (px)", aspect="equal")
    axes.set_title("Sizes of the original images")
    return figure


@styled
def failures(table: pd.DataFrame, *, stored: int) -> Figure:
    """Why files could not be read.

    Args:
        table: One row per failed file with a `reason`.
        stored: How many files are in the store.
    """
    if table.empty:
        return message(f"No file failed: all {stored:,} are in the store.")
    counts = table["reason"].value_counts()
    figure = new_figure(8.0, 0.36 * len(counts) + 1.2)
    axes = figure.subplots()
    axes.barh(range(len(counts)), counts, color=SERIES[1], height=0.7)
    horizontal(axes, counts.index)
    bar_labels(axes, counts.tolist())
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_title(f"Files that failed, by reason ({stored:,} were stored)", color=INK)
    return figure
