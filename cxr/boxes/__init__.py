"""Boxes: check, scale, clip, overlap, suppress, fuse.

Boxes are `(N, 4)` arrays `x_min, y_min, x_max, y_max` in pixels of a stated image, the right and
the bottom edge exclusive.
"""

from cxr.boxes.agreement import count_models
from cxr.boxes.ensemble import FUSION_METHODS, check_fusion_method, fuse_models
from cxr.boxes.fusion import FusedBoxes, weighted_boxes_fusion
from cxr.boxes.geometry import areas, as_boxes, clip, iou, scale, validate
from cxr.boxes.suppression import nms, soft_nms

__all__ = [
    "FUSION_METHODS",
    "FusedBoxes",
    "areas",
    "as_boxes",
    "check_fusion_method",
    "clip",
    "count_models",
    "fuse_models",
    "iou",
    "nms",
    "scale",
    "soft_nms",
    "validate",
    "weighted_boxes_fusion",
]
