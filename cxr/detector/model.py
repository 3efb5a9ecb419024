"""The networks: Faster R-CNN of torchvision on one grey channel, and a light sibling of it.

Every architecture is the same three parts (`backbone`, `rpn`, `roi_heads`) with the same
parameter names as torchvision's, so weights published for those load by name. The part of
torchvision's class that resizes and normalises images is left out: batches come in ready.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from cxr.detector.heads import ExactPredictor, ExactRPNHead, WeightedRoIHeads
from cxr.detector.light import LightBackbone, light_parts
from cxr.errors import CheckpointError, ParameterError
from cxr.schema import ClassTable

RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)
GREY_MEAN = 0.449
GREY_STD = 0.226


@dataclass(frozen=True)
class DetectorSpec:
    """All that is needed to build a network again: stored inside each checkpoint.

    Attributes:
        architecture: A name of `ARCHITECTURES`.
        class_names: Names in the order of class ids, the normal class last.
        image_size: Longer side of the network's image, in pixels.
        anchor_sizes: Anchor sizes in network pixels, one tuple a level.
        aspect_ratios: Height / width of the anchors.
    """

    architecture: str
    class_names: tuple[str, ...]
    image_size: int
    anchor_sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[float, ...]

    @property
    def classes(self) -> ClassTable:
        """The class table the network was trained for."""
        return ClassTable(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, so that a checkpoint loads with `weights_only=True`."""
        plain = asdict(self)
        plain["class_names"] = list(self.class_names)
        plain["anchor_sizes"] = [list(level) for level in self.anchor_sizes]
        plain["aspect_ratios"] = list(self.aspect_ratios)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DetectorSpec:
        """The inverse of `to_dict`.

        Raises:
            CheckpointError: A field is missing.
        """
        try:
            return cls(
                architecture=str(plain["architecture"]),
                class_names=tuple(plain["class_names"]),
                image_size=int(plain["image_size"]),
                anchor_sizes=tuple(tuple(float(s) for s in level) for level in plain["anchor_sizes"]),
                aspect_ratios=tuple(float(a) for a in plain["aspect_ratios"]),
            )
        except KeyError as error:
            raise CheckpointError(f"the checkpoint's description lacks {error}") from error


class GreyFasterRCNN(nn.Module):
    """Faster R-CNN over a padded batch of one-channel images.

    Under autocast convolutions and linear layers work in 16 bits, but boxes never do: bfloat16
    has 8 bits of precision, which beyond 512 px is a grid of 4 px on which small boxes vanish.

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
            heads.box_roi_pool,
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

    def forward(
        self,
        images: Tensor,
        sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections otherwise.

        Args:
            images: (B, 1, H, W), uint8 or float in [0, 1]; H and W multiples of 32.
            sizes: The part of each image that is not padding, (h, w).
            targets: For training: boxes (N, 4) in network pixels, labels int64 (N,),
                weights (N,) for each image.

        Returns:
            In training a dict of four scalar losses; else for each image a dict of boxes
            (N, 4) in network pixels, labels (N,) and scores (N,), best first.
        """
        batch = normalise(images, sizes)
        listed = ImageList(batch, list(sizes))
        # Anchors, proposals and targets take their precision from the feature maps.
        features = {name: level.float() for name, level in self.backbone(batch).items()}
        proposals, rpn_losses = self.rpn(listed, features, targets)
        detections, roi_losses = self.roi_heads(features, proposals, listed.image_sizes, targets)
        return {**rpn_losses, **roi_losses} if self.training else detections


def normalise(images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Grey values centred and scaled, padding set to zero (the mean); float32 (B, 1, H, W)."""
    batch = images.float().div_(255) if images.dtype == torch.uint8 else images.clone()
    batch.sub_(GREY_MEAN).div_(GREY_STD)
    for place, (rows, columns) in enumerate(sizes):
        batch[place, :, rows:, :] = 0
        batch[place, :, :, columns:] = 0
    return batch


def fold_grey_stem(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A first convolution for three colour channels, rewritten for one grey channel.

    A grey image fed to a colour network as three equal channels, each normalised by
    ImageNet's mean and deviation, gives `sum_c w_c * (x - m_c) / s_c`. With the grey image
    normalised by `GREY_MEAN` m and `GREY_STD` s this is `sum_c (w_c s / s_c) * x'` plus the
    constant `sum_c w_c (m - m_c) / s_c`: the same answer from a third of the memory and
    arithmetic. Exact except within half a kernel of the border, where zero padding stands
    for slightly different greys.

    Args:
        weight: (O, 3, K, K).

    Returns:
        Weight (O, 1, K, K) and bias (O,).
    """
    mean = torch.tensor(RGB_MEAN, dtype=weight.dtype, device=weight.device).view(1, 3, 1, 1)
    std = torch.tensor(RGB_STD, dtype=weight.dtype, device=weight.device).view(1, 3, 1, 1)
    grey = (weight * (GREY_STD / std)).sum(dim=1, keepdim=True)
    bias = (weight * ((GREY_MEAN - mean) / std)).sum(dim=(1, 2, 3))
    return grey, bias


def _grey_stem(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution on one channel, with a bias to hold the folded normalisation."""
    grey = nn.Conv2d(
        1, conv.out_channels, conv.kernel_size, stride=conv.stride, padding=conv.padding, bias=True
    )
    with torch.no_grad():
        weight, bias = fold_grey_stem(conv.weight)
        grey.weight.copy_(weight)
        grey.bias.copy_(bias if conv.bias is None else bias + conv.bias)
    return grey


# -- the registry ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry.

    Attributes:
        build: Makes the torchvision model for a number of labels (background included).
        strides: Pixels between anchors on each level, fine to coarse.
        sizes_per_level: Anchor sizes on each level when fitted.
        rpn_depth: Convolutions of the proposal head.
        stem: Path of the colour network's first convolution; empty for none.
        learning_rate: For AdamW at batch size 4; other sizes follow from it.
        coco: Name of torchvision's published weights for the whole detector; empty for none.
    """

    build: Callable[[int], FasterRCNN]
    strides: tuple[int, ...]
    sizes_per_level: int = 1
    rpn_depth: int = 1
    stem: str = ""
    learning_rate: float = 1e-4
    coco: str = ""


def _resnet(name: str) -> Callable[[int], FasterRCNN]:
    def build(n_labels: int) -> FasterRCNN:
        backbone = resnet_fpn_backbone(
            backbone_name=name, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )
        return FasterRCNN(backbone, num_classes=n_labels)

    return build


def _resnet50_v2(n_labels: int) -> FasterRCNN:
    return detection.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=n_labels)


def _mobilenet(n_labels: int) -> FasterRCNN:
    return detection.fasterrcnn_mobilenet_v3_large_fpn(
        weights=None, weights_backbone=None, num_classes=n_labels
    )


_PYRAMID = (4, 8, 16, 32, 64)

ARCHITECTURES: dict[str, Architecture] = {
    "light": Architecture(light_parts, LightBackbone.strides, learning_rate=1e-3),
    "mobilenet_v3_large_fpn": Architecture(
        _mobilenet,
        (32, 32, 64),
        sizes_per_level=5,
        stem="backbone.body.0.0",
        learning_rate=5e-4,
        coco="FasterRCNN_MobileNet_V3_Large_FPN_Weights",
    ),
    "resnet18_fpn": Architecture(
        _resnet("resnet18"), _PYRAMID, stem="backbone.body.conv1", learning_rate=2e-4
    ),
    "resnet34_fpn": Architecture(_resnet("resnet34"), _PYRAMID, stem="backbone.body.conv1"),
    "resnet50_fpn": Architecture(
        _resnet("resnet50"), _PYRAMID, stem="backbone.body.conv1", coco="FasterRCNN_ResNet50_FPN_Weights"
    ),
    "resnet50_fpn_v2": Architecture(
        _resnet50_v2,
        _PYRAMID,
        rpn_depth=2,
        stem="backbone.body.conv1",
        coco="FasterRCNN_ResNet50_FPN_V2_Weights",
    ),
    "resnet101_fpn": Architecture(_resnet("resnet101"), _PYRAMID, stem="backbone.body.conv1"),
}


def architecture(name: str) -> Architecture:
    """An entry of the registry by name.

    Raises:
        ParameterError: No such architecture; the message lists those there are.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise ParameterError(
            f"expected an architecture out of {', '.join(ARCHITECTURES)}, got {name!r}"
        ) from None


def build_network(spec: DetectorSpec) -> GreyFasterRCNN:
    """A network with random weights as described by `spec`.

    Raises:
        ParameterError: Unknown architecture, or anchors for another number of levels.
    """
    entry = architecture(spec.architecture)
    if len(spec.anchor_sizes) != len(entry.strides):
        raise ParameterError(
            f"{spec.architecture} has {len(entry.strides)} levels, "
            f"got anchor sizes for {len(spec.anchor_sizes)}"
        )
    parts = entry.build(len(spec.class_names))
    parts.rpn.anchor_generator = _anchors(spec.anchor_sizes, spec.aspect_ratios)
    parts.rpn.head = ExactRPNHead(
        parts.backbone.out_channels,
        parts.rpn.anchor_generator.num_anchors_per_location()[0],
        conv_depth=entry.rpn_depth,
    )
    net = GreyFasterRCNN(parts)
    if entry.stem:
        owner, _, name = entry.stem.rpartition(".")
        setattr(net.get_submodule(owner), name, _grey_stem(net.get_submodule(entry.stem)))
    return net


def _anchors(sizes: tuple[tuple[float, ...], ...], ratios: tuple[float, ...]) -> AnchorGenerator:
    return AnchorGenerator(tuple(tuple(level) for level in sizes), (tuple(ratios),) * len(sizes))


def batch_norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    """All batch normalisations of a network."""
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def freeze_batch_norm(net: nn.Module) -> None:
    """Make batch normalisation a fixed affine map: statistics and parameters stay what they are.

    Call it before training starts, since a distributed training fixes the list of parameters that
    have gradients then; `train()` puts the layers back into training mode, so `eval()` them after it.
    """
    for module in batch_norms(net):
        module.eval()
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
