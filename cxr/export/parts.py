"""The training, validation and test images of a run, with their boxes in pixels of the stored images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxr import annotations as ann
from cxr import boxes, schema
from cxr.errors import DataError
from cxr.rundir import read_table
from cxr.schema import ClassTable
from cxr.store import ImageStore

_DETECTIONS = (schema.VAL_PREDICTIONS_CSV, schema.TEST_DETECTIONS_CSV)


@dataclass(frozen=True)
class Part:
    """One part of a run's images.

    Attributes:
        name: `train`, `val` or `test`.
        sizes: (rows, columns) of each stored image, by image id, in the order of the part.
        truth: Rows with `image_id, class_id` and a box in pixels of the stored image; a normal image
            has no row, or one without a box. None where nobody knows.
        detections: `schema.DETECTION_COLUMNS` likewise; None where no detector looked.
    """

    name: str
    sizes: dict[str, tuple[int, int]]
    truth: pd.DataFrame | None
    detections: pd.DataFrame | None = None

    @property
    def image_ids(self) -> list[str]:
        """Ids of the part's images."""
        return list(self.sizes)


def needed(root: Path, artefact: str) -> Path:
    """Path of a file of a run.

    Raises:
        DataError: It is not there; the message names the notebook that writes it.
    """
    if not (root / artefact).exists():
        raise DataError(f"{root / artefact}: not found; notebook {artefact.split('/')[0]} writes it")
    return root / artefact


def read_parts(
    root: Path, store: ImageStore, *, every_reader: bool, classes: ClassTable, data_dir: Path | None
) -> list[Part]:
    """The parts of a run; only images that are in the store.

    Args:
        root: Folder of the run.
        store: Its images.
        every_reader: Every reader's boxes in one training part, instead of fused ones in two parts.
        classes: The data set's classes.
        data_dir: Data folder, for the truth of the test images.

    Raises:
        DataError: The run lacks a table.
    """
    if every_reader:
        tables = {"train": read_table(needed(root, schema.TRAIN_FULL_CSV))}
    else:
        tables = {
            "train": read_table(needed(root, schema.TRAIN_CSV)),
            "val": read_table(needed(root, schema.VAL_CSV)),
        }
    found = read_detections(root)
    stored = set(store.ids)
    parts = []
    for name, table in tables.items():
        table = table[table[schema.IMAGE_ID].isin(stored)]
        parts.append(_part(name, list(dict.fromkeys(table[schema.IMAGE_ID])), table, found, store))
    truth = None if data_dir is None else ann.read_test_truth(data_dir, classes=classes)
    return [*parts, _part("test", list(store.ids_of("test")), truth, found, store)]


def read_detections(root: Path) -> pd.DataFrame:
    """What a run's detectors found on images they had not seen, in original pixels; may be empty."""
    tables = [read_table(root / name) for name in _DETECTIONS if (root / name).is_file()]
    tables = [table[schema.DETECTION_COLUMNS] for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=schema.DETECTION_COLUMNS)


def _part(
    name: str, image_ids: list[str], truth: pd.DataFrame | None, found: pd.DataFrame, store: ImageStore
) -> Part:
    sizes = {image_id: store[image_id].shape for image_id in image_ids}
    if truth is not None:
        truth = truth[truth[schema.IMAGE_ID].isin(sizes)]
        # A truth that says nothing of these images is no truth of theirs.
        truth = _in_stored_pixels(truth, store, sizes) if len(truth) else None
    found = found[found[schema.IMAGE_ID].isin(sizes)]
    return Part(name, sizes, truth, _in_stored_pixels(found, store, sizes) if len(found) else None)


def _in_stored_pixels(
    table: pd.DataFrame, store: ImageStore, sizes: dict[str, tuple[int, int]]
) -> pd.DataFrame:
    corners = table[schema.BOX_COLUMNS].to_numpy(np.float32, copy=True)
    for image_id, rows in table.groupby(schema.IMAGE_ID).indices.items():
        corners[rows] = boxes.scale(corners[rows], store.original_size(image_id), sizes[image_id])
    return table.assign(**dict(zip(schema.BOX_COLUMNS, corners.T, strict=True)))
