"""How the trees are grown: inner folds choose settings and rounds, and leave margins to calibrate on."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xgboost as xgb
from numpy.typing import NDArray

from cxr import schema
from cxr.classifier.recipe import Recipe

FIRST_SETTING: dict[str, float] = {
    "learning_rate": 0.05,
    "max_depth": 3,
    "min_child_weight": 2.0,
    "subsample": 0.6,
    "colsample_bytree": 0.3,
    "l2": 1.0,
}
"""Settings of the trees that the search varies, and what it tries first."""
PATIENCE = 30
"""Boosting rounds without a lower held-out log loss after which the inner models stop."""
INNER_FOLDS = 3

_log = logging.getLogger("cxr")


@dataclass(frozen=True)
class TrainingData:
    """Training images as arrays: features `(N, F)` float32, labels `(N, K)` of 0 and 1."""

    values: NDArray[np.float32]
    target: NDArray[np.int64]
    names: list[str]
    balanced: bool
    threads: int

    def matrix(self, rows: NDArray[np.intp] | slice = slice(None)) -> xgb.DMatrix:
        """These rows as XGBoost takes them, weighted where the classes are balanced."""
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

    def train(self, chosen: Mapping[str, float], rounds: int, seed: int) -> xgb.Booster:
        """Grow trees on all images."""
        return xgb.train(self.settings(chosen, seed), self.matrix(), num_boost_round=rounds)

    def settings(self, chosen: Mapping[str, float], seed: int) -> dict[str, object]:
        """Settings of the trees under XGBoost's own names."""
        prevalence = 0.5 if self.balanced else float(np.clip(self.target.mean(), 0.01, 0.99))
        return {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "tree_method": "hist",
            # Set, not estimated: an estimate from a single class is a log-odds of infinity.
            "base_score": prevalence,
            "eta": chosen["learning_rate"],
            "max_depth": int(chosen["max_depth"]),
            "min_child_weight": chosen["min_child_weight"],
            "subsample": chosen["subsample"],
            "colsample_bytree": chosen["colsample_bytree"],
            "lambda": chosen["l2"],
            "seed": seed,
            "nthread": self.threads,
            "verbosity": 0,
        }


@dataclass(frozen=True)
class Searched:
    """What the inner folds found.

    Attributes:
        chosen: Settings of the trees, and `tried` and `inner_log_loss`.
        rounds: Boosting rounds of the least held-out log loss, one number for all inner folds.
        margin: Log-odds of each image after that many rounds of the model that did not see it, `(N, K)`.
        message: Empty, or that the clock cut the search short.
    """

    chosen: dict[str, float]
    rounds: int
    margin: NDArray[np.float64]
    message: str


def search(
    data: TrainingData, inner: NDArray[np.intp], first: Mapping[str, float], recipe: Recipe
) -> Searched:
    """Try settings of the trees and keep the one of the least log loss on the inner folds.

    Args:
        data: The training images.
        inner: Inner fold of each image, `(N,)`.
        first: The first setting; the others are drawn by the recipe's seed.
        recipe: How many settings, the most rounds, and the time after which no further setting is begun.
    """
    start = time.monotonic()
    draws = np.random.default_rng(recipe.seed)
    splits = [
        (data.matrix(np.flatnonzero(inner != number)), data.matrix(rows), rows)
        for number in np.unique(inner)
        if len(rows := np.flatnonzero(inner == number))
    ]
    best: tuple[float, dict[str, float], int, NDArray[np.float64]] | None = None
    tried, message = 0, ""
    for trial in range(recipe.trials):
        setting = dict(first) if trial == 0 else _draw(draws)
        if trial and time.monotonic() - start > recipe.search_seconds:
            message = (
                f"The clock ({recipe.search_seconds:g} s) stopped the search after {trial} of "
                f"{recipe.trials} settings: on another machine the model may differ."
            )
            _log.warning("classifier: %s", message)
            break
        settings = data.settings(setting, recipe.seed)
        loss, rounds, margin = _grow(data, splits, settings, recipe.max_rounds)
        tried += 1
        if best is None or loss < best[0]:
            best = loss, setting, rounds, margin
    assert best is not None
    loss, setting, rounds, margin = best
    return Searched(setting | {"tried": tried, "inner_log_loss": loss}, rounds, margin, message)


def _draw(draws: np.random.Generator) -> dict[str, float]:
    values = (
        float(np.round(10 ** draws.uniform(-1.6, -0.7), 4)),
        int(draws.integers(2, 7)),
        float(np.round(10 ** draws.uniform(0, 1.3), 2)),
        float(np.round(draws.uniform(0.5, 1.0), 2)),
        float(np.round(draws.uniform(0.3, 1.0), 2)),
        float(np.round(10 ** draws.uniform(-1, 1.5), 3)),
    )
    return dict(zip(FIRST_SETTING, values, strict=True))


def _grow(
    data: TrainingData,
    splits: list[tuple[xgb.DMatrix, xgb.DMatrix, NDArray[np.intp]]],
    settings: dict[str, object],
    max_rounds: int,
) -> tuple[float, int, NDArray[np.float64]]:
    """Grow the inner models in step; the best held-out log loss, its round, and the margins there.

    One round for all: were each model stopped where its own held-out images like it best, their
    margins would be too good, and the calibration fitted on them too sure.
    """
    boosters = [xgb.Booster(settings, [training, held_out]) for training, held_out, _ in splits]
    best: tuple[float, int, NDArray[np.float64]] | None = None
    for round_ in range(max_rounds):
        margin = np.zeros(data.target.shape)
        for booster, (training, held_out, rows) in zip(boosters, splits, strict=True):
            booster.update(training, round_)
            raw = booster.predict(held_out, output_margin=True)
            margin[rows] = raw.reshape(len(rows), -1)
        loss = _log_loss(margin, data)
        if best is None or loss < best[0]:
            best = loss, round_ + 1, margin
        elif round_ + 1 - best[1] >= PATIENCE:
            break
    assert best is not None
    return best


def _log_loss(margin: NDArray[np.float64], data: TrainingData) -> float:
    loss = (np.logaddexp(0, margin) - data.target * margin).mean(axis=1)
    return float(np.average(loss, weights=data.weights() if data.balanced else None))


def inner_assignment(truth: pd.DataFrame, folds: pd.DataFrame | None, seed: int) -> NDArray[np.intp]:
    """Inner fold of each image: whole outer folds dealt out, or drawn evenly by label."""
    if folds is not None:
        fold = folds.set_index(schema.IMAGE_ID)[schema.FOLD].reindex(truth.index)
        numbers, place = np.unique(fold.to_numpy(), return_inverse=True)
        if fold.notna().all() and len(numbers) >= 2:
            return place % min(INNER_FOLDS, len(numbers))
    order = np.random.default_rng(seed).permutation(len(truth))
    labels = truth.to_numpy()[:, 0] if truth.shape[1] == 1 else truth.to_numpy().any(axis=1)
    assignment = np.empty(len(truth), np.intp)
    by_label = order[np.argsort(labels[order], kind="stable")]
    assignment[by_label] = np.arange(len(truth)) % min(INNER_FOLDS, len(truth))
    return assignment
