"""Several detectors: fused, calibrated on what none of them has seen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr import schema
from cxr.detector.checkpoints import run
from cxr.detector.prediction import detector as detectors
from cxr.detector.prediction import out_of_fold
from cxr.detector.prediction.calibration import ScoreCalibration
from cxr.detector.prediction.fusion import fuse_detections
from cxr.detector.prediction.looks import Looks, LooksRecord, read_looks
from cxr.errors import DataError, ParameterError
from cxr.schema import ClassTable

CLASSES = ClassTable(("One", "Two", "No finding"))


def table(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=schema.DETECTION_COLUMNS)


# -- fusion ------------------------------------------------------------------------------------------


def test_boxes_of_one_finding_become_one_and_absence_counts():
    one = table(("b", 0, 0.8, 0, 0, 10, 10), ("a", 1, 0.6, 5, 5, 9, 9))
    two = table(("b", 0, 0.4, 0, 0, 10, 16))
    fused = fuse_detections([one, two], ["b", "a"], looks=Looks(detector_fusion_iou=0.5))
    assert list(fused.columns) == schema.DETECTION_COLUMNS
    assert fused[schema.IMAGE_ID].tolist() == ["b", "a"]
    assert fused[schema.SCORE].tolist() == pytest.approx([0.6, 0.3])
    assert fused["y_max"].tolist() == pytest.approx([(0.8 * 10 + 0.4 * 16) / 1.2, 9])


def test_the_best_boxes_of_each_image_stay():
    rows = [(i, 0, s, x, 0, x + 5, 9) for i in "ab" for x, s in ((0, 0.2), (20, 0.9), (40, 0.5))]
    fused = fuse_detections([table(*rows)] * 2, ["a", "b"], looks=Looks(detector_fusion_iou=0.5, max_boxes=2))
    assert fused[schema.SCORE].tolist() == pytest.approx([0.9, 0.5, 0.9, 0.5])


def test_nothing_found_anywhere():
    fused = fuse_detections([table()] * 2, ["a"], looks=Looks(detector_fusion_iou=0.5, max_boxes=2))
    assert list(fused.columns) == schema.DETECTION_COLUMNS
    assert fused.empty
    assert fuse_detections([table()], [], looks=Looks()).empty


# -- out of fold -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fake:
    """A detector by its file: a boaster gives all boxes 0.9, a modest one 0.1 to 0.3."""

    path: str
    sha256: str
    calibration: ScoreCalibration | None = None

    def require_classes(self, classes: object) -> None:
        assert classes is CLASSES


IDS = [f"i{n:03d}" for n in range(80)]
FOLDS = pd.DataFrame({schema.IMAGE_ID: IDS, schema.FOLD: [n % 2 for n in range(80)]})
TRUTH = table(*[(i, 0, 1.0, 0.0, 0.0, 9.0, 9.0) for i in IDS]).drop(columns=schema.SCORE)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Which detector looked at which images; a third of the boxes hits."""
    seen: list[tuple[str, list[str]]] = []

    def predict(detector, store, image_ids, **_):
        seen.append((detector.sha256, list(image_ids)))
        rng = np.random.default_rng(len(detector.sha256))
        rows = []
        for image_id in image_ids:
            for x in (0, 50, 100):
                score = 0.9 if detector.sha256 == "boaster" else rng.uniform(0.1, 0.3)
                rows.append((image_id, 0, score, x, 0.0, x + 9.0, 9.0))
        return table(*rows)

    for room in (out_of_fold, detectors):
        monkeypatch.setattr(room, "load_detector", lambda path, device="auto": Fake(str(path), path.stem))
    monkeypatch.setattr(out_of_fold, "predict_store", predict)
    return seen


def judge(checkpoints: dict[int, list[Path]]) -> out_of_fold.OutOfFold:
    return out_of_fold.predict_out_of_fold(
        None, FOLDS, checkpoints, TRUTH,
        looks=Looks(), classes=CLASSES, iou_threshold=0.4, batch_size=8,
    )  # fmt: skip


def test_each_detector_sees_its_own_fold_and_learns_what_its_scores_are_worth(looked):
    judgement = judge({0: [Path("boaster")], 1: [Path("modest")]})
    assert looked == [("boaster", IDS[0::2]), ("modest", IDS[1::2])]
    assert set(judgement.calibrations) == {"boaster", "modest"}
    for fold in (0, 1):
        scores = judgement.detections.loc[
            judgement.detections[schema.IMAGE_ID].isin(IDS[fold::2]), schema.SCORE
        ]
        assert scores.mean() == pytest.approx(1 / 3, abs=0.03)
    (boaster,) = detectors.load_detectors([Path("boaster")], judgement.calibrations)
    assert boaster.calibration.apply([0.9], [0])[0] == pytest.approx(1 / 3, abs=0.03)


def test_one_detector_keeps_its_scores(looked):
    judgement = judge({0: [Path("boaster")]})
    assert judgement.calibrations == {}
    assert set(judgement.detections[schema.SCORE]) == {0.9}


def test_two_detectors_of_a_fold_are_fused(looked):
    judgement = judge({0: [Path("boaster"), Path("modest")]})
    assert len(judgement.detections) == 3 * 40
    assert judgement.detections[schema.SCORE].mean() == pytest.approx(1 / 3, abs=0.03)
    assert len(judgement.calibrations) == 2


def test_scores_are_calibrated_for_all_or_for_none(looked, caplog):
    judgement = judge({0: [Path("boaster")], 1: [Path("modest")]})
    both = detectors.load_detectors([Path("boaster"), Path("stranger")], judgement.calibrations)
    assert [d.calibration for d in both] == [None, None]
    assert "no calibration is known for stranger" in caplog.text


# -- which files -------------------------------------------------------------------------------------


def test_checkpoints_are_chosen_by_fold(tmp_path):
    for name in ("fold0", "fold2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.ckpt").write_text("")
    own = run.chosen_checkpoints(tmp_path, [])
    assert own == [tmp_path / "fold0/best.ckpt", tmp_path / "fold2/best.ckpt"]
    both = run.chosen_checkpoints(tmp_path, [f"{tmp_path}/fold{{fold}}/best.ckpt", "/b/fold{fold}/x.ckpt"])
    assert run.checkpoints_by_fold(both) == {
        0: [own[0], Path("/b/fold0/x.ckpt")],
        2: [own[1], Path("/b/fold2/x.ckpt")],
    }
    assert run.chosen_checkpoints(tmp_path, ["/c/some.safetensors"]) == [Path("/c/some.safetensors")]
    with pytest.raises(ParameterError, match=r"/c/some\.safetensors is not in a folder such as fold0"):
        run.checkpoints_by_fold([Path("/c/some.safetensors")])


# -- how they looked ---------------------------------------------------------------------------------


def test_how_detectors_looked_is_kept_with_what_their_scores_are_worth(tmp_path, caplog):
    path = tmp_path / "looks.json"
    record = LooksRecord(
        Looks(tta_scales=(1.0, 1.2)), ("a/fold{fold}/best.ckpt",), 0.4, {"hash": {"slope": 1.0}}
    )
    path.write_text(json.dumps(record.to_dict()))
    again = read_looks(path)
    assert again == record
    again.warn_unless(Looks(tta_scales=(1.0, 1.2), score_floor=0.3))
    assert not caplog.records, "a floor leaves the other boxes' scores alone"
    again.warn_unless(Looks(tta_flip=False))
    assert "calibrated with tta_flip True, now False; tta_scales [1.0, 1.2], now [1.0]" in caplog.text


@pytest.mark.parametrize("content", ["{}", '{"looks": {"tta_flip": 3}}', "[]", "no JSON"])
def test_another_file_is_no_looks(tmp_path, content):
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(DataError, match=r"calibration\.json: expected"):
        read_looks(tmp_path / "calibration.json")
