"""Augmentation of a padded batch, on whatever device it lies.

Geometry goes through `torchvision.transforms.v2` so that pixels and boxes move together;
intensity is one look-up table an image. What an image gets is drawn from
`(seed, epoch, position)`, not from a global generator: the same in any process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from cxr.detector.data.batches import padded
from cxr.detector.recipe import Augmentation
from cxr.errors import ParameterError
from cxr.schema import ClassTable

MIN_SIDE = 1.0
"""Shortest side, in network pixels, of a box to learn; one that augmentation makes smaller is left out."""


@dataclass(frozen=True)
class Mirror:
    """What a mirror image does to labels.

    Attributes:
        labels: The label each label becomes, by label, 0 (background) included; for pairs such as
            right and left lung. Empty leaves labels alone.
        bound: Labels that fix the side: an image with one of them is never mirrored.
    """

    labels: tuple[int, ...] = ()
    bound: tuple[int, ...] = ()


def mirror_of(classes: ClassTable, flip_bound: Sequence[str] = ()) -> Mirror:
    """How images of these classes are mirrored.

    Args:
        classes: The data set's classes.
        flip_bound: Names of findings that are bound to a side.

    Raises:
        ParameterError: A name is none of a finding.
    """
    names = classes.finding_names
    for name in flip_bound:
        if name not in names:
            raise ParameterError(f"flip_bound: expected names of findings {names}, got {name!r}")
    return Mirror(mirror_labels(classes), tuple(names.index(name) + 1 for name in flip_bound))


def mirror_labels(classes: ClassTable) -> tuple[int, ...]:
    """The label of each label's mirror image: classes that differ by right/left only swap.

    Returns:
        For each detector label, 0 (background) included, the label after a mirror flip.
    """
    names = [name.lower() for name in classes.finding_names]
    swapped = [0]
    for place, name in enumerate(names):
        mirror = re.sub(r"\b(left|right)\b", lambda m: "left" if m[0] == "right" else "right", name)
        swapped.append((names.index(mirror) if mirror in names else place) + 1)
    return tuple(swapped)


def augment_batch(
    images: Tensor,
    sizes: Sequence[tuple[int, int]],
    targets: Sequence[dict[str, Tensor]],
    keys: Sequence[tuple[int, int]],
    *,
    augmentation: Augmentation,
    mirror: Mirror,
    seed: int,
    factor: float = 1.0,
) -> tuple[Tensor, list[tuple[int, int]], list[dict[str, Tensor]]]:
    """A batch as it would look from elsewhere, under another exposure.

    Args:
        images: uint8 (B, 1, H, W), left as it is.
        sizes: The part of each that is image.
        targets: boxes (N, 4) in network pixels, labels (N,), box_weights (N,).
        keys: (epoch, position) of each image.
        augmentation: What to do.
        mirror: What a mirror image does to labels.
        seed: Any integer from 0.
        factor: New size of the whole batch relative to its own, see `draw_factor`; 1 keeps its pixels.

    Returns:
        Images float32 in [0, 1], sizes, targets.
    """
    changed = torch.zeros(images.shape, dtype=torch.float32, device=images.device)
    moved: list[dict[str, Tensor]] = []
    for place, ((rows, columns), key, target) in enumerate(zip(sizes, keys, targets, strict=True)):
        rng = np.random.default_rng([seed, *key, 1])
        image = images[place, :, :rows, :columns]
        image, target = _geometry(image, target, augmentation, mirror, rng)
        changed[place, :, :rows, :columns] = _intensity(image, augmentation, rng)
        moved.append(target)
    new_sizes = list(sizes)
    if factor != 1:
        changed, new_sizes, moved = _resize(changed, sizes, moved, factor)
    return changed, new_sizes, [_large_enough(target) for target in moved]


def draw_factor(factors: Sequence[float], *, seed: int, key: tuple[int, int]) -> float:
    """The size of one batch out of `factors`; `key` is its epoch and step."""
    rng = np.random.default_rng([seed, *key, 2])
    return factors[int(rng.integers(len(factors)))]


def _large_enough(target: dict[str, Tensor]) -> dict[str, Tensor]:
    """The boxes with both sides of a pixel or more: the logarithm of a thinner one spoils the loss."""
    boxes = target["boxes"]
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIDE).all(dim=1)
    return {name: value[keep] for name, value in target.items()}


def _geometry(
    image: Tensor,
    target: dict[str, Tensor],
    augmentation: Augmentation,
    mirror: Mirror,
    rng: np.random.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    rows, columns = image.shape[-2:]
    boxes, labels, box_weights = target["boxes"], target["labels"], target["box_weights"]
    boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(rows, columns))
    bound = bool(set(labels.tolist()) & set(mirror.bound))
    if rng.random() < augmentation.hflip and not bound:
        image, boxes = v2.horizontal_flip(image), v2.horizontal_flip(boxes)
        if mirror.labels:
            labels = torch.tensor(mirror.labels, device=labels.device)[labels]
    angle = float(rng.uniform(-1, 1)) * augmentation.rotate_deg
    scale = float(np.exp(rng.uniform(*np.log(augmentation.scale))))
    wish = rng.uniform(-1, 1, size=2) * augmentation.shift
    if angle == 0 and scale == 1 and not wish.any():
        return image, {"boxes": boxes.as_subclass(Tensor), "labels": labels, "box_weights": box_weights}

    scale, dx, dy = _keep_whole(boxes.as_subclass(Tensor), (rows, columns), scale, wish)
    move = {"angle": angle, "translate": [dx, dy], "scale": scale, "shear": [0.0, 0.0]}
    image = v2.affine(image, interpolation=InterpolationMode.BILINEAR, **move)
    boxes = v2.clamp_bounding_boxes(v2.affine(boxes, **move)).as_subclass(Tensor)
    return image, {"boxes": boxes, "labels": labels, "box_weights": box_weights}


def _keep_whole(
    boxes: Tensor, size: tuple[int, int], scale: float, wish: np.ndarray
) -> tuple[float, int, int]:
    """Zoom and whole-pixel shift nearest to those drawn under which the boxes stay inside.

    The zoom is about the image's centre. Where the boxes' hull would not fit at that zoom,
    the zoom shrinks to the largest that does, but not below 1.
    """
    rows, columns = size
    centre = np.array([columns, rows]) / 2
    shift = wish * [columns, rows]
    if len(boxes) == 0:
        return scale, round(float(shift[0])), round(float(shift[1]))
    hull = boxes.cpu().numpy().astype(np.float64)
    low, high = hull[:, :2].min(axis=0) - centre, hull[:, 2:].max(axis=0) - centre
    scale = min(scale, max(1.0, float((2 * centre / np.maximum(high - low, 1e-6)).min())))
    least, most = -centre - low * scale, centre - high * scale
    # A hull as wide as the image leaves no room: least may exceed most by rounding.
    shift = np.clip(shift, np.minimum(least, most), np.maximum(least, most))
    return scale, round(float(shift[0])), round(float(shift[1]))


def _intensity(image: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Contrast about the middle, brightness, gamma and noise; float32 in [0, 1]."""
    contrast, brightness, exponent = rng.uniform(-1, 1, size=3)
    values = np.linspace(0, 1, 256)
    values = (
        (values - 0.5) * (1 + contrast * augmentation.contrast) + 0.5 + brightness * augmentation.brightness
    )
    values = values.clip(0, 1) ** ((1 + augmentation.gamma) ** exponent)
    table = torch.from_numpy(values.astype(np.float32)).to(image.device)
    seen = table[image.long()]
    if augmentation.noise > 0:
        generator = torch.Generator(device=image.device).manual_seed(int(rng.integers(2**62)))
        deviation = float(rng.uniform(0, augmentation.noise))
        noise = torch.randn(seen.shape, generator=generator, device=image.device)
        seen = (seen + deviation * noise).clamp_(0, 1)
    return seen


def _resize(
    images: Tensor, sizes: Sequence[tuple[int, int]], targets: list[dict[str, Tensor]], factor: float
) -> tuple[Tensor, list[tuple[int, int]], list[dict[str, Tensor]]]:
    """The whole batch at another size: resized alike in both directions, then padded anew."""
    rows, columns = (max(1, round(side * factor)) for side in images.shape[-2:])
    y, x = rows / images.shape[-2], columns / images.shape[-1]
    images = functional.interpolate(images, size=(rows, columns), mode="bilinear", antialias=True)
    new_sizes = [(max(1, round(h * y)), max(1, round(w * x))) for h, w in sizes]
    height, width = padded(max(h for h, _ in new_sizes)), padded(max(w for _, w in new_sizes))
    more = (0, max(0, width - columns), 0, max(0, height - rows))
    images = functional.pad(images[..., :height, :width].clamp(0, 1), more)
    ratio = torch.tensor([x, y, x, y], dtype=torch.float32, device=images.device)
    return images, new_sizes, [{**target, "boxes": target["boxes"] * ratio} for target in targets]
