"""From a table of boxes in original pixels to what a network learns from one image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr import schema
from cxr.detector.data.pixels import ImageSource, labels_of, network_size, to_network
from cxr.errors import AnnotationError, DataError
from cxr.schema import ClassTable

log = logging.getLogger("cxr")


@dataclass(frozen=True)
class Target:
    """What one image shows, in network pixels.

    Attributes:
        boxes: float32 (N, 4), every box with a positive area and inside the image.
        labels: int64 (N,), detector labels.
        box_weights: float32 (N,), how much each box counts in the loss.
    """

    boxes: np.ndarray
    labels: np.ndarray
    box_weights: np.ndarray


def build_targets(
    table: pd.DataFrame,
    image_ids: Sequence[str],
    source: ImageSource,
    *,
    image_size: int,
    classes: ClassTable = schema.VINBIGDATA,
    by_agreement: bool = False,
) -> dict[str, Target]:
    """Targets of the images named, from a table of boxes in original pixels.

    Rows of the normal class and rows without a box make no box; an image without any is a
    legal negative. Boxes are clipped to their image; those with no area left and those that
    are not finite are dropped, and their number is logged.

    Args:
        table: `schema.ANNOTATION_COLUMNS` or `schema.CONSENSUS_COLUMNS`, original pixels.
        image_ids: Images to make targets for.
        source: Where the images are, for their original sizes.
        image_size: Longer side of the network's image, in pixels.
        classes: The data set's classes.
        by_agreement: Weight a box by the share of readers who drew it (column `agreement`); else
            each box has weight 1.

    Returns:
        A target for every image id, in the order given.

    Raises:
        AnnotationError: A column is missing or a class id is not in the table of classes.
        DataError: An image is not in the source.
    """
    needed = [schema.IMAGE_ID, schema.CLASS_ID, *schema.BOX_COLUMNS]
    if by_agreement:
        needed.append("agreement")
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise AnnotationError(f"expected columns {needed}, missing {missing}")
    absent = [image_id for image_id in image_ids if image_id not in source]
    if absent:
        raise DataError(f"{len(absent)} images are not in the image store, first {absent[0]!r}")

    rows = table[table[schema.IMAGE_ID].isin(set(image_ids)) & (table[schema.CLASS_ID] != classes.normal_id)]
    strange = rows[~rows[schema.CLASS_ID].isin(list(classes.finding_ids))]
    if len(strange):
        first = strange.iloc[0]
        raise AnnotationError(
            f"image {first[schema.IMAGE_ID]!r} has class_id {first[schema.CLASS_ID]}, "
            f"expected 0..{classes.normal_id}"
        )
    weights = rows["agreement"].to_numpy(np.float32) if by_agreement else np.ones(len(rows), np.float32)
    boxes = rows[schema.BOX_COLUMNS].to_numpy(np.float64)
    labels = labels_of(rows[schema.CLASS_ID].to_numpy())
    places = rows.groupby(schema.IMAGE_ID, sort=False).indices

    targets: dict[str, Target] = {}
    dropped = 0
    for image_id in image_ids:
        place = places.get(image_id, np.empty(0, dtype=np.int64))
        original = source.original_size(image_id)
        size = network_size(original, image_size)
        scaled = to_network(boxes[place], original, size)
        scaled[:, 0::2] = scaled[:, 0::2].clip(0, size[1])
        scaled[:, 1::2] = scaled[:, 1::2].clip(0, size[0])
        keep = usable(scaled)
        dropped += int((~keep).sum())
        targets[image_id] = Target(scaled[keep], labels[place][keep], weights[place][keep])
    if dropped:
        log.warning("left out %d of %d boxes without area or with missing coordinates", dropped, len(rows))
    return targets


def usable(boxes: np.ndarray, *, min_side: float = 1e-3) -> np.ndarray:
    """Which boxes can be learned from: finite, and both sides longer than `min_side` pixels; bool (N,)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    with np.errstate(invalid="ignore"):
        return np.isfinite(boxes).all(axis=1) & (sides > min_side).all(axis=1)
