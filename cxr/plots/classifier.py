"""Normal or not: ROC and precision-recall with intervals, calibration, importance, the ablation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from cxr.plots._style import ACCENT, INK, MUTED, SECOND, SERIES, horizontal, message, new_figure, styled
from cxr.plots.features import GROUP_COLORS
from cxr.schema import IMAGE_ID

GRID = np.linspace(0.0, 1.0, 101)


@styled
def roc_and_pr(
    labels: np.ndarray, probabilities: Mapping[str, np.ndarray], *, resamples: int = 200, seed: int = 0
) -> Figure:
    """ROC and precision-recall curves, each with a 95 % band from resampled images.

    Args:
        labels: 0 or 1 per image, shape (N,).
        probabilities: Name of a model to its p(abnormal), shape (N,), same order.
        resamples: Bootstrap resamples for the bands.
        seed: Seed of the resampling.
    """
    labels = np.asarray(labels).astype(int)
    if len(np.unique(labels)) < 2:
        return message("One kind of image only: no curve to draw.")
    figure = new_figure(11.0, 4.9)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="#8895a0", linestyle=":", linewidth=1)
    right.axhline(labels.mean(), color="#8895a0", linestyle=":", linewidth=1)
    for color, (name, scores) in zip(SERIES, probabilities.items(), strict=False):
        scores = np.asarray(scores, dtype=float)
        for axes, curve, area in ((left, _roc, roc_auc_score), (right, _pr, average_precision_score)):
            low, high = _band(labels, scores, curve, resamples=resamples, seed=seed)
            axes.fill_between(GRID, low, high, color=color, alpha=0.15, linewidth=0)
            axes.plot(GRID, curve(labels, scores), color=color, label=f"{name}  {area(labels, scores):.3f}")
    left.set(xlabel="false alarms among normal images", ylabel="found among abnormal images")
    right.set(xlabel="recall", ylabel="precision")
    for axes, title, where in (
        (left, "ROC (area)", "lower right"),
        (right, "Precision-recall (average precision)", "lower left"),
    ):
        axes.set(xlim=(-0.01, 1.01), ylim=(0, 1.02))
        axes.set_title(title)
        axes.legend(loc=where)
    return figure


def _roc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    false_rate, true_rate, _ = roc_curve(labels, scores)
    return np.interp(GRID, false_rate, true_rate)


def _pr(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return np.interp(GRID, recall[::-1], precision[::-1])


def _band(
    labels: np.ndarray,
    scores: np.ndarray,
    curve: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """2.5 and 97.5 % of a curve over resampled images, the kinds resampled apart so that both stay."""
    generator = np.random.default_rng(seed)
    kinds = [np.flatnonzero(labels == value) for value in (0, 1)]
    curves = []
    for _ in range(resamples):
        chosen = np.concatenate([generator.choice(kind, len(kind)) for kind in kinds])
        curves.append(curve(labels[chosen], scores[chosen]))
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    return low, high


@styled
def calibration(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Reliability: of the images given probability p, the share that is abnormal.

    Args:
        tables: Name of a model to its bins: `p_mean`, `observed`, `images`, `low`, `high`.
    """
    tables = {name: table[table["images"] > 0] for name, table in tables.items()}
    if not any(len(table) for table in tables.values()):
        return message("One kind of image only: nothing to calibrate.")
    figure = new_figure(6.0, 5.0)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#8895a0", linestyle=":", linewidth=1)
    for color, (name, table) in zip(SERIES, tables.items(), strict=False):
        spread = [table["observed"] - table["low"], table["high"] - table["observed"]]
        axes.errorbar(
            table["p_mean"],
            table["observed"],
            yerr=np.clip(spread, 0, None),
            color=color,
            marker="o",
            markersize=5,
            linewidth=1.4,
            elinewidth=0.9,
            capsize=2,
            label=name,
        )
    images = round(np.mean(np.concatenate([table["images"] for table in tables.values()])))
    axes.set(xlabel="p(abnormal) that the model gives", ylabel="share that is abnormal")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(f"Calibration, 95 % intervals; about {images:,} images a point")
    axes.legend(loc="upper left")
    return figure


ABLATION_PANELS = (
    ("auc", "ROC AUC"),
    ("ap", "Average precision"),
    ("accuracy", "Accuracy at one half"),
    ("brier", "Brier score (lower is better)"),
    ("auc_gain", "AUC minus that of pixels, paired"),
)
NO_DIFFERENCE = {"auc": 0.5, "auc_gain": 0.0}


@styled
def ablation(table: pd.DataFrame) -> Figure:
    """What each group of features is worth alone and together, with intervals.

    Args:
        table: One row per setting: `setting` and `auc, auc_low, auc_high`, the same for `ap`,
            `accuracy`, `brier` and `auc_gain` (over the pixel features, paired); NaN where not tried.
    """
    if table["auc"].isna().all():
        return message("One kind of image only: no groups of features to compare.")
    figure = new_figure(11.5, 0.84 * len(table) + 2.2)
    grid = figure.subplots(2, 3, sharey=True).ravel()
    grid[-1].set_axis_off()
    absent = table["setting"][table["auc"].isna()].tolist()
    if absent:
        words = "not tried:\n" + "\n".join(absent)
        grid[-1].text(0.05, 0.95, words, ha="left", va="top", color=INK, transform=grid[-1].transAxes)
    for axes, (score, title) in zip(grid, ABLATION_PANELS, strict=False):
        place = np.arange(len(table))
        values = table[score].to_numpy(dtype=float)
        spread = np.clip([values - table[f"{score}_low"], table[f"{score}_high"] - values], 0, None)
        if score in NO_DIFFERENCE:
            axes.axvline(NO_DIFFERENCE[score], color="#8895a0", linestyle=":", linewidth=1)
        axes.errorbar(
            values, place, xerr=spread, fmt="o", color=ACCENT, markersize=7, elinewidth=2, capsize=3
        )
        for i in np.flatnonzero(np.isfinite(values)):
            sign = "+" if score == "auc_gain" else ""
            axes.text(values[i], i - 0.22, f"{values[i]:{sign}.3f}", ha="center", va="bottom", fontsize=8)
        if score == "auc_gain":
            for i in np.flatnonzero(table["setting"] == "pixel"):
                axes.text(0.0, i, " the reference", ha="left", va="center", fontsize=8, color=INK)
        horizontal(axes, table["setting"].tolist())
        axes.set_ylim(len(table) - 0.5, -0.8)
        axes.margins(x=0.12)
        axes.set_title(title)
    return figure


@styled
def permutation_importance(table: pd.DataFrame, *, top: int = 20) -> Figure:
    """How much AUC is lost when one feature's values are shuffled, out of fold.

    Args:
        table: `feature, group, auc_drop, auc_drop_std`.
        top: How many features to show.
    """
    shown = table.astype({"auc_drop": float, "auc_drop_std": float}).nlargest(top, "auc_drop")
    if shown.empty or not shown["auc_drop"].any():
        return message("Shuffling a feature changes nothing: the model uses none.")
    figure = new_figure(8.5, 0.26 * len(shown) + 1.5)
    axes = figure.subplots()
    colors = [GROUP_COLORS.get(group, MUTED) for group in shown["group"]]
    axes.barh(
        range(len(shown)),
        shown["auc_drop"],
        xerr=shown["auc_drop_std"],
        color=colors,
        height=0.72,
        error_kw={"ecolor": "#5b6872", "elinewidth": 1},
    )
    axes.axvline(0, color="#8895a0", linewidth=1)
    horizontal(axes, shown["feature"].tolist())
    axes.set_xlabel("AUC lost")
    axes.set_title("Permutation importance, out of fold")
    return figure


@styled
def shap_summary(
    contributions: pd.DataFrame, features: pd.DataFrame, *, top: int = 15, seed: int = 0
) -> Figure:
    """What each feature added to each image's log-odds of being abnormal; a dot is an image.

    Args:
        contributions: `image_id` and one column a feature, log-odds, out of fold.
        features: `image_id` and the features' values, for the colour.
        top: How many features to show, by mean size of contribution.
        seed: Seed of the dots' vertical jitter.
    """
    table = contributions.set_index(IMAGE_ID)
    order = table.abs().mean().sort_values(ascending=False, kind="stable").head(top).index.tolist()
    if table.empty or not table.to_numpy().any():
        return message("No feature moved any image's score: the model uses none.")
    values = features.set_index(IMAGE_ID).reindex(table.index)
    generator = np.random.default_rng(seed)
    figure = new_figure(9.0, 0.34 * len(order) + 1.5)
    axes = figure.subplots()
    drawn: PathCollection
    for place, name in enumerate(order):
        rank = (
            values[name].astype(float).rank(pct=True) if name in values else pd.Series(0.5, index=table.index)
        )
        jitter = place + generator.uniform(-0.28, 0.28, len(table))
        known = rank.notna().to_numpy()
        axes.scatter(table[name][~known], jitter[~known], s=7, color=MUTED, linewidth=0)
        drawn = axes.scatter(
            table[name][known],
            jitter[known],
            c=rank[known],
            cmap="coolwarm",
            vmin=0,
            vmax=1,
            s=9,
            linewidth=0,
            alpha=0.85,
        )
    axes.axvline(0, color="#8895a0", linewidth=1)
    horizontal(axes, order)
    axes.set_xlabel("towards normal     contribution to the log-odds     towards abnormal")
    axes.set_title("What moved each image's score (SHAP values)")
    bar = figure.colorbar(drawn, ax=axes, shrink=0.7, ticks=[0, 1], pad=0.01)
    bar.ax.set_yticklabels(["low", "high"])
    bar.set_label("value of the feature", labelpad=-12)
    return figure


@styled
def probability_histogram(labels: np.ndarray, probabilities: np.ndarray) -> Figure:
    """Probabilities of normal and of abnormal images, one above the other.

    Args:
        labels: 0 or 1 per image, shape (N,).
        probabilities: p(abnormal), shape (N,).
    """
    figure = new_figure(8.0, 3.0)
    axes = figure.subplots()
    _two_histograms(axes, np.asarray(labels), np.asarray(probabilities, dtype=float))
    axes.set(xlabel="p(abnormal), out of fold", ylabel="images", xlim=(0, 1))
    axes.set_title("Where the images land", pad=22)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return figure


def _two_histograms(axes: Axes, labels: np.ndarray, probabilities: np.ndarray) -> None:
    bins = np.linspace(0, 1, 41).tolist()
    for value, color, name in ((0, MUTED, "normal"), (1, SECOND, "abnormal")):
        chosen = probabilities[labels == value]
        axes.hist(chosen, bins=bins, color=color, alpha=0.7, label=f"{name} ({len(chosen):,})")
