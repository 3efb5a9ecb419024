"""A Structured Report: each box as a region with its finding, its score and who found it.

References:
    DICOM PS3.16 TID 1500 (Measurement Report), TID 1410 (Planar ROI Measurements), TID 4019 (Algorithm
    Identification); PS3.3 C.18.6 (spatial coordinates: pixels of the image, its top left corner is (0, 0),
    its bottom right corner (columns, rows), as our boxes have it).
"""

from __future__ import annotations

from typing import Any

import highdicom as hd
import numpy as np
import pandas as pd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from cxr import schema
from cxr.export.dicom_objects.algorithm import MODEL, NAME, Algorithm
from cxr.export.dicom_objects.codes import (
    NOTHING,
    SCHEME,
    SCHEME_NAME,
    SCHEME_UID,
    SCHEME_VERSION,
    Concept,
    concept_of,
)
from cxr.export.dicom_objects.source import uid
from cxr.schema import ClassTable

SERIES_NUMBER = 9101
_CERTAINTY = CodedConcept("111012", "DCM", "Certainty of Finding")
_CHEST_X_RAY = CodedConcept("399208008", "SCT", "Plain chest X-ray")


def structured_report(
    source: Dataset, boxes: pd.DataFrame, algorithm: Algorithm, *, classes: ClassTable
) -> Dataset:
    """A Comprehensive SR of what was found on one image; unverified and preliminary, as no person saw it.

    Args:
        source: Header of the image, of `read_source`.
        boxes: `schema.DETECTION_COLUMNS` in pixels of the image; may be empty.
        algorithm: Who found it.
        classes: The detector's classes.
    """
    identification = hd.sr.AlgorithmIdentification(
        name=NAME, version=algorithm.version, parameters=list(algorithm.described), manufacturer=NAME
    )
    key = algorithm.key_of(source, boxes)
    groups = [
        _region(source, row, number, key, identification, classes)
        for number, row in enumerate(boxes.to_dict("records"), start=1)
    ]
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=uid("observer", *algorithm.detectors), name=NAME, manufacturer_name=NAME, model_name=MODEL
        ),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_CHEST_X_RAY,
        imaging_measurements=groups or [_nothing(source, key, identification)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    return hd.sr.ComprehensiveSR(
        evidence=[source],
        content=content[0],
        series_instance_uid=uid("sr series", source.SeriesInstanceUID, *algorithm.key),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid("sr", *key),
        instance_number=max(1, int(source.get("InstanceNumber") or 1)),
        manufacturer=NAME,
        manufacturer_model_name=MODEL,
        software_versions=algorithm.version,
        series_description="Boxes by cxr, unverified",
        coding_schemes=[
            CodingSchemeIdentificationItem(
                designator=SCHEME, name=SCHEME_NAME, version=SCHEME_VERSION, uid=SCHEME_UID
            )
        ],
        specific_character_set="ISO_IR 192",
    )


def _coded(concept: Concept) -> CodedConcept:
    return CodedConcept(concept.value, concept.scheme, concept.meaning)


def _tracked(number: int, key: tuple[str, ...]) -> hd.sr.TrackingIdentifier:
    return hd.sr.TrackingIdentifier(uid=uid("finding", number, *key), identifier=f"Finding {number}")


def _region(
    source: Dataset,
    row: dict[str, Any],
    number: int,
    key: tuple[str, ...],
    identification: hd.sr.AlgorithmIdentification,
    classes: ClassTable,
) -> hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    x_min, y_min, x_max, y_max = (float(row[name]) for name in schema.BOX_COLUMNS)
    corners = [[x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max], [x_min, y_min]]
    score = float(row[schema.SCORE])
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracked(number, key),
        referenced_region=hd.sr.ImageRegion(
            graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
            graphic_data=np.array(corners),
            source_image=hd.sr.SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID),
        ),
        finding_type=_coded(concept_of(classes.name(int(row[schema.CLASS_ID])))),
        algorithm_id=identification,
        measurements=[
            hd.sr.Measurement(name=_CERTAINTY, value=round(100 * score, 3), unit=codes.UCUM.Percent)
        ],
    )


def _nothing(
    source: Dataset, key: tuple[str, ...], identification: hd.sr.AlgorithmIdentification
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracked(0, key),
        finding_type=_coded(NOTHING),
        algorithm_id=identification,
        source_images=[hd.sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)],
    )
