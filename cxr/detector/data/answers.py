"""What a network answers, as rows in original pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from cxr import schema
from cxr.detector.data.pixels import class_ids_of, to_original

Rows = tuple[str, np.ndarray, np.ndarray, np.ndarray]
"""What was found on one image: its id, boxes float32 (N, 4) in original pixels, labels (N,), scores (N,)."""


def answer_rows(batch: dict[str, Any], results: Sequence[dict[str, Tensor]]) -> list[Rows]:
    """A network's answers on one batch, in original pixels.

    Args:
        batch: From `batches.collate`.
        results: For each image boxes in network pixels, labels and scores.
    """
    rows: list[Rows] = []
    for image_id, size, original, result in zip(
        batch["image_ids"], batch["sizes"], batch["original_sizes"], results, strict=True
    ):
        boxes = to_original(result["boxes"].float().cpu().numpy(), tuple(original), tuple(size))
        rows.append((image_id, boxes, result["labels"].cpu().numpy(), result["scores"].float().cpu().numpy()))
    return rows


def detection_table(found: Sequence[Rows]) -> pd.DataFrame:
    """Detections as a table with `schema.DETECTION_COLUMNS`.

    Args:
        found: For each image its id, boxes float (N, 4) in original pixels, detector
            labels (N,), scores (N,).
    """
    counts = [len(scores) for _, _, _, scores in found]
    boxes = np.concatenate([np.empty((0, 4), np.float32), *[b for _, b, _, _ in found]])
    table = pd.DataFrame(
        {
            schema.IMAGE_ID: np.repeat(np.array([i for i, *_ in found], dtype=object), counts).astype(object),
            schema.CLASS_ID: class_ids_of(
                np.concatenate([np.empty(0, np.int64), *[n for _, _, n, _ in found]])
            ),
            schema.SCORE: np.concatenate([np.empty(0, np.float32), *[s for *_, s in found]]).astype(
                np.float64
            ),
        }
    )
    for place, name in enumerate(schema.BOX_COLUMNS):
        table[name] = boxes[:, place].astype(np.float64)
    return table[schema.DETECTION_COLUMNS]
