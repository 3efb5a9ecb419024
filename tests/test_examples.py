"""The examples run, and do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import cv2
import pandas as pd
import pytest
from metric_problems import detections, truth

from cxr import schema

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
