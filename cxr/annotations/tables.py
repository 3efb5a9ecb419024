"""Tables that describe an annotation table: classes, readers, agreement, box geometry."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from cxr.schema import (
    BOX_COLUMNS,
    CLASS_ID,
    CLASS_NAME,
    DOMINANT_READERS,
    IMAGE_ID,
    RAD_ID,
    VINBIGDATA,
    ClassTable,
)


def class_counts(annotations: pd.DataFrame, *, classes: ClassTable = VINBIGDATA) -> pd.DataFrame:
    """Count rows, images and readers of every class.

    Args:
        annotations: Reader table (`schema.ANNOTATION_COLUMNS`).
        classes: Classes of the data set.

    Returns:
        One row per class of the table, the normal class last: `class_id, class_name, rows, images,
        readers`; zeros where a class does not occur.
    """
    counts = annotations.groupby(CLASS_ID).agg(
        rows=(IMAGE_ID, "size"), images=(IMAGE_ID, "nunique"), readers=(RAD_ID, "nunique")
    )
    counts = counts.reindex(range(len(classes.names)), fill_value=0).rename_axis(CLASS_ID).reset_index()
    counts.insert(1, CLASS_NAME, classes.names)
    return counts


def reader_counts(annotations: pd.DataFrame, *, classes: ClassTable = VINBIGDATA) -> pd.DataFrame:
    """Count what every reader read and found.

    Args:
        annotations: Reader table (`schema.ANNOTATION_COLUMNS`).
        classes: Classes of the data set.

    Returns:
        One row per reader, in the readers' natural order: `rad_id, images, normal, abnormal, boxes,
        boxes_per_abnormal` (NaN for a reader without abnormal images).
    """
    drawn = annotations[CLASS_ID] != classes.normal_id
    readers = sorted(annotations[RAD_ID].unique(), key=_natural)
    counts = pd.DataFrame(index=pd.Index(readers, name=RAD_ID))
    counts["images"] = annotations.groupby(RAD_ID)[IMAGE_ID].nunique()
    counts["abnormal"] = annotations[drawn].groupby(RAD_ID)[IMAGE_ID].nunique()
    counts["boxes"] = annotations[drawn].groupby(RAD_ID).size()
    counts = counts.fillna(0).astype(np.int64)
    counts.insert(1, "normal", counts["images"] - counts["abnormal"])
    counts["boxes_per_abnormal"] = counts["boxes"] / counts["abnormal"].where(counts["abnormal"] > 0)
    return counts.reset_index()


def reader_groups(
    annotations: pd.DataFrame,
    *,
    readers: tuple[str, ...] = DOMINANT_READERS,
    classes: ClassTable = VINBIGDATA,
) -> pd.DataFrame:
    """Split the images into those that certain readers read and the rest.

    A score on the images of the readers who drew most of the training boxes flatters a model: it has
    learnt their habits. The other images show what it is worth elsewhere.

    Args:
        annotations: Reader table (`schema.ANNOTATION_COLUMNS`).
        readers: The readers who make the first group.
        classes: Classes of the data set.

    Returns:
        One row per image, in the order of the table: `image_id`, `group` ("dominant" where any of the
        readers read it, else "other"), `abnormal` (bool).
    """
    by_image = annotations.groupby(IMAGE_ID, sort=False)
    dominant = annotations[RAD_ID].isin(readers).groupby(annotations[IMAGE_ID], sort=False).any()
    abnormal = by_image[CLASS_ID].min() != classes.normal_id
    return pd.DataFrame(
        {"group": np.where(dominant, "dominant", "other"), "abnormal": abnormal.to_numpy()},
        index=dominant.index,
    ).reset_index()


def positives_by_reader_count(annotations: pd.DataFrame, *, classes: ClassTable = VINBIGDATA) -> pd.DataFrame:
    """Count, for every finding, the images that one, two, three... readers marked it in.

    Args:
        annotations: Reader table (`schema.ANNOTATION_COLUMNS`).
        classes: Classes of the data set.

    Returns:
        One row per finding: `class_id, class_name, positives` (images), `by_1, by_2, ...` up to the
        largest number of readers an image has. The rows add up to the data set's (image, class) pairs.
    """
    readers = 1
    if len(annotations):
        readers = int(annotations.groupby(IMAGE_ID)[RAD_ID].nunique().max())
    drawn = annotations[annotations[CLASS_ID] != classes.normal_id]
    marked = drawn.groupby([CLASS_ID, IMAGE_ID])[RAD_ID].nunique()
    counts = (
        pd.crosstab(marked.index.get_level_values(0), marked.to_numpy()) if len(marked) else pd.DataFrame()
    )
    counts = counts.reindex(index=classes.finding_ids, columns=range(1, readers + 1), fill_value=0)
    counts = counts.fillna(0).astype(np.int64)
    counts.columns = [f"by_{number}" for number in counts.columns]
    counts.insert(0, "positives", counts.sum(axis=1))
    counts = counts.rename_axis(index=CLASS_ID).reset_index()
    counts.insert(1, CLASS_NAME, classes.finding_names)
    return counts


def reader_agreement(
    annotations: pd.DataFrame, *, iou_threshold: float = 0.4, classes: ClassTable = VINBIGDATA
) -> pd.DataFrame:
    """Compare every two readers on the images that both read.

    Args:
        annotations: Reader table (`schema.ANNOTATION_COLUMNS`).
        iou_threshold: IoU above which two boxes of the same class mark the same thing.
        classes: Classes of the data set.

    Returns:
        One row per pair with common images: `rad_a, rad_b, images, kappa` (Cohen's, of normal against
        abnormal; NaN where one answer alone occurs), `class_jaccard` (of the (image, class) pairs either
        marked, the share both did), `boxes_a, boxes_b, matched` (boxes paired one to one, best IoU
        first), `box_f1` (`2 matched / (boxes_a + boxes_b)`). NaN where there is nothing to divide by.
    """
    columns = [
        "rad_a", "rad_b", "images", "kappa", "class_jaccard", "boxes_a", "boxes_b", "matched", "box_f1",
    ]  # fmt: skip
    images, image_ids = pd.factorize(annotations[IMAGE_ID])
    names = sorted(annotations[RAD_ID].unique(), key=_natural)
    readers = pd.Categorical(annotations[RAD_ID], categories=names).codes.astype(np.int64)
    labels = annotations[CLASS_ID].to_numpy(np.int64)
    drawn = labels != classes.normal_id

    read = np.zeros((len(names), len(image_ids)), dtype=bool)
    read[readers, images] = True
    marked = np.zeros((len(names), len(image_ids), classes.normal_id), dtype=bool)
    marked[readers[drawn], images[drawn], labels[drawn]] = True
    boxes = np.zeros((len(names), len(image_ids)), dtype=np.int64)
    np.add.at(boxes, (readers[drawn], images[drawn]), 1)
    matched = _matched(
        annotations[drawn], labels[drawn], images[drawn], readers[drawn], len(names), iou_threshold
    )

    rows = []
    for a, b in combinations(range(len(names)), 2):
        common = read[a] & read[b]
        if not common.any():
            continue
        either = (marked[a, common] | marked[b, common]).sum()
        both = (marked[a, common] & marked[b, common]).sum()
        n_a, n_b = boxes[a, common].sum(), boxes[b, common].sum()
        rows.append(
            (
                names[a],
                names[b],
                int(common.sum()),
                _kappa(marked[a, common].any(axis=1), marked[b, common].any(axis=1)),
                both / either if either else np.nan,
                int(n_a),
                int(n_b),
                int(matched[a, b]),
                2 * matched[a, b] / (n_a + n_b) if n_a + n_b else np.nan,
            )
        )
    return pd.DataFrame(rows, columns=columns)


def box_geometry(
    annotations: pd.DataFrame,
    image_sizes: pd.DataFrame | None = None,
    *,
    classes: ClassTable = VINBIGDATA,
) -> pd.DataFrame:
    """Measure every box.

    Args:
        annotations: A table with image, class and box columns: readers', fused, or detections.
        image_sizes: Original sizes (`schema.SIZE_COLUMNS`) of the images whose size is known.
        classes: Classes of the data set; rows of its normal class are left out.

    Returns:
        One row per box, index kept: `image_id, class_id, width_px, height_px, area_px, aspect` (width
        by height), and relative to the image `width, height, area, x_centre, y_centre` in `[0, 1]`
        (NaN where the size is unknown).
    """
    table = annotations[annotations[CLASS_ID] != classes.normal_id]
    boxes = table[BOX_COLUMNS].to_numpy(np.float64)
    size = np.full((len(table), 2), np.nan)
    if image_sizes is not None:
        known = image_sizes.drop_duplicates(IMAGE_ID).set_index(IMAGE_ID)[["rows", "columns"]]
        size = known.reindex(table[IMAGE_ID]).to_numpy(np.float64)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return pd.DataFrame(
        {
            IMAGE_ID: table[IMAGE_ID],
            CLASS_ID: table[CLASS_ID],
            "width_px": width,
            "height_px": height,
            "area_px": width * height,
            "aspect": width / height,
            "width": width / size[:, 1],
            "height": height / size[:, 0],
            "area": width * height / size.prod(axis=1),
            "x_centre": (boxes[:, 0] + boxes[:, 2]) / 2 / size[:, 1],
            "y_centre": (boxes[:, 1] + boxes[:, 3]) / 2 / size[:, 0],
        },
        index=table.index,
    )


def heat_maps(
    annotations: pd.DataFrame,
    image_sizes: pd.DataFrame,
    *,
    bins: int = 64,
    classes: ClassTable = VINBIGDATA,
) -> np.ndarray:
    """Map where the boxes of each finding lie, all images brought to one square.

    Args:
        annotations: A table with image, class and box columns.
        image_sizes: Original sizes (`schema.SIZE_COLUMNS`); boxes of other images are left out.
        bins: Cells along each side.
        classes: Classes of the data set.

    Returns:
        `float64 (findings, bins, bins)`, row 0 at the top: the share of the finding's boxes that touch the
        cell; zeros for a finding without boxes.
    """
    shape = box_geometry(annotations, image_sizes, classes=classes).dropna(subset=["area"])
    labels = shape[CLASS_ID].to_numpy(np.int64)
    low_high = []
    for centre, extent in (("y_centre", "height"), ("x_centre", "width")):
        low = np.floor((shape[centre] - shape[extent] / 2).to_numpy() * bins + 1e-9)
        high = np.ceil((shape[centre] + shape[extent] / 2).to_numpy() * bins - 1e-9)
        low_high += [np.clip(low, 0, bins).astype(np.int64), np.clip(high, 0, bins).astype(np.int64)]
    top, bottom, left, right = low_high
    # Corners of every box in a difference image; summing it up twice fills the boxes.
    maps = np.zeros((classes.normal_id, bins + 1, bins + 1))
    np.add.at(maps, (labels, top, left), 1)
    np.add.at(maps, (labels, bottom, right), 1)
    np.add.at(maps, (labels, top, right), -1)
    np.add.at(maps, (labels, bottom, left), -1)
    maps = maps.cumsum(axis=1).cumsum(axis=2)[:, :bins, :bins]
    counts = np.bincount(labels, minlength=classes.normal_id)
    return maps / np.maximum(counts, 1)[:, None, None]


def overlapping_pairs(
    boxes: np.ndarray, labels: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find all ordered pairs of different boxes of one image and class that overlap.

    Args:
        boxes: Boxes `(N, 4)` in pixels of their images.
        labels: Classes `(N,)`.
        images: Image numbers `(N,)`.

    Returns:
        Index of the one, index of the other, and their IoU, above 0.
    """
    index = np.arange(len(boxes))
    table = pd.DataFrame({"image": images, "label": labels, "index": index})
    pairs = table.merge(table, on=["image", "label"], suffixes=("_a", "_b"))
    left, right = pairs["index_a"].to_numpy(), pairs["index_b"].to_numpy()
    apart = left != right
    left, right = left[apart], right[apart]
    a, b = boxes[left].astype(np.float64), boxes[right].astype(np.float64)
    width = np.clip(np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0]), 0, None)
    height = np.clip(np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1]), 0, None)
    shared = width * height
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    touch = shared > 0
    return left[touch], right[touch], shared[touch] / (area_a + area_b - shared)[touch]


def _matched(
    drawn: pd.DataFrame,
    labels: np.ndarray,
    images: np.ndarray,
    readers: np.ndarray,
    n_readers: int,
    iou_threshold: float,
) -> np.ndarray:
    """Pair the boxes of every two readers one to one, best IoU first, and count the pairs."""
    matched = np.zeros((n_readers, n_readers), dtype=np.int64)
    boxes = drawn[BOX_COLUMNS].to_numpy(np.float64)
    left, right, overlap = overlapping_pairs(boxes, labels, images)
    usable = (readers[left] < readers[right]) & (overlap > iou_threshold)
    left, right, overlap = left[usable], right[usable], overlap[usable]
    taken: set[tuple[int, int]] = set()
    for k in np.lexsort((right, left, -overlap)):
        i, j = int(left[k]), int(right[k])
        a, b = int(readers[i]), int(readers[j])
        if (i, b) in taken or (j, a) in taken:
            continue
        taken.add((i, b))
        taken.add((j, a))
        matched[a, b] += 1
    return matched


def _kappa(a: np.ndarray, b: np.ndarray) -> float:
    observed = (a == b).mean()
    expected = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return float((observed - expected) / (1 - expected)) if expected < 1 else float("nan")


def _natural(name: str) -> tuple[str, int, str]:
    """R2 before R10."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or -1), name
