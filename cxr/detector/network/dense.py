"""RetinaNet and FCOS of torchvision: one stage, an answer at every place of the pyramid.

The networks keep torchvision's two parts (`backbone`, `head`) with their parameter names, so weights
published for those load by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from cxr.detector.network.base import DetectionNetwork, Detections
from cxr.detector.network.light import LightBackbone
from cxr.detector.network.spec import Answers, DetectorSpec

RESNET_STRIDES = (8, 16, 32, 64, 128)
"""Of a pyramid that begins at the second stage of a ResNet and has two levels more."""

Targets = list[dict[str, Tensor]]


def place_targets(
    logits: Tensor, targets: Targets, matched: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What each place of a batch has to say.

    Args:
        logits: (B, P, C).
        targets: For each image boxes (N, 4), labels (N,) and box_weights (N,).
        matched: For each image int64 (P,), the box that a place belongs to; below 0 for none.

    Returns:
        Whether a place has a box, bool (B, P); its class as 0 or 1, (B, P, C); its box (B, P, 4); how much
        it counts, float32 (B, P), 1 where it has no box.
    """
    foreground = torch.stack(matched) >= 0
    classes = torch.zeros_like(logits)
    boxes = logits.new_zeros((*foreground.shape, 4))
    counts = logits.new_ones(foreground.shape)
    for place, (target, match) in enumerate(zip(targets, matched, strict=True)):
        own = foreground[place]
        of = match[own]
        classes[place, own, target["labels"][of]] = 1.0
        boxes[place, own] = target["boxes"][of].to(boxes.dtype)
        counts[place, own] = target["box_weights"][of].to(counts.dtype)
    return foreground, classes, boxes, counts


class WeightedRetinaNetHead(RetinaNetHead):
    """Torchvision's head with a weight for each target box in the loss."""

    between = -2
    """What torchvision's matcher gives a place that is neither near enough to a box nor far enough."""

    def compute_loss(
        self,
        targets: Targets,
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Equal to torchvision's when all weights are 1."""
        logits, deltas = head_outputs["cls_logits"], head_outputs["bbox_regression"]
        foreground, classes, boxes, counts = place_targets(logits, targets, matched_idxs)
        boxes_in = foreground.sum(dim=1).clamp(min=1)
        used = torch.stack(matched_idxs) != self.between
        focal = sigmoid_focal_loss(logits, classes).sum(dim=2) * counts * used
        coder = self.regression_head.box_coder
        edges = logits.new_zeros(len(targets))
        for place, own in enumerate(foreground):
            goals = coder.encode_single(boxes[place, own], anchors[place][own])
            apart = F.l1_loss(deltas[place, own], goals, reduction="none").sum(dim=1)
            edges[place] = (apart * counts[place, own]).sum()
        return {
            "loss_classifier": (focal.sum(dim=1) / boxes_in).mean(),
            "loss_box_reg": (edges / boxes_in).mean(),
        }


class WeightedFCOSHead(FCOSHead):
    """Torchvision's head with a weight for each target box in the loss."""

    def compute_loss(
        self,
        targets: Targets,
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Equal to torchvision's when all weights are 1."""
        logits = head_outputs["cls_logits"]
        foreground, classes, boxes, counts = place_targets(logits, targets, matched_idxs)
        number = foreground.sum().clamp(min=1)
        places = torch.stack(anchors)[foreground]
        found = self.box_coder.decode(head_outputs["bbox_regression"][foreground], places)
        goals = self.box_coder.encode(places, boxes[foreground])
        across, down = goals[:, [0, 2]], goals[:, [1, 3]]
        centre = torch.sqrt(
            (across.amin(1) / across.amax(1)) * (down.amin(1) / down.amax(1))  # FCOS, formula 3
        )
        said = head_outputs["bbox_ctrness"][foreground].squeeze(-1)
        weight = counts[foreground]
        edges = generalized_box_iou_loss(found, boxes[foreground]) * weight
        centred = F.binary_cross_entropy_with_logits(said, centre, reduction="none") * weight
        focal = sigmoid_focal_loss(logits, classes).sum(dim=2) * counts
        return {
            "loss_classifier": focal.sum() / number,
            "loss_box_reg": edges.sum() / number,
            "loss_centerness": centred.sum() / number,
        }


class GreyDense(DetectionNetwork):
    """A one-stage detector.

    Args:
        model: A torchvision RetinaNet or FCOS to take `backbone` and `head` from. It also matches places
            to boxes and makes detections of answers.
    """

    def __init__(self, model: RetinaNet | FCOS) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.head = model.head
        self._model = [model]  # in a list: its parts are this network's already

    def _answers(
        self, images: ImageList, features: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """Answers at all places, in float32; the anchors of each image; the number of places a level."""
        maps = list(features.values())
        answers = {name: value.float() for name, value in self.head(maps).items()}
        (generator,) = (model.anchor_generator for model in self._model)
        each = generator.num_anchors_per_location()
        counts = [level.shape[2] * level.shape[3] * per for level, per in zip(maps, each, strict=True)]
        return answers, generator(images, maps), counts

    def losses(self, images: ImageList, features: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """See `DetectionNetwork`."""
        answers, anchors, counts = self._answers(images, features)
        (model,) = self._model
        if isinstance(model, FCOS):
            return model.compute_loss(targets, answers, anchors, counts)
        return model.compute_loss(targets, answers, anchors)

    def detections(self, images: ImageList, features: dict[str, Tensor]) -> list[Detections]:
        """See `DetectionNetwork`."""
        answers, anchors, counts = self._answers(images, features)
        (model,) = self._model
        levels = {name: list(value.split(counts, dim=1)) for name, value in answers.items()}
        found: list[Detections] = model.postprocess_detections(
            levels, [list(own.split(counts)) for own in anchors], images.image_sizes
        )
        return found

    def set_answers(self, answers: Answers) -> None:
        """See `DetectionNetwork`."""
        (model,) = self._model
        model.score_thresh = answers.score_threshold
        model.detections_per_img = answers.max_boxes
        model.nms_thresh = answers.nms_iou


def _resnet_pyramid(name: str) -> nn.Module:
    return resnet_fpn_backbone(
        backbone_name=name,
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(2048, 256),
    )


def retinanet(backbone: Callable[[], nn.Module] = LightBackbone) -> Callable[[DetectorSpec], GreyDense]:
    """How the registry builds a RetinaNet over a backbone that gives a feature pyramid."""

    def build(spec: DetectorSpec) -> GreyDense:
        body, labels = backbone(), len(spec.class_names)
        anchors = AnchorGenerator(spec.anchor_sizes, (spec.aspect_ratios,) * len(spec.anchor_sizes))
        each = anchors.num_anchors_per_location()[0]
        norm = partial(nn.GroupNorm, 32)
        head = WeightedRetinaNetHead(body.out_channels, each, labels, norm_layer=norm)
        return GreyDense(RetinaNet(body, labels, anchor_generator=anchors, head=head))

    return build


def fcos(
    backbone: Callable[[], nn.Module] = LightBackbone,
    strides: tuple[int, ...] = LightBackbone.strides,
    *,
    depth: int = 2,
) -> Callable[[DetectorSpec], GreyDense]:
    """How the registry builds an FCOS, which has no anchors, over such a backbone.

    Args:
        backbone: Makes it.
        strides: Pixels between two places on each of its levels.
        depth: Convolutions of each head before its last. Torchvision has 4; over the light backbone they
            take more than the backbone.
    """

    def build(spec: DetectorSpec) -> GreyDense:
        body, labels = backbone(), len(spec.class_names)
        places = AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
        head = WeightedFCOSHead(body.out_channels, 1, labels, num_convs=depth)
        return GreyDense(FCOS(body, labels, anchor_generator=places, head=head))

    return build


resnet50_pyramid = partial(_resnet_pyramid, "resnet50")
