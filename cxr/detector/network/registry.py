"""The networks by name. A new one is a line in `ARCHITECTURES`; those of timm need none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from cxr.detector.network.base import DetectionNetwork
from cxr.detector.network.dense import RESNET_STRIDES, fcos, resnet50_pyramid, retinanet
from cxr.detector.network.faster_rcnn import faster_rcnn, mobilenet_parts, resnet50_v2_parts, resnet_parts
from cxr.detector.network.grey import IMAGENET, ColourScale, grey_stem
from cxr.detector.network.light import LightBackbone, light_parts
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.network.timm_backbone import PREFIX as TIMM
from cxr.detector.network.timm_backbone import describe, faster_rcnn_parts
from cxr.errors import ParameterError


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry.

    Attributes:
        build: Makes the network with random weights.
        strides: Pixels between two places on each level of the pyramid, fine to coarse.
        sizes_per_level: Anchor sizes on each level when fitted; 0 for a family without anchors.
        stem: Path of the first convolution where it is made for three colours; empty for none.
        colour: How its published weights were trained to see colours.
        learning_rate: For AdamW at batch size 4; other sizes follow from it.
        coco: Name of torchvision's published weights for the whole detector; empty for none.
        timm: Name in timm, which publishes weights for the backbone; empty for none.
        tiles: Whether a CPU with tiles for 16 bits trains it faster in them.
        phantom: File of weights that ship with the package (`checkpoints.shipped`); empty for none.
    """

    build: Callable[[DetectorSpec], DetectionNetwork]
    strides: tuple[int, ...]
    sizes_per_level: int = 1
    stem: str = ""
    colour: ColourScale = IMAGENET
    learning_rate: float = 1e-4
    coco: str = ""
    timm: str = ""
    tiles: bool = False
    phantom: str = ""


def _light(build: Callable[[DetectorSpec], DetectionNetwork], *, sizes_per_level: int) -> Architecture:
    """A family over the light backbone."""
    return Architecture(
        build,
        LightBackbone.strides,
        sizes_per_level=sizes_per_level,
        learning_rate=1e-3,
        tiles=True,
        phantom="light-6de82565.pth",
    )


_PYRAMID = (4, 8, 16, 32, 64)
_RESNET_STEM = "backbone.body.conv1"

ARCHITECTURES: dict[str, Architecture] = {
    "light": _light(faster_rcnn(light_parts), sizes_per_level=1),
    "light_retinanet": _light(retinanet(), sizes_per_level=2),
    "light_fcos": _light(fcos(), sizes_per_level=0),
    "mobilenet_v3_large_fpn": Architecture(
        faster_rcnn(mobilenet_parts),
        (32, 32, 64),
        sizes_per_level=5,
        stem="backbone.body.0.0",
        learning_rate=5e-4,
        coco="FasterRCNN_MobileNet_V3_Large_FPN_Weights",
    ),
    "resnet18_fpn": Architecture(
        faster_rcnn(resnet_parts("resnet18")), _PYRAMID, stem=_RESNET_STEM, learning_rate=2e-4
    ),
    "resnet34_fpn": Architecture(faster_rcnn(resnet_parts("resnet34")), _PYRAMID, stem=_RESNET_STEM),
    "resnet50_fpn": Architecture(
        faster_rcnn(resnet_parts("resnet50")),
        _PYRAMID,
        stem=_RESNET_STEM,
        coco="FasterRCNN_ResNet50_FPN_Weights",
    ),
    "resnet50_fpn_v2": Architecture(
        faster_rcnn(resnet50_v2_parts, rpn_depth=2),
        _PYRAMID,
        stem=_RESNET_STEM,
        coco="FasterRCNN_ResNet50_FPN_V2_Weights",
    ),
    "retinanet_resnet50_fpn_v2": Architecture(
        retinanet(resnet50_pyramid),
        RESNET_STRIDES,
        sizes_per_level=3,
        stem=_RESNET_STEM,
        coco="RetinaNet_ResNet50_FPN_V2_Weights",
    ),
    "fcos_resnet50_fpn": Architecture(
        fcos(resnet50_pyramid, RESNET_STRIDES, depth=4),
        RESNET_STRIDES,
        sizes_per_level=0,
        stem=_RESNET_STEM,
        coco="FCOS_ResNet50_FPN_Weights",
    ),
    "resnet101_fpn": Architecture(faster_rcnn(resnet_parts("resnet101")), _PYRAMID, stem=_RESNET_STEM),
}


def architecture(name: str) -> Architecture:
    """An entry of the registry by name; `timm/` before a name of timm takes its network.

    Raises:
        ParameterError: No such architecture; the message lists those there are.
    """
    if name.startswith(TIMM):
        return _of_timm(name.removeprefix(TIMM))
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise ParameterError(
            f"architecture_name: expected one of {', '.join(ARCHITECTURES)}, {TIMM}..., got {name!r}"
        ) from None


def _of_timm(name: str) -> Architecture:
    facts = describe(name)
    return Architecture(
        faster_rcnn(faster_rcnn_parts(facts)),
        facts.strides,
        stem=facts.stem,
        colour=facts.colour,
        learning_rate=5e-4 if facts.small else 1e-4,
        timm=name,
    )


def build_network(spec: DetectorSpec) -> DetectionNetwork:
    """A network with random weights as described by `spec`.

    Raises:
        ParameterError: Unknown architecture, or anchors for another number of levels.
    """
    entry = architecture(spec.architecture)
    levels = len(entry.strides) if entry.sizes_per_level else 0
    if len(spec.anchor_sizes) != levels:
        raise ParameterError(
            f"{spec.architecture} has {levels} levels, got anchor sizes for {len(spec.anchor_sizes)}"
        )
    net = entry.build(spec)
    if entry.stem:
        owner, _, name = entry.stem.rpartition(".")
        colour = net.get_submodule(entry.stem)
        assert isinstance(colour, nn.Conv2d)
        setattr(net.get_submodule(owner), name, grey_stem(colour, entry.colour))
    return net
