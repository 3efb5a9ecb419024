"""From an image source and a table of boxes to batches a detector can learn from.

Two pixel grids meet here. *Original* pixels are those of the annotated file; *network*
pixels are those of the image the network sees, whose longer side is `image_size`. The
two functions `to_network` and `to_original` are the only way from one to the other.

Detector labels start at 1, because 0 is the background of Faster R-CNN; `labels_of` and
`class_ids_of` are the only mapping between them and class ids.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from cxr import schema
from cxr.errors import AnnotationError, DataError
from cxr.schema import ClassTable

log = logging.getLogger("cxr")

PAD_MULTIPLE = 32
"""Batches are padded to a multiple of this many pixels, the stride of the deepest stage."""

LABEL_MODES = ("fused", "every_reader", "agreement")


class ImageSource(Protocol):
    """What training and prediction need from an image store."""

    def __contains__(self, image_id: object) -> bool:
        """Whether the source holds the image."""

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Pixels of one image, uint8 (H, W)."""

    def original_size(self, image_id: str) -> tuple[int, int]:
        """Size of the annotated image, (rows, columns)."""


def labels_of(class_ids: np.ndarray) -> np.ndarray:
    """Detector labels (1 and up) of class ids (0 and up)."""
    return np.asarray(class_ids, dtype=np.int64) + 1


def class_ids_of(labels: np.ndarray) -> np.ndarray:
    """Class ids (0 and up) of detector labels (1 and up)."""
    return np.asarray(labels, dtype=np.int64) - 1


def network_size(size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Size of an image as the network sees it: the longer side is `image_size`, aspect kept.

    Args:
        size: (rows, columns) of the image.
        image_size: Longer side in network pixels.

    Returns:
        (rows, columns), each at least 1.
    """
    scale = image_size / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def to_network(boxes: np.ndarray, original: tuple[int, int], network: tuple[int, int]) -> np.ndarray:
    """Boxes in original pixels as boxes in network pixels, float32 (N, 4); the input is kept."""
    return _rescale(boxes, original, network)


def to_original(boxes: np.ndarray, original: tuple[int, int], network: tuple[int, int]) -> np.ndarray:
    """Boxes in network pixels as boxes in original pixels, clipped to the image; float32 (N, 4)."""
    rescaled = _rescale(boxes, network, original)
    rescaled[:, 0::2] = rescaled[:, 0::2].clip(0, original[1])
    rescaled[:, 1::2] = rescaled[:, 1::2].clip(0, original[0])
    return rescaled


def _rescale(boxes: np.ndarray, source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    y, x = target[0] / source[0], target[1] / source[1]
    return (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * [x, y, x, y]).astype(np.float32)


def network_image(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """An image resized for the network: by area when it shrinks, linearly when it grows.

    Args:
        pixels: uint8 (H, W).
        image_size: Longer side in network pixels.

    Returns:
        uint8 (h, w) with `max(h, w) == image_size`.
    """
    rows, columns = network_size(pixels.shape, image_size)
    if (rows, columns) == pixels.shape:
        return np.ascontiguousarray(pixels)
    method = cv2.INTER_AREA if max(pixels.shape) > image_size else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(pixels), (columns, rows), interpolation=method)


@dataclass(frozen=True)
class Target:
    """What one image shows, in network pixels.

    Attributes:
        boxes: float32 (N, 4), every box with a positive area and inside the image.
        labels: int64 (N,), detector labels.
        weights: float32 (N,), how much each box counts in the loss.
    """

    boxes: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def build_targets(
    table: pd.DataFrame,
    image_ids: Sequence[str],
    source: ImageSource,
    *,
    image_size: int,
    classes: ClassTable = schema.VINBIGDATA,
    label_mode: str = "fused",
) -> dict[str, Target]:
    """Targets of the images named, from a table of boxes in original pixels.

    Rows of the normal class and rows without a box make no box; an image without any is a
    legal negative. Boxes are clipped to their image; those with no area left and those that
    are not finite are dropped, and their number is logged.

    Args:
        table: `schema.ANNOTATION_COLUMNS` or `schema.CONSENSUS_COLUMNS`, original pixels.
        image_ids: Images to make targets for.
        source: Where the images are, for their original sizes.
        image_size: Longer side of the network's image, in pixels.
        classes: The data set's classes.
        label_mode: "fused" and "every_reader" take the rows as they are, each box with
            weight 1; "agreement" weights a box by the share of readers who drew it.

    Returns:
        A target for every image id, in the order given.

    Raises:
        AnnotationError: A column is missing or a class id is not in the table of classes.
        DataError: An image is not in the source.
    """
    needed = [schema.IMAGE_ID, schema.CLASS_ID, *schema.BOX_COLUMNS]
    if label_mode == "agreement":
        needed.append("agreement")
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise AnnotationError(f"expected columns {needed} for label_mode={label_mode!r}, missing {missing}")
    absent = [image_id for image_id in image_ids if image_id not in source]
    if absent:
        raise DataError(f"{len(absent)} images are not in the image store, first {absent[0]!r}")

    rows = table[table[schema.IMAGE_ID].isin(set(image_ids)) & (table[schema.CLASS_ID] != classes.normal_id)]
    strange = rows[~rows[schema.CLASS_ID].isin(list(classes.finding_ids))]
    if len(strange):
        first = strange.iloc[0]
        raise AnnotationError(
            f"image {first[schema.IMAGE_ID]!r} has class_id {first[schema.CLASS_ID]}, "
            f"expected 0..{classes.normal_id}"
        )
    weights = (
        rows["agreement"].to_numpy(np.float32)
        if label_mode == "agreement"
        else np.ones(len(rows), np.float32)
    )
    boxes = rows[schema.BOX_COLUMNS].to_numpy(np.float64)
    labels = labels_of(rows[schema.CLASS_ID].to_numpy())
    places = rows.groupby(schema.IMAGE_ID, sort=False).indices

    targets: dict[str, Target] = {}
    dropped = 0
    for image_id in image_ids:
        place = places.get(image_id, np.empty(0, dtype=np.int64))
        original = source.original_size(image_id)
        size = network_size(original, image_size)
        scaled = to_network(boxes[place], original, size)
        scaled[:, 0::2] = scaled[:, 0::2].clip(0, size[1])
        scaled[:, 1::2] = scaled[:, 1::2].clip(0, size[0])
        keep = usable(scaled)
        dropped += int((~keep).sum())
        targets[image_id] = Target(scaled[keep], labels[place][keep], weights[place][keep])
    if dropped:
        log.warning("left out %d of %d boxes without area or with missing coordinates", dropped, len(rows))
    return targets


def usable(boxes: np.ndarray, *, min_side: float = 1e-3) -> np.ndarray:
    """Which boxes can be learned from: finite, and both sides longer than `min_side` pixels; bool (N,)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    with np.errstate(invalid="ignore"):
        return np.isfinite(boxes).all(axis=1) & (sides > min_side).all(axis=1)


class RadiographDataset(Dataset):
    """Images with targets, addressed by `(epoch, position, index)`.

    The key, not the process, decides what augmentation an image gets: the same key gives
    the same picture in any worker, and after any number of resumes.

    Args:
        source: Image source.
        image_ids: The images, in the order of `index`.
        targets: A target for each image; None for prediction.
        image_size: Longer side in network pixels.
        cache_mib: Resized images are kept in memory while they take no more than this many
            MiB together; for a store of large images and a small network this saves most
            of the loading. One cache a worker.
    """

    def __init__(
        self,
        source: ImageSource,
        image_ids: Sequence[str],
        targets: Mapping[str, Target] | None,
        *,
        image_size: int,
        cache_mib: int = 512,
    ) -> None:
        self.source = source
        self.image_ids = list(image_ids)
        self.targets = targets
        self.image_size = image_size
        self._cache: dict[str, np.ndarray] = {}
        self._room = cache_mib * 2**20

    def __len__(self) -> int:
        return len(self.image_ids)

    def pixels(self, image_id: str) -> np.ndarray:
        """One image at network size, uint8 (h, w)."""
        image = self._cache.get(image_id)
        if image is None:
            image = network_image(self.source[image_id], self.image_size)
            # The stored image was rounded once already: the size must follow from the original's.
            size = network_size(self.source.original_size(image_id), self.image_size)
            if image.shape != size:
                image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
            if image.nbytes <= self._room:
                self._room -= image.nbytes
                self._cache[image_id] = image
        return image

    def __getitem__(self, key: tuple[int, int, int] | int) -> dict[str, Any]:
        epoch, position, index = key if isinstance(key, tuple) else (0, key, key)
        image_id = self.image_ids[index]
        item: dict[str, Any] = {
            "image_id": image_id,
            "image": self.pixels(image_id),
            "original_size": self.source.original_size(image_id),
            "key": (epoch, position),
        }
        if self.targets is not None:
            item["target"] = self.targets[image_id]
        return item

    def sizes(self) -> np.ndarray:
        """Network size of every image without reading one, int (N, 2)."""
        return np.array(
            [network_size(self.source.original_size(i), self.image_size) for i in self.image_ids],
            dtype=np.int64,
        ).reshape(-1, 2)


def padded(size: int) -> int:
    """The next multiple of `PAD_MULTIPLE`."""
    return -(-size // PAD_MULTIPLE) * PAD_MULTIPLE


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Items as one batch: images padded with zeros at the right and the bottom.

    Returns:
        images: uint8 (B, 1, H, W). sizes: the part of each that is image, a list of
        (h, w). image_ids, original_sizes, keys: lists. targets: list of dicts of tensors
        boxes (N, 4), labels (N,), weights (N,); only where the items have targets.
    """
    sizes = [tuple(item["image"].shape) for item in items]
    height, width = padded(max(s[0] for s in sizes)), padded(max(s[1] for s in sizes))
    images = np.zeros((len(items), 1, height, width), dtype=np.uint8)
    for place, (item, (h, w)) in enumerate(zip(items, sizes, strict=True)):
        images[place, 0, :h, :w] = item["image"]
    batch: dict[str, Any] = {
        "images": torch.from_numpy(images),
        "sizes": sizes,
        "image_ids": [item["image_id"] for item in items],
        "original_sizes": [item["original_size"] for item in items],
        "keys": [item["key"] for item in items],
    }
    if "target" in items[0]:
        batch["targets"] = [
            {
                "boxes": torch.from_numpy(item["target"].boxes),
                "labels": torch.from_numpy(item["target"].labels),
                "weights": torch.from_numpy(item["target"].weights),
            }
            for item in items
        ]
    return batch


def like_shape_batches(sizes: np.ndarray, batch_size: int) -> list[list[int]]:
    """Every image once, batched with images of the same padded shape.

    An image then has the same padding whatever the batch size, so the network's answer
    does not depend on its neighbours.

    Args:
        sizes: int (N, 2), network sizes.
        batch_size: Largest batch.

    Returns:
        Lists of indices; together each index exactly once.
    """
    shapes: dict[tuple[int, int], list[int]] = {}
    for index, (rows, columns) in enumerate(sizes.tolist()):
        shapes.setdefault((padded(rows), padded(columns)), []).append(index)
    return [
        members[start : start + batch_size]
        for members in shapes.values()
        for start in range(0, len(members), batch_size)
    ]


def make_loader(
    dataset: RadiographDataset, batches: Any, *, num_workers: int, pin_memory: bool = False
) -> DataLoader:
    """A loader over given batches of keys; with no workers it loads in this process."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers > 0 else None,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    """OpenCV's own threads, in each of several workers, would fight over the cores."""
    cv2.setNumThreads(0)


def detection_table(found: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """Detections as a table with `schema.DETECTION_COLUMNS`.

    Args:
        found: For each image its id, boxes float (N, 4) in original pixels, detector
            labels (N,), scores (N,).
    """
    counts = [len(scores) for _, _, _, scores in found]
    boxes = np.concatenate([np.empty((0, 4), np.float32), *[b for _, b, _, _ in found]])
    table = pd.DataFrame(
        {
            schema.IMAGE_ID: np.repeat(np.array([i for i, *_ in found], dtype=object), counts).astype(object),
            schema.CLASS_ID: class_ids_of(
                np.concatenate([np.empty(0, np.int64), *[n for _, _, n, _ in found]])
            ),
            schema.SCORE: np.concatenate([np.empty(0, np.float32), *[s for *_, s in found]]).astype(
                np.float64
            ),
        }
    )
    for place, name in enumerate(schema.BOX_COLUMNS):
        table[name] = boxes[:, place].astype(np.float64)
    return table[schema.DETECTION_COLUMNS]
