"""What readers drew on a part of a data folder, and the truth it fuses to: one table whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr.annotations.consensus import fuse_readers
from cxr.annotations.reading import read_annotations
from cxr.schema import IMAGE_ID, RAD_ID, TEST_TRUTH_TABLE, TRAIN_TABLE, VINBIGDATA, ClassTable

TABLES = {"test": TEST_TRUTH_TABLE, "train": TRAIN_TABLE}
"""File with the boxes of each part of a data folder."""


@dataclass(frozen=True)
class Drawn:
    """Boxes of some images in original pixels.

    Attributes:
        readers: `schema.ANNOTATION_COLUMNS`, as every reader drew them.
        truth: The same where one reader saw each image, else `schema.CONSENSUS_COLUMNS`, fused.
    """

    readers: pd.DataFrame
    truth: pd.DataFrame

    @property
    def fused(self) -> bool:
        """Whether several readers saw an image."""
        return self.truth is not self.readers


def read_drawn(path: Path, *, classes: ClassTable = VINBIGDATA) -> Drawn:
    """Read a table of boxes, and fuse its readers where there are several.

    Args:
        path: A CSV with the columns of `train.csv`.
        classes: The data set's classes.

    Raises:
        AnnotationError: A row cannot be right.
        DataError: There is no such file.
    """
    readers = read_annotations(path, classes=classes)
    several = readers.groupby(IMAGE_ID)[RAD_ID].nunique().max() > 1
    return Drawn(readers, fuse_readers(readers, classes=classes) if several else readers)


def read_part(data_dir: Path, part: str, *, classes: ClassTable = VINBIGDATA) -> Drawn | None:
    """Boxes of a part of a data folder; None where the folder has none.

    Args:
        data_dir: The data folder.
        part: One of `TABLES`.
        classes: The data set's classes.

    Raises:
        AnnotationError: A row cannot be right.
    """
    path = data_dir / TABLES[part]
    return read_drawn(path, classes=classes) if path.is_file() else None


def read_test_truth(data_dir: Path, *, classes: ClassTable = VINBIGDATA) -> pd.DataFrame | None:
    """The truth of the test images, see `Drawn`; None where the data set has none.

    Args:
        data_dir: The data folder.
        classes: Its classes.

    Raises:
        AnnotationError: A row cannot be right.
    """
    drawn = read_part(data_dir, "test", classes=classes)
    return None if drawn is None else drawn.truth
