"""Scores: average precision, FROC, ROC, intervals, errors, and what readers themselves reach."""

from cxr.metrics.breakdown import ERRORS, ErrorBreakdown, error_breakdown
from cxr.metrics.ceiling import LEAST_IMAGES, reader_ceiling, reader_pairs
from cxr.metrics.coco import CocoResult, coco_map
from cxr.metrics.encoding import Boxes, Problem, encode, with_normal_rows
from cxr.metrics.froc import FROC_RATES, FrocResult, froc
from cxr.metrics.groups import group_scores
from cxr.metrics.intervals import BootstrapResult, Difference, bootstrap_map, paired_difference
from cxr.metrics.matching import Matches, match
from cxr.metrics.operating import BACKGROUND, OperatingPoint, confusion, operating_point
from cxr.metrics.roc import RocResult, image_roc
from cxr.metrics.scorecard import Scorecard, plain_rows, scorecard
from cxr.metrics.voc import VocResult, voc_map, voc_score

__all__ = [
    "BACKGROUND",
    "ERRORS",
    "FROC_RATES",
    "LEAST_IMAGES",
    "BootstrapResult",
    "Boxes",
    "CocoResult",
    "Difference",
    "ErrorBreakdown",
    "FrocResult",
    "Matches",
    "OperatingPoint",
    "Problem",
    "RocResult",
    "Scorecard",
    "VocResult",
    "bootstrap_map",
    "coco_map",
    "confusion",
    "encode",
    "error_breakdown",
    "froc",
    "group_scores",
    "image_roc",
    "match",
    "operating_point",
    "paired_difference",
    "plain_rows",
    "reader_ceiling",
    "reader_pairs",
    "scorecard",
    "voc_map",
    "voc_score",
    "with_normal_rows",
]
