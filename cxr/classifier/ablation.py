"""What each group of features is worth, and a plain warning when it is not the image that speaks."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from cxr import schema
from cxr.classifier.fitting import cross_validate
from cxr.classifier.scores import SCORES, scores
from cxr.features import feature_group, feature_names

ABLATION_SETTINGS: dict[str, tuple[str, ...]] = {
    "header": ("header",),
    "pixel": ("pixel",),
    "pixel+header": ("pixel", "header"),
    "detector": ("detector",),
    "all": ("pixel", "header", "detector"),
}
LEAK_AUC = 0.6
"""Header-only AUC whose lower limit above this counts as a leak: a machine's tags know no finding."""
LEAK_GAIN = 0.02
"""Gain in AUC by headers over pixels alone from which the headers carry the result."""


def ablation(
    features: pd.DataFrame,
    labels: pd.Series,
    folds: pd.DataFrame,
    *,
    calibration: str = "sigmoid",
    balanced: bool = True,
    max_rounds: int = 400,
    early_stopping_rounds: int = 30,
    learning_rate: float = 0.05,
    max_depth: int = 3,
    trials: int = 1,
    search_seconds: float = 60.0,
    inner_folds: int = 3,
    seed: int = 0,
    threads: int = 1,
    resamples: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Cross-validate the classifier on each group of features, on the same images.

    Args:
        features: `image_id` and feature columns of one or more groups. Images without detector
            features are left out everywhere when the table has such columns.
        labels: Index `image_id`, 1 for abnormal.
        folds: `image_id, fold`.
        resamples: Bootstrap samples for the intervals.
        progress: Called with (settings done, settings).

    The other arguments are those of `fit`.

    Returns:
        One row a setting whose features are in the table (header, pixel, pixel+header, detector,
        all): `setting, n_features, images`, then for auc, ap, accuracy and brier the out-of-fold
        value and its 95% interval (`auc, auc_low, auc_high`, ...).
    """
    present = {feature_group(name) for name in feature_names(features)}
    settings = {name: groups for name, groups in ABLATION_SETTINGS.items() if set(groups) <= present}
    if "detector" in present:
        features = features.dropna(subset=feature_names(features, ["detector"]))
        labels = labels[labels.index.isin(features[schema.IMAGE_ID])]
    rows = []
    for done, (name, groups) in enumerate(settings.items()):
        result = cross_validate(
            features,
            labels,
            folds,
            groups=groups,
            calibration=calibration,
            balanced=balanced,
            max_rounds=max_rounds,
            early_stopping_rounds=early_stopping_rounds,
            learning_rate=learning_rate,
            max_depth=max_depth,
            trials=trials,
            search_seconds=search_seconds / len(settings),
            inner_folds=inner_folds,
            seed=seed,
            threads=threads,
        )
        table = scores(result.oof["abnormal"], result.oof[schema.P_ABNORMAL], resamples=resamples, seed=seed)
        row: dict[str, object] = {
            "setting": name,
            "n_features": len(feature_names(features, groups)),
            "images": len(result.oof),
        }
        for score in table.itertuples():
            row |= {
                score.score: score.value,
                f"{score.score}_low": score.low,
                f"{score.score}_high": score.high,
            }
        rows.append(row)
        if progress:
            progress(done + 1, len(settings))
    columns = [column for score in SCORES for column in (score, f"{score}_low", f"{score}_high")]
    return pd.DataFrame(rows, columns=["setting", "n_features", "images", *columns])


def leak_warning(table: pd.DataFrame) -> str:
    """Say in plain words when header features, not the image, carry the result.

    Args:
        table: What `ablation` returned.

    Returns:
        A warning of a few sentences; empty when the headers alone tell nothing.
    """
    by_setting = table.set_index("setting")
    if "header" not in by_setting.index:
        return ""
    header = by_setting.loc["header"]
    if not header["auc_low"] > LEAK_AUC:
        return ""
    text = (
        f"Warning: the DICOM headers alone, without a look at a single pixel, tell normal from abnormal with "
        f"AUC {header['auc']:.3f} (95% interval {header['auc_low']:.3f} to {header['auc_high']:.3f}). They "
        f"know which machine or hospital sent the file, not what the lungs hold: elsewhere that is worthless."
    )
    if "pixel" not in by_setting.index or "pixel+header" not in by_setting.index:
        return text
    pixel, both = by_setting.loc["pixel", "auc"], by_setting.loc["pixel+header", "auc"]
    if both - pixel > LEAK_GAIN:
        return (
            f"{text} Adding them lifts the AUC of the pixel features from {pixel:.3f} to {both:.3f}: that "
            f"gain wins points on files from the same source and is no medicine. Keep them off for a study."
        )
    return f"{text} The pixel features reach {pixel:.3f} without them, so they are not needed."
