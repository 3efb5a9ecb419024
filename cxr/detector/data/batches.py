"""Images and their targets as batches of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cxr.detector.data.pixels import ImageSource, network_image, network_size
from cxr.detector.data.targets import Target

PAD_MULTIPLE = 32
"""Batches are padded to a multiple of this many pixels, the stride of the deepest stage."""


class RadiographDataset(Dataset[dict[str, Any]]):
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
        boxes (N, 4), labels (N,), box_weights (N,); only where the items have targets.
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
                "box_weights": torch.from_numpy(item["target"].box_weights),
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
) -> DataLoader[dict[str, Any]]:
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
