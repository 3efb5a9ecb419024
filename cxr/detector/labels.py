"""What a training learns from: which readers' boxes, on which images, with which anchors."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr import annotations, schema
from cxr.detector.anchors import fit_anchors
from cxr.detector.data import ImageSource, build_targets
from cxr.detector.model import architecture
from cxr.errors import ParameterError
from cxr.schema import ClassTable

log = logging.getLogger("cxr")


def needs_readers(label_mode: str, readers: Sequence[str], skip_readers: Sequence[str]) -> bool:
    """Whether a training must know who drew which box."""
    return label_mode == "every_reader" or bool(readers) or bool(skip_readers)


def training_tables(
    targets: pd.DataFrame,
    train_ids: list[str],
    *,
    label_mode: str,
    readers: Sequence[str],
    skip_readers: Sequence[str],
    classes: ClassTable,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Boxes to learn from, boxes to score against, and the images to learn from.

    Args:
        targets: As for `training.train_detector`, like the next four.
        train_ids: Images to learn from, before readers are chosen.
        label_mode: How readers' boxes become targets.
        readers: Learn only from these readers.
        skip_readers: Learn only from images that none of these read.
        classes: The data set's classes.

    Raises:
        ParameterError: Readers are told apart and the table does not do so.
    """
    by_reader = schema.RAD_ID in targets.columns
    if needs_readers(label_mode, readers, skip_readers) and not by_reader:
        raise ParameterError(
            f"label_mode={label_mode!r} with readers={list(readers)} and skip_readers={list(skip_readers)} "
            "needs a table with rad_id"
        )
    if skip_readers:
        read = set(targets.loc[targets[schema.RAD_ID].isin(list(skip_readers)), schema.IMAGE_ID])
        train_ids = [image_id for image_id in train_ids if image_id not in read]
        log.info("learning from images that %s did not read: %d", ", ".join(skip_readers), len(train_ids))
    truth = annotations.fuse_readers(targets, classes=classes) if by_reader else targets
    table = targets
    if readers:
        table = targets[targets[schema.RAD_ID].isin(list(readers))]
        read = set(table[schema.IMAGE_ID])
        train_ids = [image_id for image_id in train_ids if image_id in read]
        log.info("learning from readers %s: %d images", ", ".join(readers), len(train_ids))
    if by_reader and label_mode != "every_reader":
        table = annotations.fuse_readers(table, classes=classes) if readers else truth
    return table, truth, train_ids


def fitted_anchors(
    source: ImageSource,
    table: pd.DataFrame,
    image_ids: Sequence[str],
    *,
    image_size: int,
    classes: ClassTable,
    name: str,
) -> tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]:
    """Anchor sizes and aspect ratios of a network for the boxes of these images, see `fit_anchors`."""
    targets = build_targets(table, image_ids, source, image_size=image_size, classes=classes)
    boxes = np.concatenate([np.empty((0, 4), np.float32), *[t.boxes for t in targets.values()]])
    entry = architecture(name)
    return fit_anchors(boxes, strides=entry.strides, sizes_per_level=entry.sizes_per_level)


def by_level(sizes: Sequence[float], name: str) -> tuple[tuple[float, ...], ...]:
    """Anchor sizes in one list as those of each level of a network.

    Args:
        sizes: Small to large, as many for each level.
        name: Architecture.

    Raises:
        ParameterError: Their number is no multiple of the number of levels.
    """
    levels = len(architecture(name).strides)
    each, rest = divmod(len(sizes), levels)
    if rest:
        raise ParameterError(
            f"anchor_sizes: {name} has {levels} levels, expected as many sizes for each, got {len(sizes)}"
        )
    return tuple(tuple(float(s) for s in sizes[i * each : (i + 1) * each]) for i in range(levels))
