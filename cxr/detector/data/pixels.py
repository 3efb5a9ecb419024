"""Two pixel grids and the only ways from one to the other.

*Original* pixels are those of the annotated file. *Network* pixels are those of the image that the
network sees, whose longer side is the detector's image size. `to_network` and `to_original` convert
boxes between them.

Detector labels start at 1, because 0 is the background of Faster R-CNN. `labels_of` and
`class_ids_of` are the only mapping between labels and class ids.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np


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
