"""Faster R-CNN of torchvision on one grey channel.

The network keeps torchvision's three parts (`backbone`, `rpn`, `roi_heads`) with their parameter
names, so weights published for those load by name. The part of torchvision's class that resizes and
normalises images is left out: batches come in ready.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from cxr.detector.network.base import DetectionNetwork, Detections
from cxr.detector.network.heads import ExactPredictor, ExactRPNHead, WeightedRoIHeads
from cxr.detector.network.pooling import GatheredRoIAlign
from cxr.detector.network.spec import Answers, DetectorSpec


class GreyFasterRCNN(DetectionNetwork):
    """Faster R-CNN, two stages: proposals, then their class and edges.

    Args:
        parts: A torchvision model to take `backbone`, `rpn` and `roi_heads` from.
    """

    def __init__(self, parts: FasterRCNN) -> None:
        super().__init__()
        self.backbone = parts.backbone
        self.rpn = parts.rpn
        heads = parts.roi_heads
        last = heads.box_predictor.cls_score
        self.roi_heads = WeightedRoIHeads(
            GatheredRoIAlign.like(heads.box_roi_pool),
            heads.box_head,
            ExactPredictor(last.in_features, last.out_features),
            fg_iou_thresh=heads.proposal_matcher.high_threshold,
            bg_iou_thresh=heads.proposal_matcher.low_threshold,
            batch_size_per_image=heads.fg_bg_sampler.batch_size_per_image,
            positive_fraction=heads.fg_bg_sampler.positive_fraction,
            bbox_reg_weights=heads.box_coder.weights,
            score_thresh=heads.score_thresh,
            nms_thresh=heads.nms_thresh,
            detections_per_img=heads.detections_per_img,
        )

    def losses(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Two losses of the proposals and two of the second stage."""
        proposals, of_proposals = self.rpn(images, features, targets)
        _, of_regions = self.roi_heads(features, proposals, images.image_sizes, targets)
        return {**of_proposals, **of_regions}

    def detections(self, images: ImageList, features: dict[str, Tensor]) -> list[Detections]:
        """See `DetectionNetwork`."""
        proposals, _ = self.rpn(images, features)
        found, _ = self.roi_heads(features, proposals, images.image_sizes)
        return found

    def set_answers(self, answers: Answers) -> None:
        """See `DetectionNetwork`."""
        self.roi_heads.score_thresh = answers.score_threshold
        self.roi_heads.detections_per_img = answers.max_boxes
        self.roi_heads.nms_thresh = answers.nms_iou


def faster_rcnn(
    parts: Callable[[int], FasterRCNN], *, rpn_depth: int = 1
) -> Callable[[DetectorSpec], GreyFasterRCNN]:
    """How the registry builds a Faster R-CNN.

    Args:
        parts: Makes torchvision's model for a number of labels, background included.
        rpn_depth: Convolutions of the proposal head.
    """

    def build(spec: DetectorSpec) -> GreyFasterRCNN:
        model = parts(len(spec.class_names))
        model.rpn.anchor_generator = AnchorGenerator(
            spec.anchor_sizes, (spec.aspect_ratios,) * len(spec.anchor_sizes)
        )
        model.rpn.head = ExactRPNHead(
            model.backbone.out_channels,
            model.rpn.anchor_generator.num_anchors_per_location()[0],
            conv_depth=rpn_depth,
        )
        return GreyFasterRCNN(model)

    return build


def resnet_parts(name: str) -> Callable[[int], FasterRCNN]:
    """Torchvision's first Faster R-CNN over a ResNet of this name, without weights."""

    def parts(n_labels: int) -> FasterRCNN:
        backbone = resnet_fpn_backbone(
            backbone_name=name, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )
        return FasterRCNN(backbone, num_classes=n_labels)

    return parts


def resnet50_v2_parts(n_labels: int) -> FasterRCNN:
    """Torchvision's second Faster R-CNN, without weights."""
    return detection.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=n_labels)


def mobilenet_parts(n_labels: int) -> FasterRCNN:
    """Torchvision's Faster R-CNN over a MobileNet, without weights."""
    return detection.fasterrcnn_mobilenet_v3_large_fpn(
        weights=None, weights_backbone=None, num_classes=n_labels
    )
