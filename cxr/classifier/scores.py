"""How good probabilities are: AUC, average precision, accuracy, Brier, with bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

SCORES = ("auc", "ap", "accuracy", "brier")
_CHUNK = 64


def scores(
    labels: ArrayLike, probabilities: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Score probabilities, with 95% percentile intervals over resampled images.

    Args:
        labels: `(N,)`, 0 or 1.
        probabilities: `(N,)` in [0, 1], of label 1.
        resamples: Bootstrap samples; 0 leaves the intervals missing.
        seed: Of the resampling.

    Returns:
        One row a score: `score` (auc, ap, accuracy at 0.5, brier), `value, low, high`. AUC and
        average precision are missing where only one class occurs.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    truth = np.asarray(labels).astype(np.float64)
    probability = np.asarray(probabilities, dtype=np.float64)
    return _with_intervals(
        _weighted_scores(truth, probability, np.ones((1, len(truth))))[0],
        _resampled_scores(truth, probability, resamples=resamples, seed=seed),
    )


def paired_differences(
    labels: ArrayLike,
    probabilities: ArrayLike,
    reference: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """How much better some probabilities score than others on the same images, with 95% intervals.

    Both are scored on the same resamples, so what makes a resample easy or hard for both cancels.
    This is how to compare two models: the intervals of their own scores may overlap widely and the
    difference still be plain.

    Args:
        labels: `(N,)`, 0 or 1.
        probabilities: `(N,)` in [0, 1].
        reference: `(N,)` in [0, 1], of the model to compare with, same images in the same order.
        resamples: Bootstrap samples; 0 leaves the intervals missing.
        seed: Of the resampling.

    Returns:
        As `scores`; `value` is the score minus that of the reference.
    """
    truth = np.asarray(labels).astype(np.float64)
    everyone = np.ones((1, len(truth)))
    both = [np.asarray(values, dtype=np.float64) for values in (probabilities, reference)]
    ours, theirs = (_weighted_scores(truth, values, everyone)[0] for values in both)
    drawn = [_resampled_scores(truth, values, resamples=resamples, seed=seed) for values in both]
    return _with_intervals(ours - theirs, drawn[0] - drawn[1])


def _resampled_scores(
    truth: NDArray[np.float64], probability: NDArray[np.float64], *, resamples: int, seed: int
) -> NDArray[np.float64]:
    """Scores of every resample, shape `(resamples, 4)`; the same images are drawn for the same seed."""
    draws = np.random.default_rng(seed)
    sampled = [
        _weighted_scores(truth, probability, _resampled(draws, min(_CHUNK, resamples - start), len(truth)))
        for start in range(0, resamples if len(truth) else 0, _CHUNK)
    ]
    return np.concatenate(sampled) if sampled else np.empty((0, len(SCORES)))


def _with_intervals(values: NDArray[np.float64], drawn: NDArray[np.float64]) -> pd.DataFrame:
    low, high = np.full((2, len(SCORES)), np.nan)
    defined = ~np.isnan(drawn).all(axis=0) if len(drawn) else np.zeros(len(SCORES), bool)
    if defined.any():
        low[defined], high[defined] = np.nanpercentile(drawn[:, defined], [2.5, 97.5], axis=0)
    return pd.DataFrame({"score": SCORES, "value": values, "low": low, "high": high})


def _resampled(draws: np.random.Generator, count: int, images: int) -> NDArray[np.float64]:
    """How often each image is drawn, shape `(count, images)`."""
    drawn = draws.integers(0, images, (count, images))
    drawn += np.arange(count)[:, None] * images
    return np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)


def _weighted_scores(
    truth: NDArray[np.float64], probability: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scores of weighted images, shape `(samples, 4)`; equal probabilities share a threshold."""
    if not len(truth):
        return np.full((len(weights), len(SCORES)), np.nan)
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    weighted = weights[:, order]
    positive = np.add.reduceat(weighted * truth[order], starts, axis=1)
    everyone = np.add.reduceat(weighted, starts, axis=1)
    negative = everyone - positive
    positives, negatives = positive.sum(axis=1), negative.sum(axis=1)
    found, listed = np.cumsum(positive, axis=1), np.cumsum(everyone, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = (negative * (found - positive / 2)).sum(axis=1) / (positives * negatives)
        precision = np.divide(found, listed, out=np.zeros_like(found), where=listed > 0)
        ap = (positive * precision).sum(axis=1) / positives
    ap[negatives == 0] = np.nan
    total = weights.sum(axis=1)
    accuracy = weights @ ((probability >= 0.5) == (truth == 1)) / total
    brier = weights @ (probability - truth) ** 2 / total
    return np.stack([auc, ap, accuracy, brier], axis=1)


def auc(labels: ArrayLike, values: ArrayLike) -> float:
    """Area under the ROC curve; NaN where only one class occurs."""
    truth, ranked = np.asarray(labels).astype(np.float64), np.asarray(values, dtype=np.float64)
    return float(_weighted_scores(truth, ranked, np.ones((1, len(truth))))[0, 0])


def reliability(labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 10) -> pd.DataFrame:
    """What share of the images turns out abnormal, among those given about the same probability.

    Args:
        labels: `(N,)`, 0 or 1.
        probabilities: `(N,)` in [0, 1].
        bins: Number of bins, of about equally many images each.

    Returns:
        One row a bin that holds images: `bin, p_mean, observed, images, low, high`; `low` and
        `high` are the 95% Wilson interval of `observed`.

    References:
        Wilson, JASA 22, 1927.
    """
    truth = np.asarray(labels).astype(np.float64)
    probability = np.asarray(probabilities, dtype=np.float64)
    columns = ["bin", "p_mean", "observed", "images", "low", "high"]
    if not len(truth):
        return pd.DataFrame(columns=columns)
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, max(0, len(edges) - 2))
    grouped = pd.DataFrame({"bin": place, "p_mean": probability, "observed": truth}).groupby("bin")
    table = grouped.mean().assign(images=grouped.size()).reset_index()
    z, n, p = 1.959964, table["images"], table["observed"]
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return table.assign(low=(centre - half).clip(0), high=(centre + half).clip(upper=1))[columns]
