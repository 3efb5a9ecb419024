"""A Grayscale Softcopy Presentation State: the image as it is, with the boxes drawn over it.

References:
    DICOM PS3.3 A.33.1, C.10.5 (graphic annotation; in PIXEL units the image's top left corner is (0, 0) and
    its bottom right corner (columns, rows)), C.11.6 (presentation LUT: INVERSE for MONOCHROME1).
"""

from __future__ import annotations

from typing import Any

import highdicom as hd
import numpy as np
import pandas as pd
from pydicom.dataset import Dataset

from cxr import schema
from cxr.export.dicom_objects.algorithm import MODEL, NAME, Algorithm
from cxr.export.dicom_objects.source import uid
from cxr.schema import ClassTable

SERIES_NUMBER = 9102
_LABEL_HEIGHT = 0.025  # of the image's rows
_LAYER = "CXR"


def presentation_state(
    source: Dataset, boxes: pd.DataFrame, algorithm: Algorithm, *, classes: ClassTable
) -> Dataset:
    """A presentation state with one rectangle and one line of text a box.

    Args:
        source: Header of the image, of `read_source`.
        boxes: `schema.DETECTION_COLUMNS` in pixels of the image; may be empty.
        algorithm: Who found it.
        classes: The detector's classes.
    """
    layer = hd.pr.GraphicLayer(layer_name=_LAYER, order=1, description="Boxes by cxr, unverified")
    key = algorithm.key_of(source, boxes)
    drawn = []
    if len(boxes):
        rows = boxes.to_dict("records")
        drawn.append(
            hd.pr.GraphicAnnotation(
                referenced_images=[source],
                graphic_layer=layer,
                graphic_objects=[_rectangle(row, source) for row in rows],
                text_objects=[_text(row, source, classes) for row in rows],
            )
        )
    inverted = source.get("PhotometricInterpretation") == "MONOCHROME1"
    state = hd.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[source],
        series_instance_uid=uid("gsps series", source.SeriesInstanceUID, *algorithm.key),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid("gsps", *key),
        instance_number=max(1, int(source.get("InstanceNumber") or 1)),
        manufacturer=NAME,
        manufacturer_model_name=MODEL,
        software_versions=algorithm.version,
        device_serial_number=algorithm.detectors[0][:16] if algorithm.detectors else NAME,
        content_label="CXR_BOXES",
        content_description="Boxes by cxr, unverified",
        content_creator_name=NAME,
        graphic_layers=[layer] if drawn else None,
        graphic_annotations=drawn or None,
        presentation_lut_transformation=hd.PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if inverted else "IDENTITY"
        ),
        series_description="Boxes by cxr, unverified",
        specific_character_set="ISO_IR 192",
    )
    # Required, if empty, where the body part is not known to be unpaired (PS3.3 C.7.3.1).
    state.Laterality = source.get("Laterality") or ""
    return state


def _corners(row: dict[str, Any], source: Dataset) -> tuple[float, float, float, float]:
    x_min, y_min, x_max, y_max = (float(row[name]) for name in schema.BOX_COLUMNS)
    columns, rows = float(source.Columns), float(source.Rows)
    return max(0.0, x_min), max(0.0, y_min), min(columns, x_max), min(rows, y_max)


def _rectangle(row: dict[str, Any], source: Dataset) -> hd.pr.GraphicObject:
    x_min, y_min, x_max, y_max = _corners(row, source)
    corners = [[x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max], [x_min, y_min]]
    return hd.pr.GraphicObject(
        graphic_type=hd.pr.GraphicTypeValues.POLYLINE,
        graphic_data=np.array(corners),
        units=hd.pr.AnnotationUnitsValues.PIXEL,
    )


def _text(row: dict[str, Any], source: Dataset, classes: ClassTable) -> hd.pr.TextObject:
    """The label above the box, or inside where the box touches the image's top."""
    x_min, y_min, x_max, _ = _corners(row, source)
    height = _LABEL_HEIGHT * float(source.Rows)
    top = max(0.0, y_min - height)
    label = f"{classes.name(int(row[schema.CLASS_ID]))} {float(row[schema.SCORE]):.2f}"
    right = min(float(source.Columns), max(x_max, x_min + 0.6 * height * len(label)))
    return hd.pr.TextObject(
        text_value=label[:1024],
        units=hd.pr.AnnotationUnitsValues.PIXEL,
        bounding_box=(x_min, top, right, top + height),
        text_justification=hd.pr.TextJustificationValues.LEFT,
    )
