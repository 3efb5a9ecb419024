"""What a training learns from: which readers' boxes, on which images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from cxr import annotations as ann
from cxr import schema
from cxr.detector.recipe import Labels
from cxr.errors import DataError, ParameterError
from cxr.schema import ClassTable

log = logging.getLogger("cxr")


@dataclass(frozen=True)
class Lesson:
    """Boxes and images of one training.

    Attributes:
        table: Boxes to learn from, original pixels.
        truth: Boxes to be scored against, original pixels, one row a true box.
        train_ids: Images to learn from; those without a box are negatives.
        val_ids: Images to score after an epoch; may be empty.
    """

    table: pd.DataFrame
    truth: pd.DataFrame
    train_ids: list[str]
    val_ids: list[str]


def choose_lesson(
    targets: pd.DataFrame,
    train_ids: Sequence[str],
    val_ids: Sequence[str],
    *,
    labels: Labels,
    classes: ClassTable,
) -> Lesson:
    """The boxes and images that `labels` asks for.

    Args:
        targets: Boxes in original pixels: fused readers (`schema.CONSENSUS_COLUMNS`) or the readers' own
            (`schema.ANNOTATION_COLUMNS`).
        train_ids: Images to learn from, before readers are chosen.
        val_ids: Images to score.
        labels: Which readers, and how their boxes become targets.
        classes: The data set's classes.

    Raises:
        ParameterError: Readers are told apart and the table does not do so.
        DataError: No image is left to learn from.
    """
    by_reader = schema.RAD_ID in targets.columns
    if labels.by_reader and not by_reader:
        raise ParameterError(
            f"label_mode={labels.label_mode!r} with readers={list(labels.readers)} and "
            f"skip_readers={list(labels.skip_readers)} needs a table with rad_id"
        )
    train_ids = list(train_ids)
    if labels.skip_readers:
        read = set(targets.loc[targets[schema.RAD_ID].isin(labels.skip_readers), schema.IMAGE_ID])
        train_ids = [image_id for image_id in train_ids if image_id not in read]
        log.info(
            "learning from images that %s did not read: %d", ", ".join(labels.skip_readers), len(train_ids)
        )
    truth = ann.fuse_readers(targets, classes=classes) if by_reader else targets
    table = targets
    if labels.readers:
        table = targets[targets[schema.RAD_ID].isin(labels.readers)]
        read = set(table[schema.IMAGE_ID])
        train_ids = [image_id for image_id in train_ids if image_id in read]
        log.info("learning from readers %s: %d images", ", ".join(labels.readers), len(train_ids))
    if by_reader and labels.label_mode != "every_reader":
        table = ann.fuse_readers(table, classes=classes) if labels.readers else truth
    if not train_ids:
        raise DataError("expected images to train on, got none")
    return Lesson(table, truth, train_ids, list(val_ids))
