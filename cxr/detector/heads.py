"""The two stages' heads: torchvision's, exact under autocast, with weights and with closer examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead

SCORE_THRESHOLD = 0.005
"""Boxes scored lower are left out; low, since a weak box costs no average precision and sometimes hits."""
MAX_BOXES = 300
"""Most boxes an image."""
NMS_IOU = 0.5
"""A box that overlaps a better one of its class by more is left out."""

SHAKE = 0.07
"""Standard deviation of the edges of `WeightedRoIHeads.near_truth`, as a share of the side."""


def set_answers(
    heads: RoIHeads,
    *,
    score_threshold: float = SCORE_THRESHOLD,
    max_boxes: int = MAX_BOXES,
    nms_iou: float = NMS_IOU,
) -> None:
    """Set which boxes a network gives; torchvision's own choice is meant for pictures, not for scores."""
    heads.score_thresh = score_threshold
    heads.detections_per_img = max_boxes
    heads.nms_thresh = nms_iou


class ExactRPNHead(RPNHead):
    """Torchvision's proposal head with float32 answers, whatever precision it works in."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and box corrections of each level."""
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


class ExactPredictor(FastRCNNPredictor):
    """Torchvision's last layer in float32: in bfloat16 different scores become the same one."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores and box corrections of each region."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class WeightedRoIHeads(RoIHeads):
    """Torchvision's second stage, with a weight for each target box in the training loss.

    Attributes:
        box_weight: How much the loss of the boxes' edges counts beside the others.
        near_truth: In training, regions added close to each true box: a proposal stage that
            starts from nothing gives few good ones, and from those alone edges are learnt slowly.
    """

    box_weight: float = 1.0
    near_truth: int = 0

    def add_gt_proposals(self, proposals: list[Tensor], gt_boxes: list[Tensor]) -> list[Tensor]:
        """The proposals of each image, its true boxes, and `near_truth` shaken copies of them."""
        together = []
        for proposed, true in zip(proposals, gt_boxes, strict=True):
            copies = true.repeat(self.near_truth, 1)
            sides = (copies[:, 2:] - copies[:, :2]).repeat(1, 2)
            together.append(torch.cat([proposed, true, copies + SHAKE * sides * torch.randn_like(copies)]))
        return together

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Losses in training, detections otherwise; `targets` may carry `weights` (N,)."""
        if not self.training:
            return super().forward(features, proposals, image_shapes, targets)
        proposals, matched, labels, regression_targets = self.select_training_samples(proposals, targets)
        weights = torch.cat(
            [
                torch.where(
                    label > 0,
                    target["weights"][match]
                    if len(target["weights"])
                    else torch.ones_like(match, dtype=torch.float32),
                    torch.ones((), device=label.device),
                )
                for label, match, target in zip(labels, matched, targets or [], strict=True)
            ]
        )
        logits, deltas = self.box_predictor(
            self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        )
        losses = weighted_roi_loss(logits, deltas, torch.cat(labels), torch.cat(regression_targets), weights)
        return [], {**losses, "loss_box_reg": self.box_weight * losses["loss_box_reg"]}


def weighted_roi_loss(
    logits: Tensor, deltas: Tensor, labels: Tensor, regression_targets: Tensor, weights: Tensor
) -> dict[str, Tensor]:
    """Torchvision's `fastrcnn_loss` with a weight for each region; equal to it when all are 1.

    Args:
        logits: (R, C) class scores before the softmax, background first.
        deltas: (R, 4 C) box corrections.
        labels: int64 (R,).
        regression_targets: (R, 4).
        weights: float (R,).

    Returns:
        `loss_classifier` and `loss_box_reg`, scalars.
    """
    per_region = F.cross_entropy(logits, labels, reduction="none")
    loss_classifier = (per_region * weights).sum() / weights.sum().clamp(min=1e-6)
    positive = torch.where(labels > 0)[0]
    chosen = deltas.reshape(len(labels), -1, 4)[positive, labels[positive]]
    per_box = F.smooth_l1_loss(chosen, regression_targets[positive], beta=1 / 9, reduction="none").sum(dim=1)
    loss_box_reg = (per_box * weights[positive]).sum() / max(1, len(labels))
    return {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg}
