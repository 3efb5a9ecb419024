"""Normal or abnormal: gradient-boosted trees on features, calibrated, and honest about what they know.

Every probability that goes on to a gate or a table comes from a model that did not see the image,
its calibration included: for each image fold a model is fitted on the other folds, and inside
those, inner folds choose the number of trees and fit the calibration (nested cross-validation).
"""

from __future__ import annotations

from cxr.classifier.ablation import (
    ABLATION_SETTINGS,
    ablation,
    compare_groups,
    leak_verdict,
    readable,
    setting_name,
)
from cxr.classifier.calibration import CALIBRATIONS, Calibrator, fit_calibrator
from cxr.classifier.fitting import CrossValidation, cross_validate, fit
from cxr.classifier.importance import permutation_importance, shap_values
from cxr.classifier.labels import finding_labels, image_labels
from cxr.classifier.model import Classifier, load, save
from cxr.classifier.recipe import Recipe
from cxr.classifier.scores import paired_differences, reliability, scores

__all__ = [
    "ABLATION_SETTINGS",
    "CALIBRATIONS",
    "Calibrator",
    "Classifier",
    "CrossValidation",
    "Recipe",
    "ablation",
    "compare_groups",
    "cross_validate",
    "finding_labels",
    "fit",
    "fit_calibrator",
    "image_labels",
    "leak_verdict",
    "load",
    "paired_differences",
    "permutation_importance",
    "readable",
    "reliability",
    "save",
    "scores",
    "setting_name",
    "shap_values",
]
