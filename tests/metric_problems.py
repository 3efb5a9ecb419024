"""Detections and truth for the metric tests: by hand, at random, and the plain loops to check against."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cxr import schema


def detections(rows: list[tuple]) -> pd.DataFrame:
    """Rows of (image, class, score, x_min, y_min, x_max, y_max)."""
    return pd.DataFrame(rows, columns=schema.DETECTION_COLUMNS)


def truth(rows: list[tuple]) -> pd.DataFrame:
    """Rows of (image, class, x_min, y_min, x_max, y_max), or (image, class) for one without a box."""
    rows = [row if len(row) > 2 else (*row, *[np.nan] * 4) for row in rows]
    return pd.DataFrame(rows, columns=["image_id", "class_id", *schema.BOX_COLUMNS])


def random_problem(
    seed: int = 0,
    *,
    images: int = 40,
    classes: int = 3,
    boxes: int = 60,
    found: int = 300,
    ties: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truth at random places; half of the detections near a truth box, the rest anywhere."""
    rng = np.random.default_rng(seed)

    def anywhere(n: int) -> np.ndarray:
        low = rng.uniform(0, 1500, (n, 2))
        return np.hstack([low, low + rng.uniform(100, 800, (n, 2))])

    names = np.array([f"image{number}" for number in range(images)], dtype=object)
    true = pd.DataFrame(anywhere(boxes), columns=schema.BOX_COLUMNS)
    true.insert(0, "image_id", names[rng.integers(0, max(images - 3, 1), boxes)])
    true.insert(1, "class_id", rng.integers(0, classes, boxes))
    near = rng.integers(0, max(boxes, 1), found // 2 if boxes else 0)
    around = true[schema.BOX_COLUMNS].to_numpy()[near]
    around = around + rng.normal(0, 60, around.shape)
    around = np.hstack([np.minimum(around[:, :2], around[:, 2:] - 5), around[:, 2:]])
    rest = found - len(near)
    made = pd.DataFrame(np.vstack([around, anywhere(rest)]), columns=schema.BOX_COLUMNS)
    image = np.concatenate([true["image_id"].to_numpy()[near], names[rng.integers(0, images, rest)]])
    label = np.concatenate([true["class_id"].to_numpy()[near], rng.integers(0, classes, rest)])
    score = rng.choice(np.linspace(0.05, 1, 12), found) if ties else rng.uniform(0, 1, found)
    made.insert(0, "image_id", image)
    made.insert(1, "class_id", label)
    made.insert(2, "score", score)
    return made.sample(frac=1, random_state=seed, ignore_index=True), true


def voc_by_loop(found: pd.DataFrame, true: pd.DataFrame, threshold: float = 0.4) -> dict[int, float]:
    """`VOCevaldet.m` of the 2010 kit, line by line, with its all-point area.

    Nothing of the package is used. The kit counts the last pixel as inside (`+ 1` in its sides); here as in
    the competition edges are positions, so the `+ 1` is left out.
    """
    result = {}
    for label in sorted(true["class_id"].unique()):
        boxes_of = {
            image: part[schema.BOX_COLUMNS].to_numpy()
            for image, part in true[true["class_id"] == label].groupby("image_id")
        }
        taken = {image: [False] * len(boxes) for image, boxes in boxes_of.items()}
        hits = []
        ordered = found[found["class_id"] == label].sort_values("score", ascending=False, kind="stable")
        for row in ordered.itertuples():
            best, best_iou = -1, -1.0
            for j, (x_min, y_min, x_max, y_max) in enumerate(boxes_of.get(row.image_id, [])):
                width = min(row.x_max, x_max) - max(row.x_min, x_min)
                height = min(row.y_max, y_max) - max(row.y_min, y_min)
                overlap = 0.0
                if width > 0 and height > 0:
                    own = (row.x_max - row.x_min) * (row.y_max - row.y_min)
                    union = own + (x_max - x_min) * (y_max - y_min) - width * height
                    overlap = width * height / union
                if overlap > best_iou:
                    best, best_iou = j, overlap
            hit = best_iou > threshold and not taken[row.image_id][best]
            if hit:
                taken[row.image_id][best] = True
            hits.append(hit)
        n_truth = sum(map(len, boxes_of.values()))
        result[int(label)] = all_point_area(hits, n_truth)
    return result


def all_point_area(hits: list[bool], n_truth: int) -> float:
    """Area under the precision-recall curve at all points, as the 2010 kit computes it."""
    flags = np.array(hits, dtype=bool)
    precision = np.cumsum(flags) / np.arange(1, len(flags) + 1)
    recall = np.cumsum(flags) / n_truth
    recall = np.concatenate([[0], recall, [1]])
    precision = np.concatenate([[0], precision, [0]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())
