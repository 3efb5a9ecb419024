"""The shipped recipe's options on a CUDA device; skipped where there is none."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from squares import IMAGES, train

from cxr import boxes as box_tools
from cxr import schema
from cxr.detector.prediction.detector import load_detector
from cxr.detector.prediction.looks import Looks
from cxr.detector.prediction.predict import predict_store

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["auto", "16-mixed", "32-true"])
def test_it_trains_in_every_precision(tmp_path, precision):
    result = train(
        tmp_path, precision=precision, accelerator="gpu", devices=1,
        multi_scale=(0.8, 1.0, 1.2), epochs=3, num_workers=1, val_ids=IMAGES.ids,
    )  # fmt: skip
    assert pd.read_csv(result.metrics)["loss"].map(math.isfinite).all()
    assert torch.cuda.max_memory_allocated() > 0


def test_it_answers_as_on_the_cpu(tmp_path):
    result = train(tmp_path, accelerator="gpu", devices=1, epochs=3, val_ids=[])
    ids = IMAGES.ids
    sure, every = Looks(score_floor=0.2, tta_flip=False), Looks(score_floor=0.0, tta_flip=False)
    cuda = predict_store(load_detector(result.best, device="cuda"), IMAGES, ids, looks=sure)
    cpu = predict_store(load_detector(result.best, device="cpu"), IMAGES, ids, looks=every)
    for row in cuda.itertuples():
        same = cpu[(cpu[schema.IMAGE_ID] == row.image_id) & (cpu[schema.CLASS_ID] == row.class_id)]
        box = np.array([[row.x_min, row.y_min, row.x_max, row.y_max]])
        overlap = box_tools.iou(box, same[schema.BOX_COLUMNS].to_numpy())[0]
        assert ((overlap > 0.9) & ((same[schema.SCORE] - row.score).abs() < 0.1)).any()


@pytest.mark.slow
def test_a_compiled_backbone_trains(tmp_path):
    result = train(tmp_path, accelerator="gpu", devices=1, compile_backbone=True, val_ids=IMAGES.ids)
    assert result.steps == 4
    load_detector(result.best)
