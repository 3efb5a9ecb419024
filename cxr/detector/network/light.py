"""A small backbone and narrow heads, for training from nothing on a CPU."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign


class LightBackbone(nn.Module):
    """Six stages of two 3x3 convolutions, each halving the image, under a feature pyramid.

    Made to learn from nothing in minutes on a CPU. The pyramid begins at stride 8: a level at
    stride 4 would take two fifths of a training step, time better spent on a larger image.
    The last stage costs next to nothing and doubles what a place sees, from 187 to 379 pixels, which
    the edges of a lung or a heart need.

    Args:
        channels: Channels of the stages (strides 2, 4, 8, 16, 32, 64).
        out_channels: Channels of the pyramid.
    """

    strides = (8, 16, 32, 64)

    def __init__(
        self, channels: tuple[int, ...] = (16, 24, 48, 96, 128, 128), out_channels: int = 64
    ) -> None:
        super().__init__()
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        before = 1
        for number, width in enumerate(channels):
            stages[f"stage{number}"] = nn.Sequential(
                _conv(before, width, stride=2), _conv(width, width, stride=1)
            )
            before = width
        self.body = nn.ModuleDict(stages)
        self.fpn = FeaturePyramidNetwork(list(channels[2:]), out_channels)
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps "0" to "3" at strides 8, 16, 32 and 64."""
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for number, stage in enumerate(self.body.values()):
            images = stage(images)
            if number > 1:
                maps[str(number - 2)] = images
        return self.fpn(maps)


def _conv(before: int, after: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def light_parts(n_labels: int) -> FasterRCNN:
    """The light network with few proposals and a narrow head, as torchvision's class puts it together.

    Args:
        n_labels: Labels, the background included.
    """
    backbone = LightBackbone()
    pool = MultiScaleRoIAlign(featmap_names=["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((32.0,),) * 4, ((0.5, 1.0, 2.0),) * 4),
        box_roi_pool=pool,
        box_head=TwoMLPHead(backbone.out_channels * 7 * 7, 128),
        box_predictor=FastRCNNPredictor(128, n_labels),
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=128,
        box_batch_size_per_image=64,
    )
