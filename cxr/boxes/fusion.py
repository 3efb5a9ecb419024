"""Weighted boxes fusion: overlapping boxes of several models become their weighted mean."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cxr.boxes.compiled import compiled
from cxr.boxes.geometry import as_boxes
from cxr.boxes.grouping import dense_keys, group_by_score
from cxr.errors import BoxError, ParameterError


class FusedBoxes(NamedTuple):
    """What a fusion leaves, by image and then by falling score.

    Attributes:
        boxes: `float32 (K, 4)`, in the pixels of the input.
        scores: `float64 (K,)`.
        labels: `int64 (K,)`.
        images: Image number of each box, `int64 (K,)`; zeros when a single image was given.
        n_boxes: How many boxes went into each, `int64 (K,)`.
        n_models: How many different models drew it, `int64 (K,)`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    n_boxes: np.ndarray
    n_models: np.ndarray


def weighted_boxes_fusion(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    model_ids: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    n_models: int | None = None,
    iou_threshold: float = 0.55,
    skip_below: float = 0.0,
    images: ArrayLike | None = None,
) -> FusedBoxes:
    """Fuse the boxes of several models (or readers) that mark the same thing.

    Per image and label, boxes are visited by falling `score * weight` (equal ones in input order). A
    box joins the cluster whose fused box it overlaps most, if that IoU is strictly greater than the
    threshold (equal IoUs: the older cluster); the cluster's box becomes the mean of its boxes weighted
    by `score * weight`. Otherwise it opens a new cluster.

    The score of a cluster of n boxes with confidences `c = score * weight`, of M models, is
    `mean(c) * min(M, n) / sum(weights)`.

    A model that found nothing in an image counts as absent there, so the number of models is never
    guessed from the boxes: give `weights` or `n_models`.

    Args:
        boxes: Boxes `(N, 4)` of all models, all in pixels of the same image (or each of its image in
            `images`). Unlike `ensemble-boxes`, not scaled to `[0, 1]` and not cut there.
        scores: Scores `(N,)`, at least 0.
        labels: Integer labels `(N,)`; only boxes of one label are fused.
        model_ids: Which model drew the box, integers `(N,)` in `[0, number of models)`.
        weights: Weight of every model, `(M,)`, above zero; 1 for each where only `n_models` is given.
        n_models: Number of models M, those without any box included.
        iou_threshold: IoU above which a box joins a cluster.
        skip_below: Boxes of a lower score are left out before anything else.
        images: Integer image number of every box `(N,)`, for many images in one call.

    Returns:
        The fused boxes with their scores, labels, images and support.

    Raises:
        BoxError: Arrays that do not fit each other, a box without area or not finite, a model id out
            of range, a negative score.
        ParameterError: Neither weights nor n_models, or weights that are not positive.

    References:
        Solovyev, Wang, Gabruseva 2021, https://arxiv.org/abs/1910.13302, and the authors' package
        `ensemble-boxes`, whose results (`conf_type="avg"`) this function equals up to three points: means are
        taken in float64 instead of float32; equal scores keep input order (there: the reverse of an unstable
        sort); a box without area is an error (there: dropped with a warning).
    """
    weights = model_weights(weights, n_models)
    boxes, scores, labels, model_ids, images = checked(boxes, scores, labels, model_ids, images, len(weights))
    if skip_below > 0:
        kept = scores >= skip_below
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        model_ids, images = model_ids[kept], images[kept]

    confidences = scores * weights[model_ids]
    keys, n_groups = dense_keys(images, labels)
    order, starts = group_by_score(keys, confidences, n_groups)
    # Made here, not in the compiled loop: numpy asks the system for large pages, numba does not.
    n = len(order)
    results = np.empty((n, 4), np.float32), np.empty(n), *np.empty((3, n), np.int64)
    count = _cluster(boxes, confidences, model_ids, weights, order, starts, float(iou_threshold), *results)
    fused, scores, first, n_boxes, models = (values[:count] for values in results)
    labels, images = labels[first], images[first]
    keys, n_groups = dense_keys(images)
    ranking, _ = group_by_score(keys, scores, n_groups)
    return FusedBoxes(
        fused.take(ranking, axis=0),
        scores.take(ranking),
        labels.take(ranking),
        images.take(ranking),
        n_boxes.take(ranking),
        models.take(ranking),
    )


def model_weights(weights: ArrayLike | None, n_models: int | None) -> np.ndarray:
    """Weight of every model as `float64 (M,)`, ones where none are given.

    Raises:
        ParameterError: Neither weights nor a number of models, weights that are not positive, or a number
            of weights that is not that of the models.
    """
    if weights is None:
        if n_models is None or n_models < 1:
            raise ParameterError(
                "weighted_boxes_fusion: expected `weights` or `n_models` (a model without boxes counts "
                f"too), got n_models={n_models}"
            )
        return np.ones(n_models)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 1 or weights.size == 0 or not np.isfinite(weights).all() or weights.min() <= 0:
        raise ParameterError(f"weights: expected one number above zero per model, got {weights.tolist()}")
    if n_models is not None and n_models != len(weights):
        raise ParameterError(f"weights: expected {n_models}, one per model, got {len(weights)}")
    return weights


def checked(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    model_ids: ArrayLike,
    images: ArrayLike | None,
    n_models: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores, labels, model ids and image numbers as arrays that fit each other.

    Raises:
        BoxError: They do not fit, or hold something impossible.
    """
    boxes = np.ascontiguousarray(as_boxes(boxes, np.float64))
    n = len(boxes)
    scores = _column(scores, "scores", n)
    labels, model_ids = _integers(labels, "labels", n), _integers(model_ids, "model_ids", n)
    images = np.zeros(n, dtype=np.int64) if images is None else _integers(images, "images", n)
    row = int(_first_wrong(boxes, scores, model_ids, n_models))
    if row >= 0:
        sides = boxes[row, 2:] - boxes[row, :2]
        if not (sides.min() > 0 and sides.max() < np.inf):
            raise BoxError(f"box {row}: expected finite edges and a positive area, got {boxes[row].tolist()}")
        if not scores[row] >= 0:
            raise BoxError(f"score {row}: expected a number of at least 0, got {scores[row]}")
        raise BoxError(
            f"model_ids: expected 0..{n_models - 1} for {n_models} models, got {model_ids[row]} in row {row}"
        )
    return boxes, scores, labels, model_ids, images


@compiled
def _first_wrong(boxes: np.ndarray, scores: np.ndarray, model_ids: np.ndarray, n_models: int) -> int:
    """Row of the first box that is impossible, -1 where there is none."""
    for i in range(boxes.shape[0]):
        width, height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        # Comparisons with NaN are false; an infinite edge makes an infinite side or NaN.
        if not (width > 0 and height > 0 and width < np.inf and height < np.inf):
            return i
        if not scores[i] >= 0 or model_ids[i] < 0 or model_ids[i] >= n_models:
            return i
    return -1


def _column(values: ArrayLike, name: str, n: int, dtype: type | None = np.float64) -> np.ndarray:
    values = np.asarray(values, dtype=dtype)
    if values.shape != (n,):
        raise BoxError(f"{name}: expected shape ({n},) to go with {n} boxes, got {values.shape}")
    return values


def _integers(values: ArrayLike, name: str, n: int) -> np.ndarray:
    values = _column(values, name, n, None)
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int64, copy=False)
    whole = values.astype(np.int64)
    if (whole != values).any():
        raise BoxError(f"{name}: expected integers, got {values.dtype}")
    return whole


@compiled
def _cluster(
    boxes: np.ndarray, confidences: np.ndarray, model_ids: np.ndarray, weights: np.ndarray,
    order: np.ndarray, starts: np.ndarray, threshold: float,
    fused: np.ndarray, scores: np.ndarray, first_box: np.ndarray, boxes_in: np.ndarray,
    models_in: np.ndarray,
) -> int:  # fmt: skip
    """Fuse group by group into the last five arrays; returns how many rows of them are filled.

    Every group starts anew in the same small working arrays.
    """
    n_models = weights.shape[0]
    largest = 0
    for g in range(starts.shape[0] - 1):
        largest = max(largest, starts[g + 1] - starts[g])
    left, top, right, bottom = np.empty(largest), np.empty(largest), np.empty(largest), np.empty(largest)
    area, shared = np.empty(largest), np.empty(largest)
    ratio = threshold / (1 + threshold) * (1 - 1e-12)  # of the areas, what overlaps at the threshold
    moment = np.empty((largest, 4))
    confidence = np.empty(largest)
    drew = np.empty((largest, n_models), np.bool_)
    total = weights.sum()
    base = 0
    for g in range(starts.shape[0] - 1):
        count = 0
        for i in range(starts[g], starts[g + 1]):
            index = order[i]
            x0, y0, x1, y1 = boxes[index, 0], boxes[index, 1], boxes[index, 2], boxes[index, 3]
            own_area = (x1 - x0) * (y1 - y0)
            # With nothing to decide in it, this loop is compiled to vector instructions.
            for c in range(count):
                width = (x1 if x1 < right[c] else right[c]) - (x0 if x0 > left[c] else left[c])
                height = (y1 if y1 < bottom[c] else bottom[c]) - (y0 if y0 > top[c] else top[c])
                shared[c] = (width if width > 0 else 0.0) * (height if height > 0 else 0.0)
            best, best_iou = -1, threshold
            for c in range(count):
                # One branch that nearly always goes the same way; the division decides only near it.
                both = own_area + area[c]
                if shared[c] > ratio * both:
                    iou = shared[c] / (both - shared[c])
                    if iou > best_iou:
                        best, best_iou = c, iou
            share = confidences[index]
            model = model_ids[index]
            if best < 0:
                c = count
                count += 1
                first_box[base + c] = index
                boxes_in[base + c] = 1
                models_in[base + c] = 1
                for m in range(n_models):
                    drew[c, m] = False
                drew[c, model] = True
                left[c], top[c], right[c], bottom[c] = x0, y0, x1, y1
                for k in range(4):
                    moment[c, k] = share * boxes[index, k]
                area[c] = own_area
                confidence[c] = share
                continue
            c = best
            boxes_in[base + c] += 1
            if not drew[c, model]:
                drew[c, model] = True
                models_in[base + c] += 1
            confidence[c] += share
            # Boxes of score zero weigh nothing: while there are no others, the first one stands.
            if confidence[c] > 0:
                for k in range(4):
                    moment[c, k] += share * boxes[index, k]
                left[c], top[c] = moment[c, 0] / confidence[c], moment[c, 1] / confidence[c]
                right[c], bottom[c] = moment[c, 2] / confidence[c], moment[c, 3] / confidence[c]
                area[c] = (right[c] - left[c]) * (bottom[c] - top[c])
        for c in range(count):
            fused[base + c, 0], fused[base + c, 1] = left[c], top[c]
            fused[base + c, 2], fused[base + c, 3] = right[c], bottom[c]
            counted = min(boxes_in[base + c], n_models)
            scores[base + c] = confidence[c] / boxes_in[base + c] * counted / total
        base += count
    return base
