"""What each group of features is worth, and a plain verdict on whether it is the image that speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from cxr import schema
from cxr.classifier.fitting import DEFAULT, CrossValidation, cross_validate
from cxr.classifier.recipe import Recipe
from cxr.classifier.scores import SCORES, paired_differences, scores
from cxr.features import GROUPS, feature_group, feature_names

ABLATION_SETTINGS: dict[str, tuple[str, ...]] = {
    "header": ("header",),
    "pixel": ("pixel",),
    "pixel+header": ("pixel", "header"),
    "detector": ("detector",),
    "all": ("pixel", "header", "detector"),
}
WIDE = 0.6
"""Headers whose AUC may be this high or higher have not been shown to be harmless."""


def setting_name(groups: Iterable[str]) -> str:
    """Name of a set of feature groups: its row of the ablation, else the groups joined by "+"."""
    wanted = set(groups)
    named = {name for name, held in ABLATION_SETTINGS.items() if set(held) == wanted}
    return named.pop() if named else "+".join(group for group in GROUPS if group in wanted)


def compare_groups(
    features: pd.DataFrame,
    labels: pd.Series,
    folds: pd.DataFrame,
    recipe: Recipe = DEFAULT,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, CrossValidation]:
    """Cross-validate the classifier on each set of feature groups, on the same images.

    The settings of the trees are searched once, for the recipe's groups, in each fold's training part; every
    other set is fitted with what was found there. So a difference is the features' doing, and the
    time does not multiply.

    Args:
        features: `image_id` and feature columns of one or more groups.
        labels: Index `image_id`, 1 for abnormal.
        folds: `image_id, fold`.
        recipe: Of the classifier that will be used.
        progress: Called with (sets done, sets).

    Returns:
        Name of a set (`setting_name`) to its result: the recipe's own, and each of
        `ABLATION_SETTINGS` whose features are in the table, in that order.

    Raises:
        DataError: As in `cross_validate`.
    """
    present = {feature_group(name) for name in feature_names(features)}
    used = setting_name(recipe.feature_groups)
    wanted = {name: held for name, held in ABLATION_SETTINGS.items() if set(held) <= present}
    wanted.setdefault(used, recipe.feature_groups)
    results: dict[str, CrossValidation] = {}
    for done, name in enumerate([used, *(name for name in wanted if name != used)]):
        found = results.get(used)
        results[name] = cross_validate(
            features,
            labels,
            folds,
            replace(recipe, feature_groups=wanted[name]),
            tree_settings={fold: model.parameters for fold, model in found.models.items()} if found else None,
        )
        if progress:
            progress(done + 1, len(wanted))
    return {name: results[name] for name in wanted}


def ablation(results: Mapping[str, CrossValidation], *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Score every set of feature groups, out of fold.

    Args:
        results: What `compare_groups` returned.
        resamples: Bootstrap samples for the intervals.
        seed: Of the resampling.

    Returns:
        One row for each of `ABLATION_SETTINGS`, then one for any other set: `setting, n_features,
        images`, for auc, ap, accuracy and brier the value and its 95% interval (`auc, auc_low,
        auc_high`, ...), and `auc_gain, auc_gain_low, auc_gain_high`: the AUC minus that of the pixel
        features on the same resamples. A set that was not tried has no numbers.
    """
    names = [*ABLATION_SETTINGS, *(name for name in results if name not in ABLATION_SETTINGS)]
    rows = []
    for name in names:
        row: dict[str, object] = {"setting": name, "n_features": 0, "images": 0}
        if name in results:
            oof = results[name].oof
            model = next(iter(results[name].models.values()))
            row |= {"n_features": len(model.feature_names), "images": len(oof)}
            table = scores(oof["abnormal"], oof[schema.P_ABNORMAL], resamples=resamples, seed=seed)
            row |= {key: value for line in table.itertuples() for key, value in _cells(line.score, line)}
        if name in results and "pixel" in results and name != "pixel":
            pixel = results["pixel"].oof[schema.P_ABNORMAL]
            table = paired_differences(
                oof["abnormal"], oof[schema.P_ABNORMAL], pixel, resamples=resamples, seed=seed
            )
            gain = next(table[table["score"] == "auc"].itertuples())
            row |= dict(_cells("auc_gain", gain))
        rows.append(row)
    columns = [column for score in (*SCORES, "auc_gain") for column, _ in _cells(score)]
    return pd.DataFrame(rows, columns=["setting", "n_features", "images", *columns])


def _cells(score: str, line: object = None) -> list[tuple[str, float]]:
    """Column names of a score and its interval, and their values."""
    ends = (("", "value"), ("_low", "low"), ("_high", "high"))
    return [(f"{score}{end}", float(getattr(line, name, np.nan))) for end, name in ends]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `ablation` for a person: each score and its interval in one cell, "-" where not tried."""
    shown = table[["setting", "n_features", "images"]].copy()
    for score in (*SCORES, "auc_gain"):
        cells = zip(table[score], table[f"{score}_low"], table[f"{score}_high"], strict=True)
        shown[score] = [
            "-" if np.isnan(value) else f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in cells
        ]
    return shown


def leak_verdict(table: pd.DataFrame) -> str:
    """Say in plain words whether header features, not the image, carry the result.

    Args:
        table: What `ablation` returned.

    Returns:
        A few sentences. They begin with "Warning" where the headers alone tell more than chance,
        "Cannot tell" where the interval allows both, and "No leak seen" where it is narrow and holds 0.5.
    """
    by_setting = table.set_index("setting")
    header = by_setting.loc["header"]
    if np.isnan(header["auc"]):
        return "Cannot tell whether the headers leak: not tried, or there is one kind of image only."
    alone = f"AUC {header['auc']:.3f} (95% interval {header['auc_low']:.3f} to {header['auc_high']:.3f})"
    if not header["auc_low"] > 0.5:
        if not header["auc_high"] < WIDE:
            return (
                f"Cannot tell whether the headers leak: alone they reach {alone} on "
                f"{int(header['images']):,} images, which allows for nothing and for a "
                f"real leak. More images would decide it."
            )
        return f"No leak seen: the headers alone reach {alone}, no better than guessing."
    text = (
        f"Warning: the DICOM headers alone, without a look at a single pixel, tell normal from abnormal with "
        f"{alone}. They know which machine or hospital sent the file, not what the lungs hold: elsewhere "
        f"that is worthless."
    )
    both = by_setting.loc["pixel+header"]
    if np.isnan(both["auc_gain"]):
        return text
    gain = (
        f"{both['auc_gain']:+.3f} (95% interval {both['auc_gain_low']:+.3f} to {both['auc_gain_high']:+.3f})"
    )
    pixel = f"the AUC of the pixel features, {by_setting.loc['pixel', 'auc']:.3f}, changes by {gain}"
    if both["auc_gain_low"] > 0:
        return (
            f"{text} With them {pixel}: that gain wins points on files from the same source and is no "
            f"medicine. Keep them off for a study."
        )
    return f"{text} With them {pixel}: on these images they add nothing that can be told from chance."
