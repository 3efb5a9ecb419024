"""How good the detections are: per class, curves, errors, and the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cxr.plots._style import (
    ACCENT,
    BAD,
    GOOD,
    INK,
    MISSED,
    MUTED,
    SERIES,
    heat,
    horizontal,
    ink,
    message,
    new_figure,
    new_grid,
    plain_log,
    styled,
)
from cxr.schema import CLASS_ID, ClassTable


@styled
def per_class_ap(table: pd.DataFrame, *, classes: ClassTable) -> Figure:
    """Average precision of every class with its interval.

    Args:
        table: `class_id, ap, n_truth`, and `low, high` when an interval is known; NaN without truth.
        classes: The data set's classes.
    """
    shown = table.dropna(subset=["ap"]).sort_values("ap", ascending=False, kind="stable")
    if shown.empty:
        return message("No truth box: no average precision.")
    figure = new_figure(9.0, 0.34 * len(shown) + 1.6)
    axes = figure.subplots()
    place = np.arange(len(shown))
    colors = [MUTED if i == classes.normal_id else ACCENT for i in shown[CLASS_ID]]
    axes.barh(place, shown["ap"], color=colors, height=0.66)
    if {"low", "high"} <= set(shown.columns):
        axes.hlines(place, shown["low"], shown["high"], color=INK, linewidth=1.4, label="95 % interval")
    names = [
        f"{classes.name(int(i))} ({int(n):,})" for i, n in zip(shown[CLASS_ID], shown["n_truth"], strict=True)
    ]
    horizontal(axes, names)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("average precision (truth boxes in brackets)")
    axes.set_title("Average precision of each class", pad=22)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return figure


@styled
def pr_curves(
    curves: Mapping[int, tuple[np.ndarray, np.ndarray]],
    aps: Mapping[int, float],
    *,
    classes: ClassTable,
    columns: int = 5,
) -> Figure:
    """Precision against recall, one small chart a class.

    Args:
        curves: Class id to recall and precision, each shape (K,), from the highest score down.
        aps: Class id to average precision, for the titles.
        classes: The data set's classes.
        columns: Charts in a row.
    """
    present = [i for i in sorted(curves) if np.isfinite(aps.get(i, np.nan))]
    if not present:
        return message("No class has truth: no curve to draw.")
    figure, axes = new_grid(len(present), columns=columns, width=2.4, height=2.3, share=True)
    for place, class_id in zip(axes, present, strict=True):
        recall, precision = (np.asarray(values, dtype=float) for values in curves[class_id])
        if not len(recall):  # a class of which nothing was detected
            recall, precision = np.zeros(1), np.zeros(1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        color = ink(classes.color(class_id))
        stairs = np.concatenate([[0.0], recall]), np.concatenate([envelope[:1], envelope])
        place.fill_between(*stairs, step="pre", color=color, alpha=0.2, linewidth=0)
        line = np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])
        place.plot(*line, color=color, linewidth=1.3, drawstyle="steps-pre")
        place.set(xlim=(0, 1.02), ylim=(0, 1.05))
        place.set_title(f"{classes.name(class_id)}  {aps[class_id]:.2f}", fontsize=9)
    figure.supxlabel("recall", fontsize=10)
    figure.supylabel("precision", fontsize=10)
    return figure


@styled
def froc(
    mean: tuple[np.ndarray, np.ndarray],
    per_class: Mapping[int, tuple[np.ndarray, np.ndarray]],
    *,
    classes: ClassTable,
    points: Sequence[float] = (0.125, 0.25, 0.5, 1, 2, 4, 8),
) -> Figure:
    """FROC: truth boxes found against the false alarms an image that this costs.

    Args:
        mean: False positives per image and sensitivity, mean over the findings, shape (K,) each.
        per_class: The same two arrays by class id, from the highest score down, drawn thin behind the mean.
        classes: The data set's classes.
        points: False positives per image that get a tick.
    """
    if not len(mean[0]):
        return message("No finding has truth: no FROC.")
    figure = new_figure(9.4, 4.8)
    axes = figure.subplots()
    low, high = min(points) * 0.9, max(points) * 1.1
    for class_id, (alarms, found) in per_class.items():
        # From no false alarm on, which a logarithmic axis cannot show, to the right edge.
        x = np.concatenate([[low], np.maximum(alarms, low), [high]])
        y = np.concatenate([[0.0], found, found[-1:] if len(found) else [0.0]])
        color = ink(classes.color(class_id))
        axes.plot(
            x, y, color=color, linewidth=1.1, alpha=0.8, drawstyle="steps-post", label=classes.name(class_id)
        )
    axes.plot(*mean, color=INK, linewidth=2.8, marker="o", markersize=5, label="mean")
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    axes.set_xticks(list(points), [_fraction(p) for p in points])
    axes.minorticks_off()
    axes.set(ylim=(0, 1.02), xlabel="false alarms per image", ylabel="share of the truth boxes found")
    axes.set_title("FROC")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _cycle(count: int) -> list[str]:
    """Colours for many thin lines."""
    return [
        mpl.colors.to_hex(color) for color in mpl.colormaps["turbo"](np.linspace(0.05, 0.95, max(count, 1)))
    ][:count]


def _fraction(value: float) -> str:
    return f"{value:g}" if value >= 1 else f"1/{round(1 / value)}"


@styled
def confusion(matrix: pd.DataFrame) -> Figure:
    """What the truth's boxes were called; each row adds up to one.

    Args:
        matrix: Counts, rows true names, columns predicted names; the last row is background
            (false alarms), the last column is missed.
    """
    counts = matrix.to_numpy(dtype=float)
    if counts.sum() == 0:
        return message("No box above the score threshold and no truth: no confusion.")
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    texts = np.array([[f"{int(v)}" if v else "" for v in row] for row in counts])
    figure = new_figure(0.56 * matrix.shape[1] + 3.2, 0.4 * matrix.shape[0] + 2.3)
    axes = figure.subplots()
    heat(
        axes,
        share,
        rows=list(map(str, matrix.index)),
        columns=list(map(str, matrix.columns)),
        texts=texts,
        low=0,
        high=1,
    )
    axes.axhline(matrix.shape[0] - 1.5, color="#8895a0", linewidth=1)
    axes.axvline(matrix.shape[1] - 1.5, color="#8895a0", linewidth=1)
    axes.set(ylabel="truth", xlabel="detector")
    axes.set_title("What true boxes were called (counts; colour: share of the row)")
    return figure


ERROR_COLORS = {
    "hit": GOOD,
    "localisation": "#5bc0eb",
    "class": "#8a5fa8",
    "both": "#c792ea",
    "duplicate": "#8a7a3d",
    "background": BAD,
    "missed": MISSED,
}


@styled
def error_breakdown(table: pd.DataFrame) -> Figure:
    """What became of the detections and of the truth, as counts for each class.

    Args:
        table: Index class names, one column for each kind of outcome, values counts.
    """
    table = table.loc[table.sum(axis=1) > 0]
    if table.empty:
        return message("No detection and no truth: no errors to sort.")
    figure = new_figure(10.0, 0.34 * len(table) + 1.7)
    axes = figure.subplots()
    left = np.zeros(len(table))
    for spare, column in zip(_cycle(table.shape[1]), table.columns, strict=True):
        values = table[column].to_numpy(dtype=float)
        axes.barh(
            range(len(table)),
            values,
            left=left,
            height=0.72,
            color=ERROR_COLORS.get(str(column), spare),
            label=str(column),
        )
        left += values
    horizontal(axes, [str(name) for name in table.index])
    axes.set_xlabel("boxes")
    axes.set_title("Where the errors come from", pad=32)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=table.shape[1], columnspacing=1.2)
    return figure


@styled
def operating_point(table: pd.DataFrame, *, threshold: float) -> Figure:
    """Precision, recall and F1 of all findings together against the score threshold.

    Args:
        table: `threshold, precision, recall, f1`.
        threshold: The threshold in use, marked.
    """
    if table.empty:
        return message("No detection: no threshold to choose.")
    figure = new_figure(8.0, 3.6)
    axes = figure.subplots()
    for column, color in (("precision", SERIES[0]), ("recall", SERIES[1]), ("f1", SERIES[2])):
        axes.plot(
            table["threshold"], table[column], color=color, label=column.replace("f1", "F1"), linewidth=1.8
        )
    axes.axvline(threshold, color=INK, linestyle=":", linewidth=1.4)
    axes.text(threshold, 1.03, " highest F1", fontsize=9, va="bottom")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="score threshold")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("Where to cut, when boxes must be shown to a person", pad=20)
    axes.legend(loc="center right")
    return figure


@styled
def detection_scores(detections: pd.DataFrame, hit: np.ndarray) -> Figure:
    """Scores of hits and of false alarms.

    Args:
        detections: One row per detection with its `score`.
        hit: Truth values, same order, shape (N,).
    """
    if detections.empty:
        return message("No detection.")
    figure = new_figure(8.0, 3.0)
    axes = figure.subplots()
    scores, hit = detections["score"].to_numpy(dtype=float), np.asarray(hit, dtype=bool)
    bins = np.linspace(0, 1, 41).tolist()
    axes.hist(scores[~hit], bins=bins, color=BAD, alpha=0.7, label=f"false alarms ({(~hit).sum():,})")
    axes.hist(scores[hit], bins=bins, color=GOOD, alpha=0.8, label=f"hits ({hit.sum():,})")
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.set(xlabel="score", ylabel="boxes (logarithmic)", xlim=(0, 1))
    axes.set_title("Scores of hits and of false alarms", pad=22)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return figure
