"""What every family of detectors has in common: a backbone, losses by name, and detections.

A new family is one module with a subclass of `DetectionNetwork`, and one line in `registry`. Data,
training, checkpoints and prediction know no more of a network than this class says.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from cxr.detector.network.grey import normalise
from cxr.detector.network.spec import Answers
from cxr.errors import PredictionError

Detections = dict[str, Tensor]
"""What a network finds on one image, best first: `boxes` (N, 4) in network pixels, `labels` (N,) from 1,
`scores` (N,) in [0, 1]."""


class DetectionNetwork(nn.Module):
    """A detector over a padded batch of one-channel images.

    Under autocast convolutions and linear layers work in 16 bits, but boxes never do: bfloat16
    has 8 bits of precision, which beyond 512 px is a grid of 4 px on which small boxes vanish.

    Attributes:
        backbone: From images (B, 1, H, W) to feature maps by name.
    """

    backbone: nn.Module

    def losses(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Scalar losses by name; training minimises their sum.

        Args:
            images: Normalised, with the part of each that is not padding.
            features: Of `backbone`, float32.
            targets: For each image `boxes` (N, 4) in network pixels, `labels` int64 (N,) from 1 and
                `box_weights` float32 (N,), how much each box counts.
        """
        raise NotImplementedError

    def detections(self, images: ImageList, features: dict[str, Tensor]) -> list[Detections]:
        """What the network finds on each image; arguments as for `losses`."""
        raise NotImplementedError

    def set_answers(self, answers: Answers) -> None:
        """Set which boxes `detections` gives."""
        raise NotImplementedError

    def forward(
        self,
        images: Tensor,
        sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses in training, detections otherwise.

        Args:
            images: (B, 1, H, W), uint8 or float in [0, 1]; H and W multiples of 32.
            sizes: The part of each image that is not padding, (h, w).
            targets: For training, see `losses`.

        Raises:
            PredictionError: What the backbone gives is not finite. (In training the loss tells.)
        """
        listed = ImageList(normalise(images, sizes), list(sizes))
        # Anchors, proposals and targets take their precision from the feature maps.
        features = {name: level.float() for name, level in self.backbone(listed.tensors).items()}
        if not self.training and not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            _check_finite(features)
        if self.training:
            return self.losses(listed, features, targets or [])
        return self.detections(listed, features)


def _check_finite(features: dict[str, Tensor]) -> None:
    """A network whose maps are not numbers finds nothing, which must not pass for an answer."""
    for name, level in features.items():
        if not torch.isfinite(level).all():
            raise PredictionError(
                f"expected finite feature maps, got NaN or infinity in level {name!r} of the backbone; "
                "the weights are damaged, or 16 bits are too few for them"
            )


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


def freeze_early(net: DetectionNetwork) -> None:
    """Make the first layers of a backbone stay what they are, where it says which (`early_parameters`).

    They take a large part of a step, and given weights see edges and spots there as well as they ever will.
    Call it as `freeze_batch_norm`, before training starts.
    """
    early: Callable[[], list[nn.Parameter]] | None = getattr(net.backbone, "early_parameters", None)
    for parameter in early() if early is not None else []:
        parameter.requires_grad_(False)


def trainable(net: nn.Module) -> int:
    """Number of parameters that training changes."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
