"""Scores as probabilities."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from cxr import metrics, schema
from cxr.detector.prediction.calibration import ScoreCalibration, calibrate_scores
from cxr.errors import DataError
from cxr.schema import ClassTable

CLASSES = ClassTable(("One", "Two", "Never", "No finding"))


def detections_and_truth(count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hits with probability sigmoid(2 logit(score) - 1), for class 1 at half the odds."""
    rng = np.random.default_rng(0)
    class_ids = rng.integers(0, 2, count)
    scores = rng.uniform(0.02, 0.98, count)
    hit = rng.random(count) < expit(2 * logit(scores) - 1 - np.log(2) * class_ids)
    found = pd.DataFrame({schema.IMAGE_ID: [f"i{n}" for n in range(count)], schema.CLASS_ID: class_ids})
    found[schema.SCORE] = scores
    for name, value in zip(schema.BOX_COLUMNS, (0.0, 0.0, 10.0, 10.0), strict=True):
        found[name] = value
    return found, found[hit].drop(columns=schema.SCORE)


def test_the_probabilities_that_made_the_data_are_found_again():
    found, truth = detections_and_truth(20_000)
    fitted = calibrate_scores(found, truth, image_ids=found[schema.IMAGE_ID], classes=CLASSES)
    assert fitted.slope == pytest.approx(2, abs=0.1)
    assert fitted.offsets[0] == pytest.approx(-1, abs=0.1)
    assert fitted.offsets[1] == pytest.approx(-1 - np.log(2), abs=0.1)
    assert fitted.offsets[1] < fitted.offsets[2] < fitted.offsets[0]


def test_the_order_within_a_class_and_the_average_precision_stay():
    found, truth = detections_and_truth(300)
    fitted = calibrate_scores(found, truth, image_ids=found[schema.IMAGE_ID], classes=CLASSES)
    after = found.assign(score=fitted.apply(found[schema.SCORE], found[schema.CLASS_ID]))
    assert metrics.voc_map(after, truth).map == pytest.approx(metrics.voc_map(found, truth).map)
    assert after[schema.SCORE].between(0, 1).all()


def test_plain_data_and_class_ids():
    calibration = ScoreCalibration(1.0, (0.0, 1.0, 2.0))
    assert ScoreCalibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    expected = [0.5, expit(1.0), 0.3]
    assert calibration.apply([0.5, 0.5, 0.3], [0, 1, 0]) == pytest.approx(expected)
    assert calibration.apply([], []).shape == (0,)
    assert np.isfinite(calibration.apply([0.0, 1.0], [0, 0])).all()


def test_a_calibrated_table_is_sorted_again_within_each_image():
    found, _ = detections_and_truth(3)
    found = found.assign(image_id=["b", "b", "a"], class_id=[0, 1, 0], score=[0.6, 0.5, 0.7])
    table = ScoreCalibration(1.0, (0.0, 2.0, 0.0)).apply_table(found)
    assert table[schema.IMAGE_ID].tolist() == ["b", "b", "a"]
    assert table[schema.CLASS_ID].tolist() == [1, 0, 0]
    assert table[schema.SCORE].tolist() == pytest.approx([expit(2.0), 0.6, 0.7])


def test_a_few_lucky_hits_do_not_make_it_certain():
    """The 2 best of 6 boxes hit: any steep curve would fit, a mild one is believed."""
    found, _ = detections_and_truth(6)
    found = found.assign(class_id=0, score=[0.9, 0.8, 0.4, 0.3, 0.2, 0.1])
    truth = found[:2].drop(columns=schema.SCORE)
    fitted = calibrate_scores(found, truth, image_ids=found[schema.IMAGE_ID], classes=CLASSES)
    assert 0.5 < fitted.slope < 3
    assert fitted.apply([0.1], [0])[0] < 0.5 < fitted.apply([0.9], [0])[0] < 0.99


def test_nothing_to_learn_from_is_said():
    found, truth = detections_and_truth(20)
    with pytest.raises(DataError, match="got 0 hits of 20"):
        calibrate_scores(found, truth[:0], image_ids=found[schema.IMAGE_ID], classes=CLASSES)
