"""Readers' tables: read and check them, describe them, and fuse the readers into one table."""

from cxr.annotations.consensus import fuse_readers
from cxr.annotations.reading import (
    CLASSES_CSV,
    drop_problems,
    problems,
    read_annotations,
    read_classes,
    read_table,
)
from cxr.annotations.tables import (
    box_geometry,
    class_counts,
    heat_maps,
    overlapping_pairs,
    positives_by_reader_count,
    reader_agreement,
    reader_counts,
    reader_groups,
)
from cxr.annotations.truth import TABLES, Drawn, read_drawn, read_part, read_test_truth

__all__ = [
    "CLASSES_CSV",
    "TABLES",
    "Drawn",
    "box_geometry",
    "class_counts",
    "drop_problems",
    "fuse_readers",
    "heat_maps",
    "overlapping_pairs",
    "positives_by_reader_count",
    "problems",
    "read_annotations",
    "read_classes",
    "read_drawn",
    "read_part",
    "read_table",
    "read_test_truth",
    "reader_agreement",
    "reader_counts",
    "reader_groups",
]
