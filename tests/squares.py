"""Bright and dark squares on 64 px images, and a training on them: small data for the detector's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cxr import schema
from cxr.detector.data.held import HeldImages
from cxr.detector.recipe import Recipe
from cxr.detector.training.train import TrainingResult, train_detector
from cxr.recipes import changed
from cxr.schema import ClassTable

SQUARES = ClassTable(("Bright", "Dark", "No finding"))


def squares(count: int, *, seed: int = 0) -> tuple[HeldImages, pd.DataFrame]:
    """Images with one bright and one dark square each, every fourth with none."""
    rng = np.random.default_rng(seed)
    images, rows = HeldImages(), []
    for number in range(count):
        size = (64, 64) if number % 2 else (64, 48)
        pixels = rng.integers(110, 140, size).astype(np.uint8)
        image_id = f"s{number:02d}"
        if number % 4 == 3:
            rows.append((image_id, 2, *[np.nan] * 4))
        else:
            for class_id, grey in enumerate((240, 10)):
                side = int(rng.integers(14, 24))
                x = int(rng.integers(0, size[1] - side))
                y = class_id * 32 + int(rng.integers(0, 32 - side))
                pixels[y : y + side, x : x + side] = grey
                rows.append((image_id, class_id, 2 * x, 2 * y, 2 * (x + side), 2 * (y + side)))
        images.add(image_id, pixels, (2 * size[0], 2 * size[1]))
    return images, pd.DataFrame(rows, columns=[schema.IMAGE_ID, schema.CLASS_ID, *schema.BOX_COLUMNS])


IMAGES, TABLE = squares(8)


SMALL = changed(
    Recipe(), label_mode="fused", detector_image_size=64, epochs=2, images_per_epoch=4, batch_size=2,
    negative_fraction=-1.0, class_balance=0.0, ema_decay=0.9, weights="",
)  # fmt: skip


def train(
    out_dir: Path,
    *,
    source=IMAGES,
    table: pd.DataFrame = TABLE,
    train_ids=IMAGES.ids,
    val_ids=IMAGES.ids[:3],
    classes: ClassTable = SQUARES,
    resume: bool = False,
    progress=None,
    **changes,
) -> TrainingResult:
    """Train by `SMALL` with some other parameters."""
    recipe = changed(SMALL, **changes)
    return train_detector(
        source, table, train_ids, val_ids, recipe, out_dir, classes=classes, resume=resume, progress=progress
    )
