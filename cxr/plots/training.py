"""How training went: losses, scores, learning rate and time, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr.plots._style import SERIES, message, new_figure, plain_log, styled


@styled
def training_curves(
    metrics: pd.DataFrame,
    *,
    losses: Mapping[str, str],
    scores: Mapping[str, str],
    x: str = "epoch",
    best: str = "",
) -> Figure:
    """Losses on the left, validation scores on the right.

    Args:
        metrics: One or more rows per epoch; empty cells are passed over.
        losses: Column to legend text, for the left axes.
        scores: Column to legend text, for the right axes, values in `[0, 1]`.
        x: Column of the x axis.
        best: Column of `scores` whose highest value is marked.
    """
    metrics = metrics.dropna(subset=[x]) if x in metrics else metrics.iloc[:0]
    losses = {column: name for column, name in losses.items() if column in metrics}
    scores = {column: name for column, name in scores.items() if column in metrics}
    if metrics.empty or not (losses or scores):
        return message("No epoch was finished: no curve to draw.")
    per_epoch = metrics.groupby(x).mean(numeric_only=True)
    figure = new_figure(11.0, 4.0)
    left, right = figure.subplots(1, 2)
    _lines(left, per_epoch, losses)
    left.set_title("Loss")
    left.set_ylim(bottom=0)
    _lines(right, per_epoch, scores)
    right.set_title("Validation score")
    top = per_epoch[list(scores)].max().max() if scores else np.nan
    right.set_ylim(0, 1.12 * top if np.isfinite(top) and top > 0 else 1.0)
    if best in scores and per_epoch[best].notna().any():
        where = per_epoch[best].idxmax()
        height = per_epoch.loc[where, best]
        right.plot(
            [where], [height], marker="*", markersize=15, color=SERIES[1], linestyle="none", label="best"
        )
        right.annotate(
            f"{height:.3f}", (where, height), textcoords="offset points", xytext=(0, 9), ha="center"
        )
        right.legend(loc="lower right")
    return figure


def _lines(axes: Axes, table: pd.DataFrame, columns: Mapping[str, str]) -> None:
    for color, (column, name) in zip(SERIES, columns.items(), strict=False):
        line = table[column].dropna()
        axes.plot(line.index, line, color=color, label=name, marker="o", markersize=3.5, linewidth=1.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(table.index.name)
    if columns:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", style="italic")


@styled
def anchor_fit(
    sides: np.ndarray, ratios: np.ndarray, *, sizes: Sequence[float], aspects: Sequence[float]
) -> Figure:
    """Do the detector's anchors cover the boxes it has to find?

    Args:
        sides: Square root of each training box's area, network pixels, shape (N,).
        ratios: Height over width of each training box, shape (N,).
        sizes: Sides of the anchors, network pixels.
        aspects: Height over width of the anchors.
    """
    if not len(sides):
        return message("No training box: no anchors to compare.")
    figure = new_figure(7.0, 4.4)
    axes = figure.subplots()
    axes.scatter(sides, ratios, s=14, color=SERIES[0], alpha=0.4, linewidth=0, label="training boxes")
    across, up = np.meshgrid(np.asarray(sizes, dtype=float), np.asarray(aspects, dtype=float))
    axes.scatter(
        across.ravel(), up.ravel(), marker="+", s=90, color=SERIES[1], linewidth=1.8, label="anchors"
    )
    axes.set(
        xscale="log", yscale="log", xlabel="square root of the area (network px)", ylabel="height / width"
    )
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    axes.set_title("Boxes to find, and the anchors the search starts from")
    axes.legend()
    return figure
