"""The examples run, and do what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from metric_problems import detections, truth

from cxr import schema
from cxr.detector.network.registry import build_network
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.prediction.detector import Detector
from cxr.detector.prediction.onnx_file import write_onnx

FOLDER = Path(__file__).resolve().parents[1] / "examples"
TWO = schema.ClassTable(("Mass", "Fluid", "Normal"))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'example("{path.stem}")' in text for path in FOLDER.glob("*.py"))


@pytest.mark.slow
def test_a_network_of_ones_own_learns_and_then_predicts_one_file(tmp_path, capsys):
    own = example("own_network")
    result = own.main(tmp_path / "out")
    assert result.best_map > 0.8
    images, table = own.squares(1, seed=5)
    cv2.imwrite(str(tmp_path / "x.png"), images["square00"])
    capsys.readouterr()
    assert example("predict_one_file").main(str(result.best), str(tmp_path / "x.png")) == 0
    score, name, *box, unit = capsys.readouterr().out.splitlines()[0].split()
    assert (name, unit) == ("Bright", "px") and float(score) > 0.2
    assert [float(v) for v in box] == pytest.approx(table.loc[0, schema.BOX_COLUMNS].tolist(), abs=8)


def test_a_detector_predicts_without_torch(tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    spec = DetectorSpec("light", TWO.names, 96, ((32.0,), (64.0,), (96.0,), (128.0,)), (1.0,))
    net = build_network(spec).eval()
    write_onnx(Detector(net, spec, "light", "0" * 64), tmp_path / "net.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (80, 96), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), pixels)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "net.onnx"), str(tmp_path / "x.png")])
    capsys.readouterr()
    example("onnx_without_torch")
    lines = capsys.readouterr().out.splitlines()
    assert lines, "a random network answers everywhere"
    assert {line.split()[0] for line in lines} <= {"Mass", "Fluid"}


def test_a_metric_of_ones_own_by_hand(tmp_path, capsys):
    own = example("own_metric")
    true = truth([("a", 0, 0, 0, 10, 10), ("a", 1, 20, 20, 40, 40), ("b", 0, 0, 0, 10, 10), ("c", 2)])
    found = detections([("a", 0, 0.9, 0, 0, 10, 10), ("b", 0, 0.9, 0, 0, 10, 9), ("c", 0, 0.9, 0, 0, 9, 9)])
    assert own.complete_images(found, true, classes=TWO) == 0.5
    assert own.complete_images(found, true, classes=TWO, score_threshold=0.95) == 0
    assert pd.isna(own.complete_images(found, truth([("c", 2)]), classes=TWO))
    name = schema.VINBIGDATA.names[0]
    (tmp_path / "test_truth.csv").write_text(
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n" + f"a,{name},0,R1,0,0,10,10\n"
    )
    (tmp_path / "submission.csv").write_text("image_id,PredictionString\na,0 0.9 0 0 10 10\n")
    own.main(str(tmp_path / "submission.csv"), str(tmp_path / "test_truth.csv"))
    assert capsys.readouterr().out == "complete images: 1.000\n"
