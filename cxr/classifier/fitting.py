"""Fitting the classifier, and the nested cross-validation that makes its numbers honest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xgboost as xgb
from numpy.typing import NDArray

from cxr import schema
from cxr.classifier.calibration import Calibrator, fit_calibrator
from cxr.classifier.model import Classifier
from cxr.errors import DataError, ParameterError
from cxr.features import feature_names

_log = logging.getLogger("cxr")


def fit(
    features: pd.DataFrame,
    labels: pd.Series | pd.DataFrame,
    *,
    folds: pd.DataFrame | None = None,
    groups: Iterable[str] = ("pixel",),
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
) -> Classifier:
    """Fit a calibrated classifier on the images that have labels.

    Inner folds hold images out in turn. They stop each inner model early, rank the settings of
    the search, and their held-out margins fit the calibration. The trees that are kept are then
    grown on all images, for the mean number of rounds.

    Args:
        features: `image_id` and feature columns (`cxr.features`); NaN is missing.
        labels: Index `image_id`, 0 or 1. A Series makes a normal/abnormal classifier, a DataFrame
            with one column an output a multi-label one.
        folds: `image_id, fold`: images of one fold stay together in the inner folds (copies of an
            image share a fold). Without it, or with one fold only, inner folds are drawn by label.
        groups: Feature groups to use: "pixel", "header", "detector".
        calibration: "sigmoid", "isotonic" or "none".
        balanced: Weight the two classes equally in training (normal/abnormal only).
        max_rounds: Most boosting rounds.
        early_stopping_rounds: Rounds without a better held-out log loss before an inner model stops.
        learning_rate: Shrinkage of each tree; the search varies it.
        max_depth: Depth of a tree; the search varies it.
        trials: Settings to try; the first is the one given here, the others are drawn by `seed`.
        search_seconds: No further setting is tried after this time. Where it cuts a search short,
            the result depends on the machine; the number tried is in `parameters`.
        inner_folds: Number of inner folds.
        seed: Of the draws, the inner folds and the trees' subsampling.
        threads: XGBoost's threads.

    Returns:
        The classifier. Where an output has one class only (no normal image, say), that output is
        constant and `message` says so.

    Raises:
        DataError: No feature of these groups, no images, or a labelled image without features.
        ParameterError: A number out of its range.
    """
    if trials < 1 or inner_folds < 2 or max_rounds < 1:
        raise ParameterError(
            f"classifier: expected trials >= 1, inner_folds >= 2, max_rounds >= 1, "
            f"got {trials}, {inner_folds}, {max_rounds}"
        )
    groups = tuple(groups)
    names = feature_names(features, groups)
    if not names:
        raise DataError(f"classifier: no feature of the groups {', '.join(groups)} in the table")
    truth = labels.to_frame(schema.P_ABNORMAL) if isinstance(labels, pd.Series) else labels
    values, target = _aligned(features, truth, names)
    data = _Data(values, target, names, balanced and isinstance(labels, pd.Series), threads)
    learnable = _learnable(target)
    message = _constant_message(truth, learnable)
    chosen = {"learning_rate": learning_rate, "max_depth": max_depth, "threads": threads}
    if not learnable:
        booster = data.train(_settings(chosen, data, seed), 0)
        calibrators = tuple(_constant(target[:, column]) for column in range(target.shape[1]))
        rounds = 0
    else:
        inner = _inner_assignment(truth, folds, inner_folds, seed)
        search = _search(data, inner, chosen, max_rounds, early_stopping_rounds, trials, search_seconds, seed)
        chosen, rounds, margin = search
        booster = data.train(_settings(chosen, data, seed), rounds)
        calibrators = tuple(
            fit_calibrator(margin[:, column], target[:, column], method=calibration)
            if column in learnable
            else _constant(target[:, column])
            for column in range(target.shape[1])
        )
    return Classifier(
        booster=booster,
        feature_names=tuple(names),
        outputs=tuple(map(str, truth.columns)),
        calibrators=calibrators,
        groups=groups,
        images=len(target),
        positives=tuple(int(count) for count in target.sum(axis=0)),
        rounds=rounds,
        parameters=chosen,
        message=message,
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
    *,
    groups: Iterable[str] = ("pixel",),
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
    progress: Callable[[int, int], None] | None = None,
) -> CrossValidation:
    """Give every image a probability from a classifier that never saw it.

    Nothing of a fold, neither its pixels nor its labels, reaches the trees, the number of rounds,
    the search or the calibration that score it.

    Args:
        features: `image_id` and feature columns.
        labels: As in `fit`; images without a label are left out.
        folds: `image_id, fold`.
        progress: Called with (folds done, folds).

    The other arguments are those of `fit`; `search_seconds` is shared by the folds.

    Raises:
        DataError: Fewer than two folds hold labelled images; or as in `fit`.
    """
    groups = tuple(groups)
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

    models: dict[int, Classifier] = {}
    parts: list[pd.DataFrame] = []
    for done, number in enumerate(numbers):
        training = assigned[schema.IMAGE_ID][fold_of != number]
        model = fit(
            features,
            labels.loc[training],
            folds=folds,
            groups=groups,
            calibration=calibration,
            balanced=balanced,
            max_rounds=max_rounds,
            early_stopping_rounds=early_stopping_rounds,
            learning_rate=learning_rate,
            max_depth=max_depth,
            trials=trials,
            search_seconds=search_seconds / len(numbers),
            inner_folds=inner_folds,
            seed=seed,
            threads=threads,
        )
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


@dataclass(frozen=True)
class _Data:
    """Training images as arrays: features `(N, F)` float32, labels `(N, K)` of 0 and 1."""

    values: NDArray[np.float32]
    target: NDArray[np.int64]
    names: list[str]
    balanced: bool
    threads: int

    def matrix(self, rows: NDArray[np.intp] | slice = slice(None)) -> xgb.DMatrix:
        target = self.target[rows]
        return xgb.DMatrix(
            self.values[rows],
            label=target[:, 0] if target.shape[1] == 1 else target,
            weight=self.weights()[rows] if self.balanced else None,
            feature_names=self.names,
            nthread=self.threads,
        )

    def weights(self) -> NDArray[np.float64]:
        """Weights that give both classes the same sum, with a mean of 1."""
        count = np.bincount(self.target[:, 0], minlength=2)
        return (len(self.target) / (2.0 * np.maximum(count, 1)))[self.target[:, 0]]

    def train(self, settings: dict[str, object], rounds: int) -> xgb.Booster:
        return xgb.train(settings, self.matrix(), num_boost_round=rounds)


def _aligned(
    features: pd.DataFrame, truth: pd.DataFrame, names: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if not len(truth):
        raise DataError("classifier: expected labelled images, got none")
    indexed = features.set_index(schema.IMAGE_ID)
    lacking = truth.index[~truth.index.isin(indexed.index)]
    if len(lacking):
        raise DataError(f"classifier: {len(lacking)} labelled images have no features (first: {lacking[0]})")
    values = indexed.loc[truth.index, list(names)].to_numpy(np.float32, na_value=np.nan)
    return values, truth.to_numpy(np.int64)


def _settings(chosen: dict[str, float], data: _Data, seed: int) -> dict[str, object]:
    prevalence = 0.5 if data.balanced else float(np.clip(data.target.mean(), 0.01, 0.99))
    return {
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "tree_method": "hist",
        # Set, not estimated: an estimate from a single class is a log-odds of infinity.
        "base_score": prevalence,
        "eta": chosen["learning_rate"],
        "max_depth": int(chosen["max_depth"]),
        "min_child_weight": chosen.get("min_child_weight", 2.0),
        "subsample": chosen.get("subsample", 0.6),
        "colsample_bytree": chosen.get("colsample_bytree", 0.3),
        "lambda": chosen.get("l2", 1.0),
        "seed": seed,
        "nthread": data.threads,
        "verbosity": 0,
    }


def _search(
    data: _Data,
    inner: NDArray[np.intp],
    given: dict[str, float],
    max_rounds: int,
    early_stopping_rounds: int,
    trials: int,
    search_seconds: float,
    seed: int,
) -> tuple[dict[str, float], int, NDArray[np.float64]]:
    """The setting of the least inner log loss, its rounds, and its held-out margins `(N, K)`."""
    start = time.monotonic()
    draws = np.random.default_rng(seed)
    best: tuple[float, dict[str, float], int, NDArray[np.float64]] | None = None
    tried = 0
    for trial in range(trials):
        setting = given if trial == 0 else given | _draw(draws)
        if trial and time.monotonic() - start > search_seconds:
            _log.info("classifier: the search stopped after %d of %d settings", trial, trials)
            break
        rounds, margin = _inner_margins(
            data, inner, _settings(setting, data, seed), max_rounds, early_stopping_rounds
        )
        loss = _log_loss(margin, data)
        tried += 1
        if best is None or loss < best[0]:
            best = loss, setting, rounds, margin
    assert best is not None
    loss, setting, rounds, margin = best
    return setting | {"tried": tried, "inner_log_loss": loss}, rounds, margin


def _draw(draws: np.random.Generator) -> dict[str, float]:
    return {
        "learning_rate": float(np.round(10 ** draws.uniform(-1.6, -0.7), 4)),
        "max_depth": int(draws.integers(2, 7)),
        "min_child_weight": float(np.round(10 ** draws.uniform(0, 1.3), 2)),
        "subsample": float(np.round(draws.uniform(0.5, 1.0), 2)),
        "colsample_bytree": float(np.round(draws.uniform(0.3, 1.0), 2)),
        "l2": float(np.round(10 ** draws.uniform(-1, 1.5), 3)),
    }


def _inner_margins(
    data: _Data, inner: NDArray[np.intp], settings: dict[str, object], max_rounds: int, patience: int
) -> tuple[int, NDArray[np.float64]]:
    margin = np.zeros(data.target.shape)
    stopped = []
    for number in np.unique(inner):
        held_out = np.flatnonzero(inner == number)
        watched = data.matrix(held_out)
        booster = xgb.train(
            settings,
            data.matrix(np.flatnonzero(inner != number)),
            num_boost_round=max_rounds,
            evals=[(watched, "held_out")],
            early_stopping_rounds=patience,
            verbose_eval=False,
        )
        rounds = booster.best_iteration + 1
        raw = booster.predict(watched, output_margin=True, iteration_range=(0, rounds))
        margin[held_out] = raw.reshape(len(held_out), -1)
        stopped.append(rounds)
    return max(1, round(float(np.mean(stopped)))), margin


def _log_loss(margin: NDArray[np.float64], data: _Data) -> float:
    loss = (np.logaddexp(0, margin) - data.target * margin).mean(axis=1)
    return float(np.average(loss, weights=data.weights() if data.balanced else None))


def _inner_assignment(
    truth: pd.DataFrame, folds: pd.DataFrame | None, count: int, seed: int
) -> NDArray[np.intp]:
    """Inner fold of each image: whole outer folds dealt out, or drawn evenly by label."""
    if folds is not None:
        fold = folds.set_index(schema.IMAGE_ID)[schema.FOLD].reindex(truth.index)
        numbers, place = np.unique(fold.to_numpy(), return_inverse=True)
        if fold.notna().all() and len(numbers) >= 2:
            return place % min(count, len(numbers))
    order = np.random.default_rng(seed).permutation(len(truth))
    labels = truth.to_numpy()[:, 0] if truth.shape[1] == 1 else truth.to_numpy().any(axis=1)
    assignment = np.empty(len(truth), np.intp)
    by_label = order[np.argsort(labels[order], kind="stable")]
    assignment[by_label] = np.arange(len(truth)) % min(count, len(truth))
    return assignment


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
