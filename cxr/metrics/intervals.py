"""How sure a score is: bootstrap over images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.errors import ParameterError
from cxr.metrics.encoding import encode
from cxr.metrics.matching import match
from cxr.metrics.voc import voc_score
from cxr.schema import CLASS_ID


@dataclass(frozen=True)
class BootstrapResult:
    """Scores of the images at hand and of resampled ones.

    Attributes:
        map: Mean average precision of the images at hand.
        low: Lower end of its percentile interval.
        high: Upper end.
        per_class: `class_id, ap, low, high, n_truth`; NaN for a class without truth.
        samples: Mean average precision of every resample, `float64 (R,)`. Two calls with the same images and
            seed resample alike, so samples of two models subtract pair by pair.
        class_samples: Average precision of every class in every resample, `float64 (R, classes)`, NaN
            where the resample has no truth of the class (it then counts in no mean).
        level: Coverage of the intervals.
    """

    map: float
    low: float
    high: float
    per_class: pd.DataFrame
    samples: np.ndarray
    class_samples: np.ndarray
    level: float

    def mean_over(self, class_ids: Iterable[int]) -> tuple[float, float, float]:
        """Mean over some of the classes, with its interval: value, low, high."""
        chosen = self.per_class[CLASS_ID].isin(list(class_ids)).to_numpy()
        value = float(self.per_class["ap"][chosen].mean())
        low, high = _interval(_mean(self.class_samples[:, chosen]), self.level)
        return value, float(low), float(high)


def bootstrap_map(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    iou_threshold: float = 0.4,
    image_ids: Iterable[str] | None = None,
    class_ids: Iterable[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BootstrapResult:
    """Put an interval around `voc_map`, as if other images of the same kind had been scored.

    Images are drawn with replacement. Matching happens within an image, so it is done once, and so is
    the ordering of detections; a resample only counts every image as often as it was drawn, which gives
    exactly the score of the table with those images repeated.

    Args:
        detections: `schema.DETECTION_COLUMNS`, original pixels.
        truth: `image_id, class_id` and box columns, original pixels.
        resamples: How many times to draw.
        seed: Seed of the draws.
        level: Coverage of the percentile intervals.
        iou_threshold: IoU that must be exceeded.
        image_ids: The images that count; all that occur by default. Give them in a fixed order to
            compare models pair by pair.
        class_ids: The classes that count; all that occur by default.
        progress: Called with resamples done and their number.

    Returns:
        Scores, intervals and the samples.

    Raises:
        ParameterError: No resample, or a level outside (0, 1).
        DataError: A column is missing.
        BoxError: An impossible box or score.

    References:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, 13.3 (percentile interval).
    """
    if resamples < 1:
        raise ParameterError(f"resamples: expected at least 1, got {resamples}")
    if not 0 < level < 1:
        raise ParameterError(f"level: expected a share between 0 and 1, got {level}")
    problem = encode(detections, truth, image_ids=image_ids, class_ids=class_ids)
    n_classes, n_images = len(problem.class_ids), len(problem.image_ids)
    result = voc_score(problem, iou_threshold=iou_threshold)
    found = problem.detections
    matches = match(found, problem.truth, n_classes=n_classes, iou_threshold=iou_threshold)
    order = np.lexsort((-found.score, found.label))
    image = found.image[order]
    place = np.flatnonzero(matches.hit[order])
    hit_image, hit_label = image[place], found.label[order][place]
    first = np.searchsorted(found.label[order], np.arange(n_classes))
    starts = np.searchsorted(hit_label, np.arange(n_classes + 1))
    truth_of = np.zeros((n_classes, n_images))
    np.add.at(truth_of, (problem.truth.label, problem.truth.image), 1)

    rng = np.random.default_rng(seed)
    class_samples = np.full((resamples, n_classes), np.nan)
    seen_to = np.zeros(len(image) + 1, dtype=np.int64)
    for r in range(resamples):
        times = (
            np.bincount(rng.integers(0, n_images, n_images), minlength=n_images)
            if n_images
            else np.empty(0, int)
        )
        np.cumsum(times[image], out=seen_to[1:])
        hits = times[hit_image]
        for c in np.flatnonzero(truth_of @ times):
            part = slice(starts[c], starts[c + 1])
            weight = hits[part]
            seen = seen_to[place[part] + 1] - seen_to[first[c]]
            precision = np.divide(weight.cumsum(), seen, out=np.zeros(len(weight)), where=seen > 0)
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            class_samples[r, c] = (weight * envelope).sum() / (truth_of[c] @ times)
        if progress is not None:
            progress(r + 1, resamples)

    samples = _mean(class_samples)
    low, high = _interval(samples, level)
    class_low, class_high = _interval(class_samples, level)
    per_class = result.per_class[[CLASS_ID, "ap"]].assign(
        low=class_low, high=class_high, n_truth=result.per_class["n_truth"]
    )
    return BootstrapResult(result.map, float(low), float(high), per_class, samples, class_samples, level)


def _mean(samples: np.ndarray) -> np.ndarray:
    """Mean over the classes of each resample that has any."""
    known = ~np.isnan(samples)
    count = known.sum(axis=1)
    total = np.where(known, samples, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(samples), np.nan), where=count > 0)


def _interval(samples: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval along the first axis; NaN where a column is all NaN."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    known = ~np.isnan(samples).all(axis=0)
    ends = np.full((2, *samples.shape[1:]), np.nan)
    if samples.ndim == 1:
        if known:
            ends[:] = np.nanquantile(samples, tails)
    elif known.any():
        ends[:, known] = np.nanquantile(samples[:, known], tails, axis=0)
    return ends[0], ends[1]
