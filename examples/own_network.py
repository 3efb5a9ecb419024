"""Train a network of your own: a detector that answers at the centre of each box.

    python examples/own_network.py OUT_DIR

The class says which losses the network has and what it finds. One line gives it a name. Data, training,
checkpoints and prediction are those of every other network. The images are bright squares on grey noise.
The name holds in this process only: for `cxr train` and `cxr predict` put class and line into the package.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, clip_boxes_to_image

from cxr.detector.data.held import HeldImages
from cxr.detector.network.base import Answers, DetectionNetwork, Detections
from cxr.detector.network.registry import ARCHITECTURES, Architecture
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.recipe import Recipe
from cxr.detector.training.train import TrainingResult, train_detector
from cxr.recipes import changed
from cxr.schema import BOX_COLUMNS, CLASS_ID, IMAGE_ID, ClassTable

STRIDE = 8
CLASSES = ClassTable(("Bright", "No finding"))


class Stages(nn.Module):
    """Three halvings of the image: one map at stride 8."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        widths = [1, channels // 2, channels, channels]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The map, by name as `DetectionNetwork` asks for."""
        return {"0": self.layers(images)}


class CentreNetwork(DetectionNetwork):
    """Each place of the map says which finding has its centre there, and how far its edges are."""

    def __init__(self, spec: DetectorSpec, channels: int = 32) -> None:
        super().__init__()
        self.backbone = Stages(channels)
        self.findings = nn.Conv2d(channels, len(spec.class_names) - 1, 1)
        self.edges = nn.Conv2d(channels, 4, 1)  # log distance to left, top, right, bottom, in strides
        nn.init.constant_(self.findings.bias, -3.0)  # a finding is rare
        self.answers = Answers()

    def losses(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """One loss for what is where, one for the edges at the true centres."""
        logits, edges = self.findings(features["0"]), self.edges(features["0"])
        truth, weight = torch.zeros_like(logits), torch.ones_like(logits)
        off = [edges.sum() * 0]
        for i, target in enumerate(targets):
            boxes = target["boxes"]
            middle = (boxes[:, :2] + boxes[:, 2:]) / 2
            column = (middle[:, 0] / STRIDE).long().clamp(0, logits.shape[3] - 1)
            row = (middle[:, 1] / STRIDE).long().clamp(0, logits.shape[2] - 1)
            truth[i, target["labels"] - 1, row, column] = 1
            weight[i, target["labels"] - 1, row, column] = target["box_weights"]
            place = torch.stack([column, row], 1) * STRIDE + STRIDE / 2
            distance = torch.cat([place - boxes[:, :2], boxes[:, 2:] - place], 1).clamp(min=1) / STRIDE
            error = (edges[i, :, row, column].T - distance.log()).abs().mean(1)
            off.append((error * target["box_weights"]).sum())
        n_boxes = max(1, sum(len(target["boxes"]) for target in targets))
        right = F.binary_cross_entropy_with_logits(logits, truth, weight, reduction="sum")
        return {"loss_findings": right / n_boxes, "loss_edges": torch.stack(off).sum() / n_boxes}

    def detections(self, images: ImageList, features: dict[str, Tensor]) -> list[Detections]:
        """Every place whose score is high enough, without overlapping boxes of one class."""
        scores, edges = self.findings(features["0"]).sigmoid(), self.edges(features["0"])
        found: list[Detections] = []
        for i, size in enumerate(images.image_sizes):
            finding, row, column = torch.where(scores[i] >= self.answers.score_threshold)
            score = scores[i, finding, row, column]
            place = torch.stack([column, row], 1) * STRIDE + STRIDE / 2
            distance = edges[i, :, row, column].T.exp() * STRIDE
            boxes = torch.cat([place - distance[:, :2], place + distance[:, 2:]], 1)
            boxes = clip_boxes_to_image(boxes, size)
            keep = batched_nms(boxes, score, finding, self.answers.nms_iou)[: self.answers.max_boxes]
            found.append({"boxes": boxes[keep], "labels": finding[keep] + 1, "scores": score[keep]})
        return found

    def set_answers(self, answers: Answers) -> None:
        """Set which boxes `detections` gives."""
        self.answers = answers


ARCHITECTURES["centre"] = Architecture(CentreNetwork, (STRIDE,), sizes_per_level=0, learning_rate=3e-3)


def squares(count: int, *, seed: int = 0) -> tuple[HeldImages, pd.DataFrame]:
    """Images of 64 px with one bright square each, and their boxes."""
    rng = np.random.default_rng(seed)
    images, rows = HeldImages(), []
    for number in range(count):
        pixels = rng.integers(90, 130, (64, 64)).astype(np.uint8)
        side = int(rng.integers(14, 26))
        x, y = (int(v) for v in rng.integers(0, 64 - side, 2))
        pixels[y : y + side, x : x + side] = 240
        images.add(f"square{number:02d}", pixels, (64, 64))
        rows.append((f"square{number:02d}", 0, x, y, x + side, y + side))
    return images, pd.DataFrame(rows, columns=[IMAGE_ID, CLASS_ID, *BOX_COLUMNS])


def main(out_dir: str | Path, *, epochs: int = 5) -> TrainingResult:
    """Train on 24 squares, validate on 8 others."""
    images, table = squares(32)
    recipe = changed(
        Recipe(), architecture_name="centre", label_mode="fused", detector_image_size=64, epochs=epochs,
        images_per_epoch=96, validate_every=epochs, negative_fraction=-1.0, ema_decay=0.9,
    )  # fmt: skip
    result = train_detector(
        images, table, images.ids[8:], images.ids[:8], recipe, Path(out_dir), classes=CLASSES
    )
    print(f"validation mAP@0.4 {result.best_map:.3f}, {result.best}")
    return result


if __name__ == "__main__":
    main(sys.argv[1])
