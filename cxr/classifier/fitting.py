"""Fitting the classifier, and the nested cross-validation that makes its numbers honest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr import schema
from cxr.classifier.calibration import Calibrator, fit_calibrator
from cxr.classifier.model import Classifier
from cxr.classifier.recipe import Recipe
from cxr.classifier.search import FIRST_SETTING, TrainingData, inner_assignment, search
from cxr.errors import DataError
from cxr.features import feature_names

DEFAULT = Recipe()


def fit(
    features: pd.DataFrame,
    labels: pd.Series | pd.DataFrame,
    recipe: Recipe = DEFAULT,
    *,
    folds: pd.DataFrame | None = None,
    tree_settings: Mapping[str, float] | None = None,
) -> Classifier:
    """Fit a calibrated classifier on the images that have labels.

    Inner folds hold images out in turn. Their held-out log loss chooses one number of rounds for
    all of them (early stopping) and ranks the settings of the search, and the held-out margins
    after that many rounds fit the calibration. The trees that are kept are then grown on all
    images, for as many rounds. In a normal/abnormal classifier the two classes weigh the same in
    training.

    Args:
        features: `image_id` and feature columns (`cxr.features`); NaN is missing.
        labels: Index `image_id`, 0 or 1. A Series makes a normal/abnormal classifier, a DataFrame
            with one column an output a multi-label one.
        recipe: Features, trees and calibration.
        folds: `image_id, fold`: images of one fold stay together in the inner folds (copies of an
            image share a fold). Without it, or with one fold only, inner folds are drawn by label.
        tree_settings: Settings that an earlier search found (a classifier's `parameters`): these
            are used and nothing is searched.

    Returns:
        The classifier. Where an output has one class only (no normal image, say), that output is
        constant and `message` says so.

    Raises:
        DataError: No feature of these groups, no images, or a labelled image without features.
        ParameterError: Too few images for an isotonic calibration.
    """
    names = feature_names(features, recipe.feature_groups)
    if not names:
        raise DataError(
            f"classifier: no feature of the groups {', '.join(recipe.feature_groups)} in the table"
        )
    truth = labels.to_frame(schema.P_ABNORMAL) if isinstance(labels, pd.Series) else labels
    values, target = _aligned(features, truth, names)
    data = TrainingData(values, target, names, isinstance(labels, pd.Series), recipe.threads)
    learnable = _learnable(target)
    messages = [_constant_message(truth, learnable)]
    first = dict(FIRST_SETTING)
    if tree_settings is not None:
        first |= {name: tree_settings[name] for name in FIRST_SETTING if name in tree_settings}
        recipe = replace(recipe, trials=1)
    if learnable:
        found = search(data, inner_assignment(truth, folds, recipe.seed), first, recipe)
        messages.append(found.message)
        calibrators = tuple(
            fit_calibrator(found.margin[:, column], target[:, column], method=recipe.calibration)
            if column in learnable
            else _constant(target[:, column])
            for column in range(target.shape[1])
        )
        chosen, rounds = found.chosen, found.rounds
    else:
        calibrators = tuple(_constant(target[:, column]) for column in range(target.shape[1]))
        chosen, rounds = first, 0
    return Classifier(
        booster=data.train(chosen, rounds, recipe.seed),
        feature_names=tuple(names),
        outputs=tuple(map(str, truth.columns)),
        calibrators=calibrators,
        groups=recipe.feature_groups,
        images=len(target),
        positives=tuple(int(count) for count in target.sum(axis=0)),
        rounds=rounds,
        parameters={**chosen, "threads": recipe.threads},
        message=" ".join(filter(None, messages)),
    )


@dataclass(frozen=True)
class CrossValidation:
    """What out-of-fold fitting leaves behind.

    Attributes:
        oof: One row an image, ordered by image: `image_id, fold`, then `abnormal` (the label),
            `p_raw` (not calibrated) and `p_abnormal`; multi-label: one `p_<class_id>` a finding.
        models: The classifier that did not see the fold, for each fold.
        features: The rows of the feature table behind `oof`, in its order.
        message: Empty, or why something is constant.
    """

    oof: pd.DataFrame
    models: dict[int, Classifier]
    features: pd.DataFrame
    message: str


def cross_validate(
    features: pd.DataFrame,
    labels: pd.Series | pd.DataFrame,
    folds: pd.DataFrame,
    recipe: Recipe = DEFAULT,
    *,
    tree_settings: Mapping[int, Mapping[str, float]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CrossValidation:
    """Give every image a probability from a classifier that never saw it.

    With pixel and header features nothing of a fold, neither its pixels nor its labels, reaches
    the trees, the number of rounds, the search or the calibration that score it.

    With detector features something does. The detector features of the *training* images come from
    detectors that were trained on the other folds, the scored one among them, and so on its labels.
    The scored images' own features are clean (their detector never saw them), so the effect is
    that of ordinary stacking: small, and on the optimistic side. Without it a detector for every
    pair of folds would have to be trained.

    Args:
        features: `image_id` and feature columns.
        labels: As in `fit`; images without a label are left out.
        folds: `image_id, fold`.
        recipe: As in `fit`; the folds share its `search_seconds`.
        tree_settings: For each fold, settings that an earlier search on the other folds found; see `fit`.
        progress: Called with (folds done, folds).

    Raises:
        DataError: Fewer than two folds hold labelled images; or as in `fit`.
    """
    assigned = folds[folds[schema.IMAGE_ID].isin(labels.index)].sort_values(schema.IMAGE_ID)
    numbers = sorted(int(fold) for fold in assigned[schema.FOLD].unique())
    if len(numbers) < 2:
        raise DataError(
            f"cross-validation: expected at least 2 folds with labelled images, got {len(numbers)}"
        )
    rows = features.set_index(schema.IMAGE_ID, drop=False)
    lacking = assigned[schema.IMAGE_ID][~assigned[schema.IMAGE_ID].isin(rows.index)]
    if len(lacking):
        raise DataError(
            f"cross-validation: {len(lacking)} images have no features (first: {lacking.iloc[0]})"
        )
    rows = rows.loc[assigned[schema.IMAGE_ID]].reset_index(drop=True)
    fold_of = assigned[schema.FOLD].to_numpy()

    shared = replace(recipe, search_seconds=recipe.search_seconds / len(numbers))
    models: dict[int, Classifier] = {}
    parts: list[pd.DataFrame] = []
    for done, number in enumerate(numbers):
        training = assigned[schema.IMAGE_ID][fold_of != number]
        settings = None if tree_settings is None else tree_settings[number]
        model = fit(features, labels.loc[training], shared, folds=folds, tree_settings=settings)
        held_out = rows[fold_of == number]
        part = model.predict(held_out)
        part.insert(1, schema.FOLD, number)
        if isinstance(labels, pd.Series):
            part.insert(2, "abnormal", labels.loc[part[schema.IMAGE_ID]].to_numpy())
            part.insert(3, "p_raw", 1.0 / (1.0 + np.exp(-model.margin(held_out)[:, 0])))
        parts.append(part)
        models[number] = model
        if progress:
            progress(done + 1, len(numbers))
    oof = pd.concat(parts, ignore_index=True).sort_values(schema.IMAGE_ID, ignore_index=True)
    # What is constant on the whole is said once; else what some folds' training part lacks.
    truth = labels.loc[assigned[schema.IMAGE_ID]]
    truth = truth.to_frame() if isinstance(truth, pd.Series) else truth
    overall = _constant_message(truth, _learnable(truth.to_numpy()))
    messages = [overall] if overall else [model.message for model in models.values() if model.message]
    return CrossValidation(oof, models, rows, " ".join(dict.fromkeys(messages)))


def _aligned(
    features: pd.DataFrame, truth: pd.DataFrame, names: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if not len(truth):
        raise DataError("classifier: expected labelled images, got none")
    indexed = features.set_index(schema.IMAGE_ID)
    lacking = truth.index[~truth.index.isin(indexed.index)]
    if len(lacking):
        raise DataError(f"classifier: {len(lacking)} labelled images have no features (first: {lacking[0]})")
    table = indexed.loc[truth.index, list(names)]
    # A header may lack a field; an image without detector features was simply never shown to a detector.
    undetected = table[feature_names(table, ["detector"])].isna().any(axis=1)
    if undetected.any():
        raise DataError(
            f"classifier: {undetected.sum()} of {len(table)} images have no detector features "
            f"(first: {table.index[undetected][0]}); detections of every fold are needed"
        )
    return table.to_numpy(np.float32, na_value=np.nan), truth.to_numpy(np.int64)


def _learnable(target: NDArray[np.int64]) -> list[int]:
    """Columns in which both labels occur."""
    return [column for column in range(target.shape[1]) if 0 < target[:, column].sum() < len(target)]


def _constant(target: NDArray[np.int64]) -> Calibrator:
    # Laplace's rule: n images without an exception leave a chance of 1 / (n + 2) for one.
    return Calibrator("constant", (), (float((target.sum() + 1) / (len(target) + 2)),))


def _constant_message(truth: pd.DataFrame, learnable: list[int]) -> str:
    if len(learnable) == truth.shape[1]:
        return ""
    if truth.shape[1] == 1:
        kind = "abnormal" if truth.iloc[0, 0] else "normal"
        return (
            f"All {len(truth)} training images are {kind}: there is nothing to tell apart, "
            f"so every image gets the same probability."
        )
    names = [str(name) for place, name in enumerate(truth.columns) if place not in learnable]
    return f"Without examples, or without counter-examples, and therefore constant: {', '.join(names)}."
