"""Predictions on files: written as they come, whatever the files are called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr import predictions, schema
from cxr.detector.prediction import files as prediction_files
from cxr.errors import DataError
from cxr.predictions import FAILURES_CSV, PREDICTIONS_CSV, PREDICTIONS_JSON, PredictionWriter

FAILURES = ["file", "reason", "message"]
NONE_FAILED = pd.DataFrame(columns=FAILURES)


def found(*image_ids: str) -> pd.DataFrame:
    rows = [(image_id, 3, 0.5, 10.0, 20.0, 30.0, 40.0) for image_id in image_ids]
    return pd.DataFrame(rows, columns=schema.DETECTION_COLUMNS)


def document(out: Path) -> dict:
    return json.loads((out / PREDICTIONS_JSON).read_text())


def test_what_has_come_is_written_when_the_work_is_stopped(tmp_path: Path):
    failed = pd.DataFrame([("c.png", "broken", "no image")], columns=FAILURES)
    with pytest.raises(KeyboardInterrupt), PredictionWriter(tmp_path, classes=schema.VINBIGDATA) as writer:
        writer.add(found("b"), failed, {"b": Path("b.png"), "a": Path("a.png")})
        raise KeyboardInterrupt
    assert document(tmp_path)["complete"] is False
    assert [image["image_id"] for image in document(tmp_path)["images"]] == ["a", "b"]
    assert pd.read_csv(tmp_path / PREDICTIONS_CSV).image_id.tolist() == ["b"]
    assert pd.read_csv(tmp_path / FAILURES_CSV).file.tolist() == ["c.png"]


def test_what_has_come_is_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So that a process killed on the spot loses seconds."""
    monkeypatch.setattr(predictions, "SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(predictions, "_SHARE_OF_TIME", 1e9)
    with PredictionWriter(tmp_path, classes=schema.VINBIGDATA) as writer:
        writer.add(found("b"), NONE_FAILED, {"b": Path("b.png")})
        assert [image["image_id"] for image in document(tmp_path)["images"]] == ["b"]
        writer.add(found("a", "a"), NONE_FAILED, {"a": Path("a.png")})
        assert document(tmp_path)["complete"] is False
    assert document(tmp_path)["complete"] is True
    assert pd.read_csv(tmp_path / PREDICTIONS_CSV).image_id.tolist() == ["a", "a", "b"]
    assert (len(writer.files), writer.boxes, writer.failed) == (2, 3, 0)


@pytest.fixture
def odd_names(tmp_path: Path) -> Path:
    """A folder with a plain image, names that are odd, and one that is no UTF-8."""
    folder = tmp_path / "in"
    folder.mkdir()
    ok, png = cv2.imencode(".png", np.arange(64 * 80, dtype=np.uint16).reshape(64, 80))
    assert ok
    for name in (b"plain.png", b"a\nb.png", "ä $x^2{.png".encode(), b"no\xfftext.png"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(png.tobytes())
    return folder


class _Spec:
    image_size = 64


class _Detector:
    spec = _Spec()


def test_one_odd_name_costs_one_file(odd_names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prediction_files, "ensemble_of", lambda detectors: detectors)
    monkeypatch.setattr(
        prediction_files, "predict_store", lambda detectors, held, ids, **options: found(*ids)
    )
    with PredictionWriter(tmp_path / "out", classes=schema.VINBIGDATA) as writer:
        for part in prediction_files.predict_in_parts([_Detector()], odd_names, decoders=1):
            writer.add(part.detections, part.failures, part.files)
            assert (part.done, part.total) == (4, 4)
    assert (len(writer.files), writer.boxes, writer.failed) == (3, 3, 1)
    (failure,) = document(tmp_path / "out")["failures"]
    assert failure["reason"] == "file_name"
    assert failure["file"].endswith(r"no\xfftext.png")
    table = pd.read_csv(tmp_path / "out" / PREDICTIONS_CSV)
    assert sorted(table.image_id) == ["a\nb", "plain", "ä $x^2{"]
    assert not table.file.str.contains("\n").any()
    by_id = {image["image_id"]: image["file"] for image in document(tmp_path / "out")["images"]}
    assert Path(by_id["a\nb"]).is_file(), "JSON holds the path as it is"


def test_only_odd_names(odd_names: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prediction_files, "ensemble_of", lambda detectors: detectors)
    monkeypatch.setattr(
        prediction_files, "predict_store", lambda detectors, held, ids, **options: found(*ids)
    )
    odd = [odd_names / os.fsdecode(b"no\xfftext.png")]
    (part,) = prediction_files.predict_in_parts([_Detector()], odd)
    assert part.detections.empty
    assert part.failures.reason.tolist() == ["file_name"]


def test_a_pipe_is_no_image(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="expected an image file or a folder, found something else at"):
        prediction_files.image_files(tmp_path / "pipe")
