"""Numbers that describe a radiograph: from its pixels, from its header, from a detector's boxes.

Each group is a switch of the classifier, told by a feature's name: `header_*` comes from the
DICOM header, `detector_*` from out-of-fold detections, every other name from the pixels.
Image ids, file names and instance UIDs are never features: they name a patient's file, not a finding.
"""

from __future__ import annotations

from cxr.features.detections import (
    DETECTOR_PREFIX,
    detector_feature_names,
    detector_features,
    fold_record,
    oof_detector_features,
    read_fold_detections,
)
from cxr.features.header import HEADER_PREFIX, header_features, header_versions
from cxr.features.pixel import WORKING_SIZE, pixel_feature_table, pixel_features
from cxr.features.tables import GROUPS, feature_group, feature_names, join_features

__all__ = [
    "DETECTOR_PREFIX",
    "GROUPS",
    "HEADER_PREFIX",
    "WORKING_SIZE",
    "detector_feature_names",
    "detector_features",
    "feature_group",
    "feature_names",
    "fold_record",
    "header_features",
    "header_versions",
    "join_features",
    "oof_detector_features",
    "pixel_feature_table",
    "pixel_features",
    "read_fold_detections",
]
