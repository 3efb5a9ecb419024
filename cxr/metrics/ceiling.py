"""What readers reach themselves, on the metric the detector is judged by."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd

from cxr.boxes import weighted_boxes_fusion
from cxr.metrics.encoding import encode
from cxr.metrics.voc import VocResult, voc_map
from cxr.schema import BOX_COLUMNS, CLASS_ID, IMAGE_ID, RAD_ID, SCORE, VINBIGDATA, ClassTable

_COLUMNS = ["images", "map", "map_tied", "precision", "recall"]


def reader_pairs(
    annotations: pd.DataFrame,
    *,
    readers: tuple[str, ...] | None = None,
    min_images: int = 1,
    iou_threshold: float = 0.4,
    classes: ClassTable = VINBIGDATA,
) -> pd.DataFrame:
    """Score every reader against every other one, as if the other were the truth.

    A reader gives no scores, so all boxes score 1. `map` is `voc_map` with its rule for equal scores (the
    table's order); `map_tied` takes all boxes of a class as one point of its curve, precision times
    recall, which no order can change and which is a little lower.

    Args:
        annotations: Reader table (`schema.ANNOTATION_COLUMNS`).
        readers: The readers to compare; all by default.
        min_images: Pairs with fewer common images are left out.
        iou_threshold: IoU that must be exceeded.
        classes: Classes of the data set; the mean is over its findings.

    Returns:
        `rad_id` (who is scored), `truth` (who is the truth), `images` (common ones), `map`, `map_tied`,
        `precision` and `recall` over all findings together. NaN where the truth has no box.
    """
    names = list(readers) if readers is not None else sorted(annotations[RAD_ID].unique())
    of_reader = {name: annotations[annotations[RAD_ID] == name] for name in names}
    images = {name: set(table[IMAGE_ID]) for name, table in of_reader.items()}
    rows = []
    for name, other in permutations(names, 2):
        common = images[name] & images[other]
        if len(common) < max(min_images, 1):
            continue
        in_order = of_reader[name][IMAGE_ID].drop_duplicates()
        in_order = in_order[in_order.isin(common)]
        found = _as_detections(of_reader[name], classes)
        result = voc_map(
            found,
            of_reader[other],
            iou_threshold=iou_threshold,
            image_ids=in_order,
            class_ids=classes.finding_ids,
        )
        rows.append({RAD_ID: name, "truth": other, **_numbers(result)})
    return pd.DataFrame(rows, columns=[RAD_ID, "truth", *_COLUMNS])


def reader_ceiling(
    annotations: pd.DataFrame,
    *,
    readers: tuple[str, ...] | None = None,
    min_images: int = 1,
    iou_threshold: float = 0.4,
    fusion_iou: float = 0.4,
    classes: ClassTable = VINBIGDATA,
) -> pd.DataFrame:
    """Score every reader against the fused boxes of the others who read the same images.

    This is what a detector meets when it is scored against fused readers, less one reader; a model
    that scores like a reader is as good as the labels can show.

    Args:
        annotations: Reader table (`schema.ANNOTATION_COLUMNS`).
        readers: The readers to score; all by default. The others fuse all who read the image.
        min_images: Readers with fewer images that another reader read too are left out.
        iou_threshold: IoU that must be exceeded.
        fusion_iou: IoU above which weighted boxes fusion joins the others' boxes.
        classes: Classes of the data set; the mean is over its findings.

    Returns:
        `rad_id, images, map, map_tied, precision, recall` as in `reader_pairs`, one row per reader.
    """
    names = list(readers) if readers is not None else sorted(annotations[RAD_ID].unique())
    rows = []
    for name in names:
        own = annotations[annotations[RAD_ID] == name]
        others = annotations[(annotations[RAD_ID] != name) & annotations[IMAGE_ID].isin(own[IMAGE_ID])]
        common = own[IMAGE_ID].drop_duplicates()
        common = common[common.isin(others[IMAGE_ID])]
        if len(common) < max(min_images, 1):
            continue
        result = voc_map(
            _as_detections(own, classes),
            _fused(others, fusion_iou, classes),
            iou_threshold=iou_threshold,
            image_ids=common,
            class_ids=classes.finding_ids,
        )
        rows.append({RAD_ID: name, **_numbers(result)})
    return pd.DataFrame(rows, columns=[RAD_ID, *_COLUMNS])


def _as_detections(annotations: pd.DataFrame, classes: ClassTable) -> pd.DataFrame:
    return annotations[annotations[CLASS_ID] != classes.normal_id].assign(**{SCORE: 1.0})


def _fused(annotations: pd.DataFrame, iou_threshold: float, classes: ClassTable) -> pd.DataFrame:
    drawn = _as_detections(annotations, classes)
    problem = encode(drawn, drawn)
    readers, names = pd.factorize(drawn[RAD_ID])
    boxes = problem.truth
    fused = weighted_boxes_fusion(
        boxes.boxes,
        boxes.score,
        boxes.label,
        readers,
        n_models=max(len(names), 1),
        iou_threshold=iou_threshold,
        images=boxes.image,
    )
    table = pd.DataFrame(fused.boxes, columns=BOX_COLUMNS, dtype=np.float64)
    table[IMAGE_ID] = problem.image_ids[fused.images]
    table[CLASS_ID] = problem.class_ids[fused.labels]
    return table


def _numbers(result: VocResult) -> dict[str, float]:
    ends = [curve.iloc[-1] for curve in result.curves.values() if len(curve)]
    tied = sum(end.precision * end.recall for end in ends) / max(len(result.curves), 1)
    hits = sum(end.precision * end.detections for end in ends)
    n_found, n_truth = result.per_class["n_detections"].sum(), result.per_class["n_truth"].sum()
    return {
        "images": result.n_images,
        "map": result.map,
        "map_tied": tied if n_truth else float("nan"),
        "precision": hits / n_found if n_found else float("nan"),
        "recall": hits / n_truth if n_truth else float("nan"),
    }
