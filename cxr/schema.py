"""The project's words: columns, classes, feature names and artefact names, each said once.

Boxes are `x_min, y_min, x_max, y_max` in pixels of a stated image, the right and the
bottom edge exclusive. `image_size` and every pair called *size* is `(rows, columns)`.
"""

from __future__ import annotations

from dataclasses import dataclass

# -- columns -----------------------------------------------------------------------------------------

IMAGE_ID = "image_id"
CLASS_ID = "class_id"
CLASS_NAME = "class_name"
RAD_ID = "rad_id"
SCORE = "score"
FOLD = "fold"
BOX_COLUMNS = ["x_min", "y_min", "x_max", "y_max"]

ANNOTATION_COLUMNS = [IMAGE_ID, CLASS_NAME, CLASS_ID, RAD_ID, *BOX_COLUMNS]
"""One row per box and reader, as in the competition's `train.csv`; a normal row has no box."""

CONSENSUS_COLUMNS = [IMAGE_ID, CLASS_NAME, CLASS_ID, *BOX_COLUMNS, "n_readers", "agreement"]
"""One row per fused box: how many readers drew it, and their share of the image's readers."""

DETECTION_COLUMNS = [IMAGE_ID, CLASS_ID, SCORE, *BOX_COLUMNS]
"""One row per detected box, in pixels of the original image."""

SIZE_COLUMNS = [IMAGE_ID, "rows", "columns"]
"""Original size of an image, in pixels."""

P_ABNORMAL = "p_abnormal"

HEADER_COLUMNS = [
    "File Name",
    "Transfer Syntax UID",
    "SOP Class UID",
    "SOP Instance UID",
    "Version",
    "Photometric Interpretation",
    "Pixel Representation",
    "High Bit",
    "Samples per Pixel",
    "Bits Allocated",
    "Rescale Intercept",
    "Rescale Slope",
    "Lossy Image Compression",
    "Lossy Image Compression Ratio",
    "Patient's Sex",
    "Patient's Age",
    "Rows",
    "Columns",
    "Pixel Spacing",
    "Bits Stored",
    "Window Center",
    "Window Width",
]
"""The only header fields that leave a DICOM file; `cxr.dicom.header` says in which form.

`Version` is a code of the Implementation Version Name, `SOP Instance UID` a code of the UID: both are
free to hold what identifies a patient.
"""

INVALID = "invalid"
"""Stands in the header table for a value that the standard does not allow; `""` is a missing one."""


def image_id_fault(image_id: str) -> str | None:
    """Why a text cannot be an image id, `None` if it can.

    An id names files and stands in tables and messages, so it is one printable word of a path.
    """
    if not image_id.strip():
        return "it is empty"
    if not image_id.isprintable():
        return "it has unprintable characters"
    if "/" in image_id or "\\" in image_id:
        return "it has a slash or a backslash"
    return "it names a folder" if image_id in (".", "..") else None


PIXEL_FEATURES = [
    "intensity_mean",
    "intensity_std",
    "intensity_median",
    "glcm_contrast",
    "glcm_correlation",
    "glcm_energy",
    "glcm_homogeneity",
    "mean_gabor_real",
    "std_gabor_real",
    "mean_gabor_imag",
    "std_gabor_imag",
    *[f"lbp_{i}" for i in range(10)],
    *[f"haralick_{i}" for i in range(13)],
    "sobel_edges_count",
    "canny_edges_count",
    "skewness",
    "kurtosis",
    "entropy",
]

# -- classes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set; a class's id is its place, the last one is the normal class.

    Attributes:
        names: Class names in the order of their ids, the normal class last.
    """

    names: tuple[str, ...]

    @property
    def normal_id(self) -> int:
        """Id of the class that says "nothing found"."""
        return len(self.names) - 1

    @property
    def finding_ids(self) -> range:
        """Ids of the findings, the normal class left out."""
        return range(self.normal_id)

    @property
    def finding_names(self) -> tuple[str, ...]:
        """Names of the findings, the normal class left out."""
        return self.names[:-1]

    def name(self, class_id: int) -> str:
        """Name of one class."""
        return self.names[class_id]

    def color(self, class_id: int) -> str:
        """A hex colour for pictures, the same for a class in every figure."""
        return _COLORS[class_id % len(_COLORS)]


VINBIGDATA = ClassTable(
    (
        "Aortic enlargement",
        "Atelectasis",
        "Calcification",
        "Cardiomegaly",
        "Consolidation",
        "ILD",
        "Infiltration",
        "Lung Opacity",
        "Nodule/Mass",
        "Other lesion",
        "Pleural effusion",
        "Pleural thickening",
        "Pneumothorax",
        "Pulmonary fibrosis",
        "No finding",
    )
)

_COLORS = (
    "#e6194b",
    "#3cb44b",
    "#ffe119",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#46f0f0",
    "#f032e6",
    "#bcf60c",
    "#fabebe",
    "#008080",
    "#e6beff",
    "#9a6324",
    "#fffac8",
    "#800000",
)

NORMAL_BOX = (0.0, 0.0, 1.0, 1.0)
"""The one-pixel box that stands for "No finding" in a submission."""

DOMINANT_READERS = ("R8", "R9", "R10")
"""The three readers of most abnormal images; scores on the other readers' images are shown apart."""

# -- tables of a data folder -------------------------------------------------------------------------

TRAIN_TABLE = "train.csv"
TEST_TRUTH_TABLE = "test_truth.csv"

# -- artefacts: file names inside a run's folder -----------------------------------------------------

TRAIN_FULL_CSV = "01_eda/train_full_dataset.csv"
LEFT_OUT_CSV = "01_eda/left_out_rows.csv"
IMAGES_DIR = "02_preprocess/images"
HEADERS_CSV = "02_preprocess/dicom_metadata.csv"
FAILURES_CSV = "02_preprocess/failures.csv"
FEATURES_CSV = "03_features/dicom_pixels_features.csv"
CONSENSUS_CSV = "04_split/consensus.csv"
FOLDS_CSV = "04_split/folds.csv"
TRAIN_CSV = "04_split/train.csv"
VAL_CSV = "04_split/val.csv"
CLASSIFIER_UBJ = "05_classifier/binary_classifier.ubj"
FINDINGS_UBJ = "05_classifier/finding_classifier.ubj"
ABLATION_CSV = "05_classifier/ablation.csv"
OOF_CSV = "05_classifier/oof_probabilities.csv"
CLASSIFIER_TEST_CSV = "05_classifier/classifier_post_pred.csv"
CHECKPOINTS_DIR = "06_detector/checkpoints"
DETECTOR_METRICS_CSV = "06_detector/metrics.csv"
VAL_PREDICTIONS_CSV = "07_evaluation/val_predictions.csv"
VAL_PREDICTIONS_JSON = "07_evaluation/val_predictions.json"
EVALUATION_JSON = "07_evaluation/evaluation.json"
LOOKS_JSON = "07_evaluation/looks.json"
SUBMISSION_CSV = "08_submission/test_predictions.csv"
SUBMISSION_TABLE_CSV = "08_submission/test_predictions_reformatted.csv"
TEST_DETECTIONS_CSV = "08_submission/test_detections.csv"
TEST_DETECTIONS_JSON = "08_submission/test_detections.json"
SCORE_JSON = "08_submission/score.json"
KERNEL_DIR = "08_submission/kernel"
