"""What training shows the network, as pictures and as numbers, before hours are spent on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr import schema
from cxr.detector.data.augment import augment_batch, mirror_of
from cxr.detector.data.batches import RadiographDataset, collate
from cxr.detector.data.pixels import ImageSource, class_ids_of
from cxr.detector.data.targets import build_targets
from cxr.detector.recipe import NO_AUGMENTATION, Recipe
from cxr.schema import ClassTable


def augmented_views(
    source: ImageSource,
    targets: pd.DataFrame,
    image_id: str,
    *,
    recipe: Recipe,
    views: int,
    classes: ClassTable = schema.VINBIGDATA,
) -> list[tuple[np.ndarray, pd.DataFrame]]:
    """One training image as stored, and as augmentation shows it in different passes.

    Args:
        source: Where the image is.
        targets: Boxes in original pixels.
        image_id: The image.
        recipe: How the detector will be trained.
        views: Number of pictures; the first is not augmented.
        classes: The data set's classes.

    Returns:
        For each view its pixels, uint8 (H, W), and its boxes (`class_id` and the box columns) in pixels
        of that view.
    """
    image_size = recipe.network.detector_image_size
    mirror = mirror_of(classes, recipe.augmentation.flip_bound)
    target = build_targets(targets, [image_id], source, image_size=image_size, classes=classes)
    dataset = RadiographDataset(source, [image_id], target, image_size=image_size)
    shown = []
    for epoch in range(views):
        batch = collate([dataset[(epoch, 0, 0)]])
        images, sizes, moved = augment_batch(
            batch["images"],
            batch["sizes"],
            batch["targets"],
            batch["keys"],
            augmentation=recipe.augmentation if epoch else NO_AUGMENTATION,
            mirror=mirror,
            seed=recipe.seed,
        )
        rows, columns = sizes[0]
        pixels = (images[0, 0, :rows, :columns].numpy() * 255).round().clip(0, 255).astype(np.uint8)
        boxes = pd.DataFrame(moved[0]["boxes"].numpy(), columns=schema.BOX_COLUMNS)
        boxes.insert(0, schema.CLASS_ID, class_ids_of(moved[0]["labels"].numpy()))
        shown.append((pixels, boxes))
    return shown


def box_shapes(
    source: ImageSource,
    targets: pd.DataFrame,
    image_ids: Sequence[str],
    *,
    image_size: int,
    classes: ClassTable = schema.VINBIGDATA,
) -> pd.DataFrame:
    """Size and shape of the boxes to learn, as the network sees them.

    Args:
        source: Where the images are, for their original sizes.
        targets: Boxes in original pixels.
        image_ids: The images that count.
        image_size: Longer side the network sees, in pixels.
        classes: The data set's classes.

    Returns:
        One row a box: `side_px` (square root of the area, network pixels) and `ratio` (height / width).
    """
    built = build_targets(targets, image_ids, source, image_size=image_size, classes=classes)
    boxes = np.concatenate([np.empty((0, 4), np.float32), *[target.boxes for target in built.values()]])
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return pd.DataFrame({"side_px": np.sqrt(wide * high), "ratio": high / wide})
