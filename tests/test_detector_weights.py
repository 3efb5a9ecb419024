"""How much each detector of an ensemble counts, on made-up detections whose right answer is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from squares import IMAGES, SQUARES

from cxr import metrics, schema
from cxr.detector.network.registry import build_network
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.prediction import out_of_fold
from cxr.detector.prediction.calibration import ScoreCalibration, calibrate_scores
from cxr.detector.prediction.detector import Detector, class_weights
from cxr.detector.prediction.ensemble import (
    EQUAL,
    LEARNED,
    Ensemble,
    learn_ensemble,
    mixture_weights,
)
from cxr.detector.prediction.fusion import fuse_detections
from cxr.detector.prediction.looks import ONE_LOOK, Looks
from cxr.detector.prediction.predict import predict_store
from cxr.schema import ClassTable

CLASSES = ClassTable(("One", "Two", "Three", "No finding"))
IDS = [f"i{number:03d}" for number in range(120)]
FINDINGS = range(3)


def made_up_truth() -> pd.DataFrame:
    """A box of each finding on every third image or so."""
    rng = np.random.default_rng(0)
    rows = [
        (image_id, class_id, *(x := rng.uniform(0, 300, 2)), *(x + 60))
        for image_id in IDS
        for class_id in FINDINGS
        if rng.random() < 0.35
    ]
    return pd.DataFrame(rows, columns=[schema.IMAGE_ID, schema.CLASS_ID, *schema.BOX_COLUMNS])


TRUTH = made_up_truth()


def member(skill: tuple[float, float, float], seed: int) -> pd.DataFrame:
    """What a detector finds: true boxes shifted a little, and others; skill parts their scores."""
    rng = np.random.default_rng(seed)
    rows = []
    for row in TRUTH.itertuples():
        shift = rng.normal(0, 4, 2)
        own = skill[row.class_id]
        if rng.random() < (0.9 if own > 0 else 0.1):
            box = (row.x_min + shift[0], row.y_min + shift[1], row.x_max + shift[0], row.y_max + shift[1])
            rows.append((row.image_id, row.class_id, expit(rng.normal(own)), *box))
    for image_id in IDS:
        for class_id in FINDINGS:
            for _ in range(rng.poisson(1.0)):
                x = rng.uniform(0, 300, 2)
                rows.append((image_id, class_id, expit(rng.normal(-skill[class_id])), *x, *(x + 60)))
    table = pd.DataFrame(rows, columns=schema.DETECTION_COLUMNS)
    return calibrate_scores(table, TRUTH, image_ids=IDS, classes=CLASSES).apply_table(table)


def ensemble_of(*tables: pd.DataFrame) -> Ensemble:
    names = [f"m{number}" for number in range(len(tables))]
    return learn_ensemble(tables, TRUTH, names=names, image_ids=IDS, looks=Looks(), classes=CLASSES)


def test_a_detector_of_noise_counts_next_to_nothing_and_does_no_harm():
    learned = ensemble_of(member((1.5, 1.5, 1.5), 1), member((0.0, 0.0, 0.0), 2))
    assert learned.weights.sum(axis=0) == pytest.approx(np.ones(3))
    assert (learned.weights[1] < 0.15).all()
    table = learned.comparison.set_index("answer")
    assert table["map"][table["chosen"]].item() >= table.loc["m0", "map"]
    assert table.loc[LEARNED, "gain"] > -0.02


def test_a_detector_counts_where_it_is_good():
    learned = ensemble_of(member((1.5, 1.5, 0.0), 1), member((0.0, 0.0, 1.5), 2))
    assert (learned.weights[0, :2] > 0.7).all() and learned.weights[1, 2] > 0.7
    table = learned.comparison.set_index("answer")
    assert table.loc[LEARNED, "chosen"]
    assert table.loc[LEARNED, "gain_low"] > 0.1


def test_detectors_that_are_alike_count_alike_and_gain():
    learned = ensemble_of(*(member((1.0, 1.0, 1.0), seed) for seed in (1, 2, 3)))
    assert learned.weights == pytest.approx(np.full((3, 3), 1 / 3), abs=0.15)
    table = learned.comparison.set_index("answer")
    assert table.loc[LEARNED, "chosen"] and table.loc[LEARNED, "gain_low"] > 0.1
    assert table.loc[LEARNED, "gain"] > table.loc[EQUAL, "gain"] - 0.02


def test_the_detections_are_those_of_the_answer_chosen():
    learned = ensemble_of(member((1.5, 1.5, 0.0), 1), member((0.0, 0.0, 1.5), 2))
    score = metrics.voc_map(learned.detections, TRUTH, image_ids=IDS).map
    assert score == pytest.approx(learned.comparison["map"][learned.comparison["chosen"]].item())
    assert learned.detections[schema.IMAGE_ID].drop_duplicates().tolist() == IDS
    by_image = learned.detections.groupby(schema.IMAGE_ID)[schema.SCORE]
    assert by_image.apply(lambda scores: scores.is_monotonic_decreasing).all()


def test_where_fusing_only_harms_the_best_detector_stays_alone():
    good = member((3.0, 3.0, 3.0), 1)
    loud = good.assign(score=good[schema.SCORE].max() - good[schema.SCORE])  # the same boxes, the worst first
    learned = ensemble_of(good, loud)
    assert learned.comparison.set_index("answer").loc["m0", "chosen"]
    assert learned.weights.tolist() == [[1.0] * 3, [0.0] * 3]
    in_order = good.sort_values(schema.IMAGE_ID, kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(learned.detections, in_order)


def test_the_weights_that_made_the_data_are_found_again():
    rng = np.random.default_rng(0)
    said = rng.random((20_000, 2))
    hit = rng.random(20_000) < said @ [0.7, 0.3]
    even = np.full(2, 0.5)
    assert mixture_weights(said, hit, prior=even) == pytest.approx([0.7, 0.3], abs=0.03)
    assert mixture_weights(said[:0], hit[:0], prior=np.array([0.9, 0.1])) == pytest.approx([0.9, 0.1])


# -- fusing by weights -------------------------------------------------------------------------------


def table_of(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=schema.DETECTION_COLUMNS)


def test_each_class_is_fused_by_its_own_weights():
    one = table_of(("a", 0, 0.8, 0, 0, 10, 10), ("a", 1, 0.6, 5, 5, 9, 9))
    two = table_of(("a", 0, 0.4, 0, 0, 10, 16), ("a", 1, 0.5, 50, 50, 60, 60))
    weights = np.array([[3.0, 0.0], [1.0, 1.0]])
    fused = fuse_detections([one, two], ["a"], looks=Looks(detector_fusion_iou=0.5), weights=weights)
    assert fused[schema.CLASS_ID].tolist() == [0, 1]
    assert fused[schema.SCORE].tolist() == pytest.approx([(3 * 0.8 + 0.4) / 4, 0.5])
    assert fused["y_max"].tolist() == pytest.approx([(2.4 * 10 + 0.4 * 16) / 2.8, 60])


def detector(seed: int, weights: tuple[float, ...]) -> Detector:
    torch.manual_seed(seed)
    spec = DetectorSpec("light", SQUARES.names, 64, ((16.0,), (24.0,), (40.0,), (60.0,)), (1.0,))
    fit = ScoreCalibration(1.0, (0.0, 0.0), weights)
    return Detector(build_network(spec).eval(), spec, f"{seed}.ckpt", str(seed), fit)


def test_prediction_fuses_by_the_weights_that_come_with_the_calibrations():
    fits = {"1": ScoreCalibration(1.0, (0.0, 0.0), (1.0, 0.0)).to_dict()}
    assert ScoreCalibration.from_dict(fits["1"]).weights == (1.0, 0.0)
    both = [detector(1, (1.0, 0.0)), detector(2, (0.0, 1.0))]
    assert class_weights(both).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert class_weights([both[0], replace(both[1], calibration=None)]) is None
    assert class_weights([both[0], detector(3, ())]) is None
    found = predict_store(both, IMAGES, IMAGES.ids[:3], looks=ONE_LOOK)
    alone = [predict_store(one, IMAGES, IMAGES.ids[:3], looks=ONE_LOOK) for one in both]
    parts = [table[table[schema.CLASS_ID] == number] for number, table in enumerate(alone)]
    assert len(found) == sum(map(len, parts)) > 0
    expected = np.sort(pd.concat(parts)[schema.SCORE].to_numpy())
    assert np.sort(found[schema.SCORE].to_numpy()) == pytest.approx(expected)


# -- out of fold -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fake:
    """A detector by its file."""

    path: Path
    sha256: str

    def require_classes(self, classes: object) -> None:
        assert classes is CLASSES


FOLDS = pd.DataFrame({schema.IMAGE_ID: IDS, schema.FOLD: [number % 2 for number in range(len(IDS))]})
TABLES = {"good": member((1.5, 1.5, 0.0), 1), "other": member((0.0, 0.0, 1.5), 2)}


def judged(
    monkeypatch: pytest.MonkeyPatch, checkpoints: dict[int, list[str]], **looks
) -> out_of_fold.OutOfFold:
    def predict(detector, store, image_ids, **_):
        whole = TABLES[detector.path.parts[0]]
        return whole[whole[schema.IMAGE_ID].isin(image_ids)].reset_index(drop=True)

    monkeypatch.setattr(out_of_fold, "load_detector", lambda path: Fake(path, str(path)))
    monkeypatch.setattr(out_of_fold, "predict_store", predict)
    return out_of_fold.predict_out_of_fold(
        None, FOLDS, {fold: [Path(name) for name in names] for fold, names in checkpoints.items()}, TRUTH,
        looks=Looks(**looks), classes=CLASSES, iou_threshold=0.4, batch_size=8,
    )  # fmt: skip


BOTH = {fold: [f"{name}/fold{fold}/best.ckpt" for name in TABLES] for fold in (0, 1)}


def test_all_detectors_of_a_family_get_its_weights(monkeypatch):
    judgement = judged(monkeypatch, BOTH)
    assert judgement.weights.columns.tolist() == ["good/best.ckpt", "other/best.ckpt"]
    assert judgement.weights.index.tolist() == ["One", "Two", "Three"]
    for fold in (0, 1):
        for name in TABLES:
            weights = judgement.calibrations[f"{name}/fold{fold}/best.ckpt"]["weights"]
            assert weights == judgement.weights[f"{name}/best.ckpt"].tolist()
    assert judgement.comparison["chosen"].sum() == 1
    found = judgement.detections
    assert found.groupby(schema.IMAGE_ID)[schema.FOLD].first().reindex(IDS).tolist() == FOLDS.fold.tolist()


@pytest.mark.parametrize(
    ("checkpoints", "looks"),
    [
        ({0: BOTH[0], 1: BOTH[1][:1]}, {}),  # a family that one fold lacks cannot be judged on its images
        ({fold: files[:1] for fold, files in BOTH.items()}, {}),
        (BOTH, {"detector_fusion": "nms"}),
    ],
    ids=["a family with a gap", "one family", "no mean of scores"],
)
def test_otherwise_all_count_alike(monkeypatch, checkpoints, looks):
    judgement = judged(monkeypatch, checkpoints, **looks)
    assert judgement.comparison is None and judgement.weights is None
    assert {tuple(fit["weights"]) for fit in judgement.calibrations.values()} == {()}
