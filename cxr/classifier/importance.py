"""Which features an out-of-fold result rests on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cxr import schema
from cxr.classifier.fitting import CrossValidation
from cxr.classifier.scores import auc
from cxr.features import feature_group


def permutation_importance(result: CrossValidation, *, repeats: int = 5, seed: int = 0) -> pd.DataFrame:
    """Fall of the held-out AUC when one feature's values are shuffled among the images of its fold.

    Args:
        result: Of a normal/abnormal `cross_validate`.
        repeats: Shuffles for each feature and fold.
        seed: Of the shuffles.

    Returns:
        One row a feature, the most important first: `feature, group, auc_drop` (mean over folds,
        weighted by their images, and repeats), `auc_drop_std` (over repeats). Missing where no
        fold holds both classes.

    References:
        Breiman, Machine Learning 45, 2001.
    """
    draws = np.random.default_rng(seed)
    names = next(iter(result.models.values())).feature_names
    drops: list[np.ndarray] = []
    images: list[int] = []
    for number, model in sorted(result.models.items()):
        held_out = (result.oof[schema.FOLD] == number).to_numpy()
        truth = result.oof["abnormal"].to_numpy()[held_out]
        if truth.min() == truth.max():
            continue
        rows = result.features[held_out].reset_index(drop=True)
        whole = auc(truth, model.margin(rows)[:, 0])
        fold_drops = np.empty((repeats, len(names)))
        for repeat in range(repeats):
            order = draws.permutation(len(rows))
            for column, name in enumerate(names):
                shuffled = rows.assign(**{name: rows[name].to_numpy()[order]})
                fold_drops[repeat, column] = whole - auc(truth, model.margin(shuffled)[:, 0])
        drops.append(fold_drops)
        images.append(len(rows))
    by_repeat = (
        np.average(drops, axis=0, weights=images) if drops else np.full((max(1, repeats), len(names)), np.nan)
    )
    table = pd.DataFrame(
        {
            "feature": names,
            "group": [feature_group(name) for name in names],
            "auc_drop": by_repeat.mean(axis=0),
            "auc_drop_std": by_repeat.std(axis=0),
        }
    )
    return table.sort_values(["auc_drop", "feature"], ascending=[False, True], ignore_index=True)


def shap_values(result: CrossValidation, *, output: int = 0) -> pd.DataFrame:
    """How much each feature moved each image's log-odds, by the model that did not see the image.

    Args:
        result: Of `cross_validate`.
        output: Which output, for a multi-label classifier.

    Returns:
        One row an image in the order of `result.oof`: `image_id` and one column a feature, in
        log-odds before calibration (XGBoost's `pred_contribs`, the base value left out).
    """
    names = list(next(iter(result.models.values())).feature_names)
    values = np.zeros((len(result.oof), len(names)))
    for number, model in result.models.items():
        held_out = (result.oof[schema.FOLD] == number).to_numpy()
        values[held_out] = model.contributions(result.features[held_out], output=output)[:, :-1]
    table = pd.DataFrame(values, columns=names)
    table.insert(0, schema.IMAGE_ID, result.oof[schema.IMAGE_ID].to_numpy())
    return table
