"""Any backbone of timm that gives a feature pyramid, under torchvision's Faster R-CNN.

Small backbones get the narrow heads and the few proposals of the light network, so that a CPU can train them;
large ones get torchvision's own. timm is an extra: it is imported where a network of its is asked for.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from cxr.detector.network.grey import GREY_MEAN, GREY_STD, ColourScale
from cxr.detector.network.light import light_parts
from cxr.errors import ParameterError

PREFIX = "timm/"
"""Begins the names of these networks in the registry."""

SMALL = 10_000_000
"""A backbone with fewer parameters gets the light network's heads."""

_COARSEST = 32  # pixels between two places of a map; images are padded to multiples of it
_PROBE = (128, 192)  # pixels of an image that tells which maps a network gives; no network's own size


@dataclass(frozen=True)
class TimmFacts:
    """What the registry has to know of one of timm's networks.

    Attributes:
        name: In timm.
        levels: Place of each map that is used, among those that timm can give.
        channels: Of these maps.
        strides: Of the pyramid, with one level more than `levels`.
        stem: Path of the first convolution within the detector where it can be folded to grey, else empty.
        colour: How the network wants its colours.
        early: Paths of the parameters before the first map that is used, within the network.
        small: Whether it gets the light network's heads.
        changes: Arguments for timm that let it take images of any size.
    """

    name: str
    levels: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    stem: str
    colour: ColourScale
    early: tuple[str, ...]
    small: bool
    changes: Mapping[str, Any]


class TimmBackbone(nn.Module):
    """One of timm's networks under a feature pyramid.

    Its parameters keep timm's names, below `body`.

    Args:
        facts: Of `describe`.
        out_channels: Channels of the pyramid.
    """

    def __init__(self, facts: TimmFacts, out_channels: int) -> None:
        super().__init__()
        self.body = _network(facts.name, facts.changes)
        prune: Any = self.body.prune_intermediate_layers  # the layers after the last map have no use
        self._indices = list(prune(list(facts.levels)))
        self.fpn = FeaturePyramidNetwork(list(facts.channels), out_channels, LastLevelMaxPool())
        self.out_channels = out_channels
        self._colour = None if facts.stem else facts.colour
        self._early = facts.early

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps "0", "1" and so on, fine to coarse, of normalised grey images (B, 1, H, W)."""
        if self._colour is not None:
            mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (self._colour.mean, self._colour.std))
            images = (images * GREY_STD + GREY_MEAN - mean) / std
        maps = _maps(self.body, self._indices, images)
        pyramid = self.fpn({str(number): level for number, level in enumerate(maps)})
        return {str(number): level for number, level in enumerate(pyramid.values())}

    def early_parameters(self) -> list[nn.Parameter]:
        """Parameters of the layers before the first map of the pyramid."""
        own = dict(self.body.named_parameters())
        return [own[name] for name in self._early]


def faster_rcnn_parts(facts: TimmFacts) -> Callable[[int], FasterRCNN]:
    """Torchvision's Faster R-CNN over one of timm's networks, without weights, for a number of labels."""

    def parts(n_labels: int) -> FasterRCNN:
        if not facts.small:
            return FasterRCNN(TimmBackbone(facts, 256), num_classes=n_labels)
        model = light_parts(n_labels)
        model.backbone = TimmBackbone(facts, model.backbone.out_channels)
        return model

    return parts


@cache
def describe(name: str) -> TimmFacts:
    """What timm's network of this name gives; its weights are not fetched.

    Args:
        name: Of timm, with or without the tag of its weights (`resnet18.a1_in1k`).

    Raises:
        ParameterError: timm is missing or has no such network, or the network gives no feature pyramid for
            images of any size.
    """
    timm = _library()
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 3)
        raise ParameterError(
            f"architecture_name: expected {PREFIX} and one of timm's networks, got {name!r}"
            + (f"; similar: {', '.join(near)}" if near else "")
        )
    body, maps, changes = _probe(name)
    small = sum(parameter.numel() for parameter in body.parameters()) < SMALL
    finest = 8 if small else 4
    by_stride: dict[int, tuple[int, int]] = {}  # of maps with one stride the last has seen most
    for index, level in enumerate(maps):
        stride = _PROBE[0] // level.shape[2]
        if finest <= stride <= _COARSEST and level.shape[2:] == tuple(side // stride for side in _PROBE):
            by_stride[stride] = (index, level.shape[1])
    if len(by_stride) < 2:
        raise ParameterError(
            f"architecture_name: expected a network with maps of several strides, got {PREFIX}{name} with "
            f"{', '.join(str(_PROBE[0] // level.shape[2]) for level in maps)}"
        )
    levels, channels = zip(*by_stride.values(), strict=True)
    settings: dict[str, Any] = body.pretrained_cfg  # type: ignore[assignment]
    stem = settings.get("first_conv")
    return TimmFacts(
        name=name,
        levels=levels,
        channels=channels,
        strides=(*by_stride, 2 * max(by_stride)),
        stem=f"backbone.body.{stem}" if _folds(body, stem) else "",
        colour=ColourScale(tuple(settings["mean"]), tuple(settings["std"])),
        early=_before(body, levels[0] - len(maps)),
        small=small,
        changes=changes,
    )


def _probe(name: str) -> tuple[nn.Module, list[Tensor], dict[str, Any]]:
    """A network, all maps that it makes of one image, and what timm was told for it."""
    reasons = []
    for changes in ({}, {"strict_img_size": False}):  # the second for networks made for one size
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                body = _network(name, changes).eval()
                return body, _maps(body, None, torch.zeros(1, 3, *_PROBE)), changes
        except Exception as error:  # each family of timm raises its own kinds
            reasons.append(next(iter(str(error).splitlines()), type(error).__name__))
    raise ParameterError(
        f"architecture_name: {PREFIX}{name} gives no feature maps for images of any size with timm "
        f"{_library().__version__} ({reasons[0]})"
    )


def pretrained(name: str) -> Mapping[str, Tensor]:
    """The weights that timm publishes for a network, from its cache or over the network.

    Raises:
        OSError, RuntimeError: There are none, or they cannot be fetched.
    """
    timm = _library()
    from huggingface_hub import constants  # comes with timm

    offline = constants.HF_HUB_OFFLINE
    try:
        # Without a network the hub's client tries for a minute and says so ten times; offline it looks into
        # its cache at once.
        constants.HF_HUB_OFFLINE = offline or not _reachable(constants.ENDPOINT)
        return timm.create_model(name, pretrained=True).state_dict()
    finally:
        constants.HF_HUB_OFFLINE = offline


def _reachable(address: str) -> bool:
    if getproxies():
        return True  # the proxy knows the names
    try:
        return bool(socket.getaddrinfo(urlsplit(address).hostname, 443))
    except OSError:
        return False


def _library() -> ModuleType:
    try:
        import timm  # an extra
    except ModuleNotFoundError as error:
        raise ParameterError(
            f"architecture_name: {PREFIX} needs the package timm: pip install 'cxr[timm]'"
        ) from error
    return timm


def _network(name: str, changes: Mapping[str, Any]) -> nn.Module:
    """A network of timm with random weights and no classifier."""
    body: nn.Module = _library().create_model(name, num_classes=0, **changes)
    missing = [m for m in ("forward_intermediates", "prune_intermediate_layers") if not hasattr(body, m)]
    if missing:
        raise TypeError(f"it has no {missing[0]}")
    return body


def _maps(body: nn.Module, indices: list[int] | None, images: Tensor) -> list[Tensor]:
    """The maps at these places, fine to coarse; all for None."""
    look: Any = body.forward_intermediates
    maps: list[Tensor] = look(images, indices=indices, output_fmt="NCHW", intermediates_only=True)
    return maps


def _before(body: nn.Module, level: int) -> tuple[str, ...]:
    """Paths of the parameters that come before the stage that ends in a map, counted from the last."""
    stages: Any = body.feature_info
    begin = f"{stages[level]['module']}."
    names = [name for name, _ in body.named_parameters()]
    first = next((place for place, name in enumerate(names) if name.startswith(begin)), 0)
    return tuple(names[:first])


def _folds(body: nn.Module, stem: Any) -> bool:
    """Whether a network begins with one plain convolution, whose weights can be folded to grey.

    Of others the weights are normalised at each step, or the pixels are rearranged first.
    """
    if not isinstance(stem, str):
        return False
    first = body.get_submodule(stem)
    return type(first).__name__ in ("Conv2d", "Conv2dSame") and bool(first.in_channels == 3)
