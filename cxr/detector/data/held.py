"""Images in memory behind the interface of an image store."""

from __future__ import annotations

import numpy as np


class HeldImages:
    """Images in memory behind the interface of an image store."""

    def __init__(self) -> None:
        self._images: dict[str, tuple[np.ndarray, tuple[int, int]]] = {}

    def add(self, image_id: str, pixels: np.ndarray, original_size: tuple[int, int]) -> None:
        """Hold one image, uint8 (H, W), with the (rows, columns) of its file."""
        self._images[image_id] = pixels, (int(original_size[0]), int(original_size[1]))

    @property
    def ids(self) -> list[str]:
        """Ids in the order added."""
        return list(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._images

    def __getitem__(self, image_id: str) -> np.ndarray:
        return self._images[image_id][0]

    def original_size(self, image_id: str) -> tuple[int, int]:
        """(rows, columns) of the file."""
        return self._images[image_id][1]
