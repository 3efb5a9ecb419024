"""What a detector is, and which boxes it gives, in plain data: enough to build its network again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cxr.errors import CheckpointError
from cxr.schema import ClassTable


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


@dataclass(frozen=True)
class Answers:
    """Which boxes a network gives; torchvision's own choice is meant for pictures, not for scores.

    Attributes:
        score_threshold: Boxes scored lower are left out; low, since a weak box costs no average precision
            and sometimes hits.
        max_boxes: Most boxes an image.
        nms_iou: A box that overlaps a better one of its class by more is left out.
    """

    score_threshold: float = 0.005
    max_boxes: int = 300
    nms_iou: float = 0.5
