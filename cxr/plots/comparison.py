"""Scores beside scores: groups of images, submissions, and what readers reach."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.plots._style import ACCENT, SECOND, horizontal, message, new_figure, styled


@styled
def scores_with_intervals(table: pd.DataFrame, *, title: str, label: str = "mAP@0.4") -> Figure:
    """A few scores with their intervals, one a row.

    Args:
        table: `name, value`, and `low, high` (NaN for none).
        title: What is compared.
        label: Name of the score.
    """
    shown = table.dropna(subset=["value"]).reset_index(drop=True)
    if shown.empty:
        return message(f"{title}: nothing to compare.")
    figure = new_figure(8.5, 0.42 * len(shown) + 1.6)
    axes = figure.subplots()
    for place, row in shown.iterrows():
        _dot(axes, place, row["value"], row.get("low", np.nan), row.get("high", np.nan), color=ACCENT)
    horizontal(axes, shown["name"].tolist())
    axes.set_ylim(len(shown) - 0.5, -0.8)
    _from_zero(axes, shown[[c for c in ("value", "high") if c in shown]].to_numpy(dtype=float))
    axes.set_xlabel(label)
    axes.set_title(title)
    return figure


@styled
def reader_ceiling(table: pd.DataFrame) -> Figure:
    """Each reader and the detector before the same truth, one pair a row.

    Args:
        table: What `metrics.reader_ceiling` returned, with the detector's scores.
    """
    if table.empty:
        return message("No reader shares enough images with findings with others: no ceiling.")
    figure = new_figure(9.0, 0.62 * len(table) + 1.7)
    axes = figure.subplots()
    lines = {
        "reader": ("map", "low", "high", SECOND),
        "detector": ("detector", "detector_low", "detector_high", ACCENT),
    }
    for line, (name, (value, low, high, color)) in enumerate(lines.items()):
        for place, row in enumerate(table.to_dict("records")):
            _dot(axes, place - 0.17 + 0.34 * line, row[value], row[low], row[high], color=color)
        axes.plot([], [], marker="o", color=color, label=name)
    horizontal(axes, [f"{row.rad_id} ({row.abnormal:,})" for row in table.itertuples()])
    axes.set_ylim(len(table) - 0.4, -0.6)
    _from_zero(axes, table[["map", "high", "detector", "detector_high"]].to_numpy(dtype=float))
    axes.set_xlabel("mAP over the findings (reader's images with findings in brackets)")
    axes.set_title("Against the other readers", pad=22)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return figure


def _dot(axes: Axes, place: float, value: float, low: float, high: float, *, color: str) -> None:
    """One score as a dot on its interval, its number to the right of both."""
    if np.isfinite(low):
        axes.plot([low, high], [place, place], color=color, linewidth=2.2, solid_capstyle="round")
    axes.plot([value], [place], marker="o", markersize=8, color=color)
    end = max(value, high) if np.isfinite(high) else value
    axes.annotate(
        f"{value:.3f}", (end, place), xytext=(9, 0), textcoords="offset points", va="center", fontsize=8
    )


def _from_zero(axes: Axes, values: np.ndarray) -> None:
    axes.set_xlim(0, max(1.15 * np.nanmax(values), 0.1))
