"""How sure a score is: bootstrap over images, of one score and of the difference of two."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

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
        low: Lower end of its bias-corrected interval.
        high: Upper end.
        bias: How much higher than `map` the samples lie on average, see `bootstrap_map`.
        per_class: `class_id, ap, low, high, bias, n_truth`; NaN for a class without truth.
        samples: Mean average precision of every resample, `float64 (R,)`.
        class_samples: Average precision of every class in every resample, `float64 (R, classes)`, NaN
            where the resample has no truth of the class (it then counts in no mean).
        level: Coverage of the intervals.
        image_ids: The images, in the order in which they were drawn from.
        seed: Seed of the draws. Two results of the same images and seed were resampled alike.
    """

    map: float
    low: float
    high: float
    bias: float
    per_class: pd.DataFrame
    samples: np.ndarray
    class_samples: np.ndarray
    level: float
    image_ids: np.ndarray
    seed: int

    def mean_over(self, class_ids: Iterable[int]) -> tuple[float, float, float]:
        """Mean over some of the classes, with its interval: value, low, high."""
        chosen = self.per_class[CLASS_ID].isin(list(class_ids)).to_numpy()
        value = float(self.per_class["ap"][chosen].mean())
        return value, *bias_corrected(mean_of_known(self.class_samples[:, chosen]), value, self.level)


@dataclass(frozen=True)
class Difference:
    """By how much one score beats another on the same images.

    Attributes:
        value: First minus second.
        low: Lower end of the interval; above 0 the first is better beyond chance.
        high: Upper end; below 0 the second is.
    """

    value: float
    low: float
    high: float


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

    The samples lie higher than the score itself, the more the fewer truth boxes a class has. A hit counts
    itself in the precision at its rank; in a resample it has on average one copy of itself beside it, and
    its precision rises. (A class that a resample lacks leaves the mean, which adds little.) `bias` says
    by how much, and the interval is the bias-corrected one: its ends are those percentiles of the samples
    that would be the usual ones if the score were their median.

    Args:
        detections: `schema.DETECTION_COLUMNS`, original pixels.
        truth: `image_id, class_id` and box columns, original pixels.
        resamples: How many times to draw.
        seed: Seed of the draws.
        level: Coverage of the intervals.
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
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, 10.2 (bias) and 14.3 (the
        bias-corrected interval; its acceleration, a second-order term, is taken as 0).
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

    samples = mean_of_known(class_samples)
    low, high = bias_corrected(samples, result.map, level)
    per_class = result.per_class[[CLASS_ID, "ap"]].copy()
    ends = [bias_corrected(class_samples[:, c], ap, level) for c, ap in enumerate(per_class["ap"].to_numpy())]
    per_class[["low", "high"]] = np.array(ends).reshape(n_classes, 2)
    per_class["bias"] = mean_of_known(class_samples.T) - per_class["ap"]
    per_class["n_truth"] = result.per_class["n_truth"]
    bias = float(mean_of_known(samples[None])[0] - result.map)
    return BootstrapResult(
        result.map, low, high, bias, per_class, samples, class_samples, level, problem.image_ids, seed
    )


def paired_difference(
    first: BootstrapResult, second: BootstrapResult, *, class_ids: Iterable[int] | None = None
) -> Difference:
    """Compare two sets of detections on the same images, resample by resample.

    Both scores rise and fall together with the images drawn, so their difference is known much better than
    either of them: it can be beyond chance although the two intervals overlap.

    Args:
        first: `bootstrap_map` of one set of detections.
        second: Of another, with the same images, truth, seed and number of resamples.
        class_ids: The classes whose mean is compared; all by default.

    Returns:
        The difference of the means with its bias-corrected interval.

    Raises:
        ParameterError: The two were not resampled alike.
    """
    alike = (
        first.seed == second.seed
        and first.level == second.level
        and first.class_samples.shape == second.class_samples.shape
        and np.array_equal(first.image_ids, second.image_ids)
        and first.per_class[CLASS_ID].equals(second.per_class[CLASS_ID])
    )
    if not alike:
        raise ParameterError(
            "paired_difference: expected two results of the same images (in the same order), classes, seed, "
            "level and number of resamples"
        )
    chosen = np.full(len(first.per_class), True)
    if class_ids is not None:
        chosen = first.per_class[CLASS_ID].isin(list(class_ids)).to_numpy()
    value = float((first.per_class["ap"] - second.per_class["ap"])[chosen].mean())
    differences = mean_of_known((first.class_samples - second.class_samples)[:, chosen])
    return Difference(value, *bias_corrected(differences, value, first.level))


def bias_corrected(samples: np.ndarray, value: float, level: float) -> tuple[float, float]:
    """Bias-corrected bootstrap interval of one number.

    Args:
        samples: The number in every resample, `float64 (R,)`; NaN where it has no meaning.
        value: The number itself.
        level: Coverage.

    Returns:
        Lower and upper end; NaN where the number or all samples are. Of samples that all lie on one side
        of the value nothing more is known than that, and the ends stop at the outermost sample.
    """
    samples = samples[~np.isnan(samples)]
    if len(samples) == 0 or np.isnan(value):
        return float("nan"), float("nan")
    # Samples that equal the value but for rounding lie half below it, so that a constant has no bias.
    equal = np.abs(samples - value) < 1e-12
    below = (np.count_nonzero((samples < value) & ~equal) + equal.sum() / 2) / len(samples)
    middle = ndtri(np.clip(below, 0.5 / len(samples), 1 - 0.5 / len(samples)))
    tails = ndtr(2 * middle + ndtri([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(samples, tails)
    return float(low), float(high)


def mean_of_known(samples: np.ndarray) -> np.ndarray:
    """Mean of what each row knows; NaN for a row that knows nothing."""
    known = ~np.isnan(samples)
    count = known.sum(axis=1)
    total = np.where(known, samples, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(samples), np.nan), where=count > 0)
