"""The truth of a data folder's test images, one table whoever asks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cxr.annotations.consensus import fuse_readers
from cxr.annotations.reading import read_annotations
from cxr.schema import IMAGE_ID, RAD_ID, TEST_TRUTH_TABLE, VINBIGDATA, ClassTable


def read_test_truth(data_dir: Path, *, classes: ClassTable = VINBIGDATA) -> pd.DataFrame | None:
    """Boxes of the test images in original pixels; where several readers drew them, fused.

    Args:
        data_dir: The data folder.
        classes: Its classes.

    Returns:
        `schema.ANNOTATION_COLUMNS`, or `schema.CONSENSUS_COLUMNS` where readers were fused; None where the
        data set has no truth of its test images.

    Raises:
        AnnotationError: A row cannot be right.
    """
    path = data_dir / TEST_TRUTH_TABLE
    if not path.is_file():
        return None
    truth = read_annotations(path, classes=classes)
    if truth.groupby(IMAGE_ID)[RAD_ID].nunique().max() > 1:
        truth = fuse_readers(truth, classes=classes)
    return truth
