"""Which feature separates normal from abnormal, and how the folds came out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from cxr.features import feature_group
from cxr.plots._style import (
    ACCENT,
    MUTED,
    SECOND,
    SERIES,
    heat,
    horizontal,
    message,
    new_figure,
    new_grid,
    styled,
)
from cxr.schema import FOLD, IMAGE_ID, ClassTable

GROUP_COLORS = {"pixel": SERIES[0], "header": SERIES[1], "detector": SERIES[2]}


def single_feature_auc(features: pd.DataFrame, abnormal: pd.Series, *, least: int = 5) -> pd.DataFrame:
    """How well each feature alone ranks abnormal images above normal ones.

    Args:
        features: `image_id` and numeric features; a missing value leaves its image out for that feature.
        abnormal: 0 or 1 by `image_id`; images without a label are left out.
        least: Images of each kind that must have a value.

    Returns:
        `feature, group, images, auc`: above one half where the feature is higher in abnormal images, below
        where it is lower, NaN where too few images of either kind have a value.
    """
    values = features.set_index(IMAGE_ID)
    values = values[values.index.isin(abnormal.index)]
    truth = abnormal.reindex(values.index).to_numpy()
    rows = []
    for name in values.columns:
        column = values[name].to_numpy(dtype=float)
        known = np.isfinite(column)
        ranks = rankdata(column[known])
        positive = truth[known] == 1
        n_positive, n_negative = int(positive.sum()), int((~positive).sum())
        above = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
        enough = min(n_positive, n_negative) >= least
        auc = above / (n_positive * n_negative) if enough else np.nan
        rows.append((name, feature_group(name), int(known.sum()), auc))
    return pd.DataFrame(rows, columns=["feature", "group", "images", "auc"])


@styled
def feature_separation(table: pd.DataFrame, *, top: int = 25) -> Figure:
    """How well each single feature ranks abnormal above normal (or below).

    Args:
        table: One row per feature: `feature`, `group` (pixel, header or detector) and `auc` in `[0, 1]`.
        top: How many of the most telling features to show.
    """
    if table.empty or table["auc"].isna().all():
        return message("One kind of image only: nothing to separate.")
    shown = table.dropna(subset=["auc"]).assign(gap=lambda t: (t["auc"] - 0.5).abs())
    shown = shown.sort_values("gap", ascending=False, kind="stable").head(top)
    figure = new_figure(8.5, 0.25 * len(shown) + 1.5)
    axes = figure.subplots()
    colors = [GROUP_COLORS.get(group, MUTED) for group in shown["group"]]
    axes.barh(range(len(shown)), shown["auc"] - 0.5, left=0.5, color=colors, height=0.72)
    axes.axvline(0.5, color="#8895a0", linewidth=1)
    horizontal(axes, shown["feature"].tolist())
    axes.set_xlim(0, 1)
    axes.set_xlabel("lower in abnormal images     AUC of the feature alone     higher in abnormal images")
    axes.set_title("Features that separate, the strongest first", pad=22)
    present = [g for g in GROUP_COLORS if g in set(shown["group"])]
    handles = [axes.barh([0], [0], color=GROUP_COLORS[g]) for g in present]
    axes.legend(handles, present, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(present))
    return figure


@styled
def feature_distributions(
    features: pd.DataFrame, abnormal: pd.Series, names: list[str], *, columns: int = 4
) -> Figure:
    """Distributions of a few features, normal against abnormal images.

    Args:
        features: One row per image, `image_id` and the features.
        abnormal: 0 or 1 by `image_id`.
        names: Features to show.
        columns: Charts in a row.
    """
    if not names:
        return message("No feature to show.")
    joined = features.set_index(IMAGE_ID)[names].join(abnormal.rename("abnormal"), how="inner")
    figure, axes = new_grid(len(names), columns=columns, width=2.9, height=2.3)
    for place, name in zip(axes, names, strict=True):
        low, high = np.nanpercentile(joined[name].astype(float), [0.5, 99.5])
        bins = np.linspace(low, high if high > low else low + 1, 31).tolist()
        for value, color, label in ((0, MUTED, "normal"), (1, SECOND, "abnormal")):
            values = joined.loc[joined["abnormal"] == value, name].astype(float).dropna()
            if len(values):
                place.hist(
                    values.clip(low, high), bins=bins, density=True, color=color, alpha=0.65, label=label
                )
        place.set_title(name, fontsize=9)
        place.set_yticks([])
        place.xaxis.set_major_locator(MaxNLocator(4))
        place.spines["left"].set_visible(False)
        place.grid(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return figure


@styled
def feature_correlation(features: pd.DataFrame, names: list[str]) -> Figure:
    """Which features say the same thing: rank correlations, ordered so that families stand together.

    Args:
        features: One row per image.
        names: Features to show, at least two.
    """
    table = features[names].astype(float)
    table = table.loc[:, table.std() > 0]
    if table.shape[1] < 2:
        return message("Fewer than two features vary: no correlation to show.")
    correlation = table.corr(method="spearman").fillna(0.0)
    order = _by_likeness(correlation.to_numpy())
    correlation = correlation.iloc[order, order]
    side = 0.2 * len(correlation) + 2.2
    figure = new_figure(side + 0.6, side)
    axes = figure.subplots()
    sns.heatmap(
        correlation,
        ax=axes,
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
        square=True,
        cbar_kws={"shrink": 0.6},
        xticklabels=True,
        yticklabels=True,
    )
    axes.tick_params(labelsize=7, length=0)
    axes.set_title("Rank correlation of the features")
    return figure


def _by_likeness(correlation: np.ndarray) -> list[int]:
    """Chain the features greedily: each is followed by the unused one most like it."""
    strength = np.abs(correlation)
    order = [int(strength.sum(axis=0).argmax())]
    left = set(range(len(correlation))) - set(order)
    while left:
        rest = sorted(left)
        best = rest[int(strength[order[-1], rest].argmax())]
        order.append(best)
        left.remove(best)
    return order


@styled
def group_shares(values: pd.Series, abnormal: pd.Series, *, title: str, most: int = 10) -> Figure:
    """Share of abnormal images for each value of a category, for example a header field.

    Args:
        values: Category by `image_id`.
        abnormal: 0 or 1 by `image_id`.
        title: What the category is.
        most: How many of the commonest values to show.
    """
    joined = pd.DataFrame({"value": values, "abnormal": abnormal}).dropna(subset=["abnormal"])
    if joined.empty:
        return message(f"{title}: no image has a label.")
    joined["value"] = joined["value"].astype("string").fillna("").replace("", "(empty)")
    if joined["value"].eq("(empty)").all():
        return message(f"{title}: empty for every image.")
    table = joined.groupby("value")["abnormal"].agg(["mean", "size"]).nlargest(most, "size")
    table = table.sort_values("mean")
    figure = new_figure(8.5, 0.32 * len(table) + 1.4)
    axes = figure.subplots()
    axes.barh(range(len(table)), table["mean"], color=ACCENT, height=0.7)
    horizontal(axes, [f"{_clip(name)} ({n:,})" for name, n in zip(table.index, table["size"], strict=True)])
    overall = float(joined["abnormal"].mean())
    axes.axvline(overall, color=SECOND, linewidth=1.4, linestyle="--", label="all images")
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of abnormal images")
    axes.set_title(title, pad=22)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def _clip(name: str, length: int = 34) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


@styled
def fold_balance(labels: pd.DataFrame, folds: pd.DataFrame, *, classes: ClassTable) -> Figure:
    """Images of every class in every fold; the colour is the distance from an even share.

    Args:
        labels: `image_id, class_id`, several rows an image.
        folds: `image_id, fold`.
        classes: The data set's classes.
    """
    pairs = labels[[IMAGE_ID, "class_id"]].drop_duplicates().merge(folds, on=IMAGE_ID)
    counts = pd.crosstab(pairs["class_id"], pairs[FOLD])
    counts = counts.reindex([i for i in range(len(classes.names)) if i in counts.index])
    even = counts.sum(axis=1) / max(folds[FOLD].nunique(), 1)
    off = counts.sub(even, axis=0).div(even, axis=0).to_numpy(dtype=float)
    names = [classes.name(int(i)) for i in counts.index]
    figure = new_figure(0.85 * counts.shape[1] + 3.4, max(0.32 * len(names) + 1.5, 3.0))
    axes = figure.subplots()
    texts = counts.to_numpy().astype(str)
    drawn = heat(
        axes,
        off,
        rows=names,
        columns=[f"fold {f}" for f in counts.columns],
        texts=texts,
        cmap="PuOr",
        low=-0.6,
        high=0.6,
        turn=False,
    )
    figure.colorbar(
        drawn, ax=axes, shrink=0.8, label="above or below an even share", format=lambda v, _: f"{v:+.0%}"
    )
    axes.set_title("Images of each class in each fold")
    return figure
