"""How far the classifier's probability may speak into the detections of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from cxr import schema
from cxr.errors import DataError, ParameterError

GATE_MODES = ("soft", "cut", "none")
GRADED_MODES = ("soft", "cut")
"""Modes that give every image one normal line of score 1 - p, never simply 0 or 1."""


@dataclass(frozen=True)
class Gate:
    """One setting of the gate.

    Attributes:
        mode: "soft", "cut" or "none"; see `gate`.
        power: Soft: box scores are multiplied by p_abnormal to this power.
        low: Cut: below this p_abnormal an image keeps no box.
        rerank: Power of the per-class probability that box scores are multiplied by; 0 is off.
    """

    mode: str = "soft"
    power: float = 1.0
    low: float = 0.1
    rerank: float = 0.0

    def describe(self) -> str:
        """The setting in a few words, for tables and pictures."""
        text = {
            "soft": f"soft, power {self.power:g}" if self.power else "normal line only (soft, power 0)",
            "cut": f"cut, no box below {self.low:g}",
            "none": "no gate",
        }[self.mode]
        return f"{text}, re-ranked by class (power {self.rerank:g})" if self.rerank else text


NORMAL_LINE_ONLY = Gate("soft", power=0.0, low=0.0)
"""A graded normal line for every image and the boxes untouched: what a gate must beat. Against no line at all
any gate looks good, for without lines the normal class scores next to nothing."""
NAMED_GATES = {"line": NORMAL_LINE_ONLY, "soft": Gate("soft"), "cut": Gate("cut"), "none": Gate("none")}
"""Gates that a person can ask for by name, whatever was chosen on validation images."""


def gate_by_name(name: str, chosen: Mapping[str, Any]) -> Gate:
    """The gate to apply: one of `NAMED_GATES`, or the one that was chosen on validation images.

    Args:
        name: A key of `NAMED_GATES`, or "auto".
        chosen: For "auto": `gate_mode`, `gate_power`, `gate_low` and `gate_rerank`, as in notebook 07's
            `evaluation.json`; other keys are passed over.

    Raises:
        ParameterError: Another name.
        DataError: "auto", and `chosen` lacks a setting.
    """
    if name in NAMED_GATES:
        return NAMED_GATES[name]
    if name != "auto":
        raise ParameterError(f"gate_mode: expected one of auto, {', '.join(NAMED_GATES)}, got {name!r}")
    keys = {field.name: f"gate_{field.name}" for field in fields(Gate)}
    if lacking := [key for key in keys.values() if key not in chosen]:
        raise DataError(f"gate: expected {', '.join(lacking)} in the evaluation of notebook 07, got none")
    return Gate(**{name: chosen[key] for name, key in keys.items()})


def gate(
    detections: pd.DataFrame,
    p_abnormal: pd.DataFrame,
    *,
    mode: str = "soft",
    power: float = 1.0,
    low: float = 0.1,
    classes: schema.ClassTable = schema.VINBIGDATA,
) -> pd.DataFrame:
    """Let the classifier weigh in, and add the lines of the normal class.

    The normal line of an image says "nothing found" with the one-pixel box `0 0 1 1`. Its score
    is 1 - p_abnormal, the probability of being normal; p itself, a mistake that has been shipped,
    ranks the images the wrong way round.

    - "soft": every image gets a normal line of score 1 - p; box scores are multiplied by p**power.
      With power 0 the boxes stay as they are: the normal line only, the least a gate can do.
    - "cut": every image gets a normal line of score 1 - p; an image with p < low keeps no box.
    - "none": the boxes as they are; an image without any gets a normal line of score 1.

    Args:
        detections: Columns `schema.DETECTION_COLUMNS`, original pixels. Lines of the normal class
            that are already there are replaced.
        p_abnormal: `image_id, p_abnormal` in [0, 1]: the images of the result, in this order.
        mode: One of `GATE_MODES`.
        power: At least 0; 0 leaves the box scores as they are.
        low: In [0, 1]; see "cut".
        classes: The class table.

    Returns:
        Columns `schema.DETECTION_COLUMNS`, the lines of an image together, best score first.

    Raises:
        ParameterError: An unknown mode, a negative power or a threshold outside [0, 1].
        DataError: A probability outside [0, 1], an image twice, or detections of other images.
    """
    if mode not in GATE_MODES:
        raise ParameterError(f"gate mode: expected one of {', '.join(GATE_MODES)}, got {mode!r}")
    if power < 0 or not 0 <= low <= 1:
        raise ParameterError(f"gate: expected power >= 0 and 0 <= low <= 1, got power {power}, low {low}")
    probability = _probabilities(p_abnormal)
    boxes = _boxes_of(detections, probability.index, classes)
    p_of_box = boxes[schema.IMAGE_ID].map(probability)
    normal_score = 1.0 - probability
    if mode == "soft":
        boxes = boxes.assign(**{schema.SCORE: boxes[schema.SCORE] * p_of_box**power})
    elif mode == "cut":
        boxes = boxes[p_of_box >= low]
    else:
        silent = ~normal_score.index.isin(boxes[schema.IMAGE_ID])
        normal_score = pd.Series(1.0, index=normal_score.index[silent])
    lines = _normal_lines(normal_score, classes)
    return _ordered(pd.concat([lines, boxes], ignore_index=True), probability.index)


def rerank(detections: pd.DataFrame, p_findings: pd.DataFrame, *, power: float = 1.0) -> pd.DataFrame:
    """Multiply each box's score by its image's probability of that finding, to a power.

    Args:
        detections: Columns `schema.DETECTION_COLUMNS`.
        p_findings: `image_id` and `p_<class_id>`, from the multi-label classifier.
        power: At least 0; 0 changes nothing.

    Returns:
        The detections with new scores; a class without a column keeps its scores.

    Raises:
        DataError: Detections of an image without probabilities.
        ParameterError: A negative power.
    """
    if power < 0:
        raise ParameterError(f"re-ranking: expected a power >= 0, got {power}")
    wide = p_findings.set_index(schema.IMAGE_ID)
    row = wide.index.get_indexer(detections[schema.IMAGE_ID])
    if (row < 0).any():
        unknown = detections[schema.IMAGE_ID].to_numpy()[row < 0][0]
        raise DataError(f"re-ranking: no class probabilities for image {unknown}")
    names = "p_" + detections[schema.CLASS_ID].astype(int).astype(str)
    column = wide.columns.get_indexer(names)
    factor = (
        np.where(column < 0, 1.0, wide.to_numpy(float)[row, column] ** power) if len(wide.columns) else 1.0
    )
    return detections.assign(**{schema.SCORE: detections[schema.SCORE] * factor})


def apply_gate(
    setting: Gate,
    detections: pd.DataFrame,
    p_abnormal: pd.DataFrame,
    *,
    p_findings: pd.DataFrame | None = None,
    classes: schema.ClassTable = schema.VINBIGDATA,
) -> pd.DataFrame:
    """Re-rank by class if the setting says so, then gate.

    Raises:
        DataError: The setting re-ranks and there are no class probabilities; or as in `gate`.
    """
    if setting.rerank:
        wanted = {f"p_{class_id}" for class_id in classes.finding_ids}
        if p_findings is None or wanted.isdisjoint(p_findings.columns):
            raise DataError(
                "gate: the setting re-ranks by class, but no class probabilities were given; notebook 05 "
                "makes them"
            )
        detections = rerank(detections, p_findings, power=setting.rerank)
    return gate(
        detections,
        p_abnormal,
        mode=setting.mode,
        power=setting.power,
        low=setting.low,
        classes=classes,
    )


def all_normal(image_ids: Sequence[str], *, classes: schema.ClassTable = schema.VINBIGDATA) -> pd.DataFrame:
    """The sample submission: every image normal, with certainty. What a model has to beat."""
    certain = pd.Series(1.0, index=pd.Index(list(image_ids), dtype=object))
    return _normal_lines(certain, classes)


def _probabilities(p_abnormal: pd.DataFrame) -> pd.Series:
    for name in (schema.IMAGE_ID, schema.P_ABNORMAL):
        if name not in p_abnormal.columns:
            raise DataError(
                f"gate: expected a column {name!r}, got {', '.join(map(str, p_abnormal.columns))}"
            )
    table = p_abnormal.set_index(schema.IMAGE_ID)[schema.P_ABNORMAL].astype(float)
    if table.index.has_duplicates:
        raise DataError(f"gate: image {table.index[table.index.duplicated()][0]} has two probabilities")
    wrong = table[~table.between(0, 1)]
    if len(wrong):
        raise DataError(f"gate: image {wrong.index[0]}: expected p_abnormal in [0, 1], got {wrong.iloc[0]}")
    return table


def _boxes_of(detections: pd.DataFrame, images: pd.Index, classes: schema.ClassTable) -> pd.DataFrame:
    lacking = [name for name in schema.DETECTION_COLUMNS if name not in detections.columns]
    if lacking:
        raise DataError(f"gate: expected the column {lacking[0]!r} in the detections")
    unknown = detections[schema.IMAGE_ID][~detections[schema.IMAGE_ID].isin(images)]
    if len(unknown):
        raise DataError(f"gate: detections of image {unknown.iloc[0]}, which has no probability")
    boxes = detections.loc[detections[schema.CLASS_ID] != classes.normal_id, schema.DETECTION_COLUMNS]
    return boxes.astype({schema.SCORE: float})


def _normal_lines(scores: pd.Series, classes: schema.ClassTable) -> pd.DataFrame:
    lines = pd.DataFrame({schema.IMAGE_ID: scores.index, schema.CLASS_ID: classes.normal_id})
    lines[schema.SCORE] = scores.to_numpy(float)
    lines[schema.BOX_COLUMNS] = np.tile(np.array(schema.NORMAL_BOX), (len(lines), 1))
    return lines[schema.DETECTION_COLUMNS]


def _ordered(table: pd.DataFrame, images: pd.Index) -> pd.DataFrame:
    """Images in their order, best score first; equal scores in the order they came."""
    place = images.get_indexer(table[schema.IMAGE_ID])
    order = np.lexsort((np.arange(len(table)), -table[schema.SCORE].to_numpy(float), place))
    return table.iloc[order].astype({schema.CLASS_ID: int}).reset_index(drop=True)
