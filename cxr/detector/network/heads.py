"""The heads of Faster R-CNN's two stages: torchvision's, exact under autocast, with a weight for each box."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead


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
    """Torchvision's second stage, with a weight for each target box in the training loss."""

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Losses in training, detections otherwise; `targets` carry `box_weights` (N,)."""
        if not self.training:
            return super().forward(features, proposals, image_shapes, targets)
        proposals, matched, labels, regression_targets = self.select_training_samples(proposals, targets)
        weights = torch.cat(
            [
                torch.where(
                    label > 0,
                    target["box_weights"][match]
                    if len(target["box_weights"])
                    else torch.ones_like(match, dtype=torch.float32),
                    torch.ones((), device=label.device),
                )
                for label, match, target in zip(labels, matched, targets or [], strict=True)
            ]
        )
        logits, deltas = self.box_predictor(
            self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        )
        return [], weighted_roi_loss(
            logits, deltas, torch.cat(labels), torch.cat(regression_targets), weights
        )


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
