"""Every figure of the project.

A function takes data and returns a matplotlib figure. No function shows a figure, keeps one open or
changes a global setting. Where there is nothing to draw, the figure says so in words.
"""

from cxr.plots._style import message
from cxr.plots.annotations import (
    agreement_by_class,
    box_geometry,
    boxes_per_image,
    class_counts,
    cooccurrence,
    heat_maps,
    reader_agreement,
    reader_counts,
)
from cxr.plots.classifier import (
    ablation,
    calibration,
    permutation_importance,
    probability_histogram,
    roc_and_pr,
    shap_summary,
)
from cxr.plots.comparison import reader_ceiling, scores_with_intervals
from cxr.plots.evaluation import (
    confusion,
    detection_scores,
    error_breakdown,
    froc,
    operating_point,
    per_class_ap,
    pr_curves,
)
from cxr.plots.features import (
    feature_correlation,
    feature_distributions,
    feature_separation,
    fold_balance,
    group_shares,
    single_feature_auc,
)
from cxr.plots.gate import gate_sweep
from cxr.plots.headers import failures, header_facts, image_sizes
from cxr.plots.images import (
    OUTCOME_LEGEND,
    Mark,
    Panel,
    before_after,
    class_marks,
    gallery,
    outcome_marks,
    outcome_panel,
    reader_marks,
    scaled_boxes,
)
from cxr.plots.training import anchor_fit, training_curves

__all__ = [
    "OUTCOME_LEGEND",
    "Mark",
    "Panel",
    "ablation",
    "agreement_by_class",
    "anchor_fit",
    "before_after",
    "box_geometry",
    "boxes_per_image",
    "calibration",
    "class_counts",
    "class_marks",
    "confusion",
    "cooccurrence",
    "detection_scores",
    "error_breakdown",
    "failures",
    "feature_correlation",
    "feature_distributions",
    "feature_separation",
    "fold_balance",
    "froc",
    "gallery",
    "gate_sweep",
    "group_shares",
    "header_facts",
    "heat_maps",
    "image_sizes",
    "message",
    "operating_point",
    "outcome_marks",
    "outcome_panel",
    "per_class_ap",
    "permutation_importance",
    "pr_curves",
    "probability_histogram",
    "reader_agreement",
    "reader_ceiling",
    "reader_counts",
    "reader_marks",
    "roc_and_pr",
    "scaled_boxes",
    "scores_with_intervals",
    "shap_summary",
    "single_feature_auc",
    "training_curves",
]
